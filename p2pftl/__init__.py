"""p2pftl: a peer-to-peer network of digital twins of CT scanners."""

__version__ = "0.1.0"
