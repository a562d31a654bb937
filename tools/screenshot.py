"""Picture of a page for the README, taken with the network cut.

    python tools/screenshot.py reports/demo/index.html docs/report.png

Of page.html#part, the part is what the picture begins with. Run it again when the page has changed.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Route, sync_playwright

FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
SIZE = {"width": 1200, "height": 900}
"""Of the picture, px: in the README two stand side by side."""
COLOURS = 128
"""Of a palette: text and charts need no more, and the file stays a third as large."""


def only_files(route: Route) -> None:
    """Let through what lies on this machine, and nothing else."""
    if route.request.url.startswith(("file:", "data:", "blob:")):
        route.continue_()
    else:
        route.abort()


def take(page: str, browser: str) -> bytes:
    """PNG of a page, light, as it opens."""
    path, _, part = page.partition("#")
    address = Path(path).resolve().as_uri() + (f"#{quote(part)}" if part else "")
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=browser, args=FLAGS)
        shown = opened.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")  # type: ignore[arg-type]
        shown.route("**/*", only_files)
        shown.goto(address)
        shown.wait_for_timeout(500)
        picture = shown.screenshot()
        opened.close()
    return picture


def main() -> None:
    """Take it, and write it under a temporary name first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", help="HTML file, with #part or without")
    parser.add_argument("picture", type=Path, help="PNG file")
    asked = parser.parse_args()
    browser = shutil.which("chromium")
    if browser is None or not Path(asked.page.partition("#")[0]).is_file():
        sys.exit("chromium is not installed." if browser is None else f"{asked.page} is no file.")
    small = Image.open(io.BytesIO(take(asked.page, browser))).convert("RGB").quantize(COLOURS)
    temporary = asked.picture.with_name(f".{asked.picture.name}")
    small.save(temporary, "PNG", optimize=True)
    temporary.replace(asked.picture)
    print(f"{asked.picture}: {asked.picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
