"""Reports on paper: PDF by a Chromium that is installed; nothing of it is a dependency."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ctlib.cli.reports.executed import ReportError
from ctlib.core import replacing, display_path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Names under which it is looked for on the PATH, in this order."""
TIMEOUT_S = 180
"""A page takes seconds; a browser that hangs is ended."""


def browser() -> str:
    """Path of the browser that prints.

    Raises:
        ReportError: none is installed; the sentence says what to install.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ReportError(
            f"No PDF was written: none of {', '.join(BROWSERS)} is on the PATH; install Chromium or Chrome, "
            "or print the HTML report from your own browser."
        )
    return found


def print_pdf(page: Path) -> Path:
    """Print a report as a PDF beside it, under a temporary name first.

    Args:
        page: the HTML file.

    Returns:
        Path of the PDF.

    Raises:
        ReportError: there is no browser, or it did not print; the sentence says what it said.
    """
    target = page.with_suffix(".pdf")
    program = browser()
    with tempfile.TemporaryDirectory(prefix="ctlib-pdf-", ignore_cleanup_errors=True) as folder:
        printed = Path(folder) / target.name
        command = [
            program, "--headless", "--disable-gpu", "--disable-quic", "--disable-background-networking",
            "--no-first-run", f"--user-data-dir={folder}/profile", "--no-pdf-header-footer",
            f"--print-to-pdf={printed}", page.resolve().as_uri(),
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # as root it refuses to start otherwise
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            said = f"it did not end within {TIMEOUT_S} s"
        if not printed.is_file() or not printed.read_bytes().startswith(b"%PDF"):
            raise ReportError(f"{display_path(target)} was not written: {program} printed nothing ({said}).")
        with replacing(target) as waiting:
            shutil.copyfile(printed, waiting)
    return target
