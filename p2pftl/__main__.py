"""`python -m p2pftl` is `p2pftl`."""

from p2pftl.cli import main

if __name__ == "__main__":
    main()
