"""The browser that pages are tested in, where it is installed."""

from pathlib import Path

PATH = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
WHY = f"{PATH} is missing, so pages are NOT tested in a browser: install chromium"
