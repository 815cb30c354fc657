"""Draw the README's pictures from a finished run: `python docs/pictures.py RUN` writes terminal.svg and report.png beside this file.

The terminal is the live view as it stood at a share of the run's virtual time; the report is photographed by a headless Chromium.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from p2pftl.observe import record
from p2pftl.observe.live import Live

HERE = Path(__file__).parent
WIDTH, HEIGHT = 126, 22  # cells
PAGE = (1200, 1420)  # pixels
LARGEST = 300_000  # bytes
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def terminal(run: Path, share: float) -> str:
    """Return the live view of `run` as SVG, at `share` of its virtual time."""
    story = list(record.read(run / record.FILE))
    end = max(event.t for _, event in story) * share
    past = [(wall, event) for wall, event in story if event.t <= end]
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    clock = [past[0][0]]
    live = Live(console, now=lambda: clock[0])
    for wall, event in past:
        clock[0] = wall
        live(event)
    console.print(live.draw(WIDTH, HEIGHT))
    plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # no font from elsewhere
    assert live.board.plan is not None
    return console.export_svg(
        title=f"p2pftl run {live.board.plan.name}.yaml", code_format=plain.replace("Fira Code, ", ""), unique_id="p2pftl"
    )


def photograph(page: Path, picture: Path) -> None:
    """Write the top of the HTML file `page` to the PNG `picture`, in as many colours as fit LARGEST."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("no Chromium on this machine: report.png is left as it was")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        size = f"--window-size={PAGE[0]},{PAGE[1]}"
        command = [browser, *OPTIONS, f"--user-data-dir={folder}/profile", size, f"--screenshot={raw}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        shot = Image.open(raw).convert("RGB")
    for colours in (256, 128, 64, 32):
        shot.quantize(colours, dither=Image.Dither.NONE).save(picture, optimize=True)
        if picture.stat().st_size < LARGEST:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--share", type=float, default=0.6, help="moment of the terminal picture, as share of the virtual time")
    given = parser.parse_args()
    (HERE / "terminal.svg").write_text(terminal(given.run, given.share), encoding="utf-8")
    photograph(given.run / "report.html", HERE / "report.png")


if __name__ == "__main__":
    main()
