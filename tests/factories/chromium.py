"""The browser that pages are tested in, and axe-core, where they can be had."""

import contextlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from ctlib.core.workspace import PROJECT

PATH = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
WHY = f"{PATH} is missing, so pages are NOT tested in a browser: install chromium"
AXE = "axe-core@4.10.3"


@contextlib.contextmanager
def opened(flags=FLAGS, why=WHY):
    """A browser, or a loud skip."""
    if not PATH.is_file():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(PATH), args=list(flags))
        yield browser
        browser.close()


def axe_source() -> str:
    """axe-core's script: packed by npm once, then from .venv. Skips the test, loudly, where there is none."""
    kept = PROJECT / ".venv" / "axe" / f"{AXE}.js"
    if not kept.is_file():
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    ["npm", "pack", AXE, "--json"],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=True,
                )
                archive = Path(folder) / json.loads(done.stdout)[0]["filename"]
                with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as package:
                    script = package.extractfile("package/axe.min.js").read()
            except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
                pytest.skip(
                    f"ACCESSIBILITY IS NOT TESTED: npm cannot pack {AXE} here ({type(error).__name__})"
                )
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(script)
    return kept.read_text(encoding="utf-8")
