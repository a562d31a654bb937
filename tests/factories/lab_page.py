"""A JupyterLab server, and a notebook of it in headless Chromium with the network cut."""

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import numpy as np
from chromium import FLAGS as PLAIN_FLAGS
from chromium import PATH as CHROMIUM
from chromium import opened
from nbformat import v4
from PIL import Image

from ctlib.core.workspace import PROJECT

FLAGS = [
    *PLAIN_FLAGS, "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-gpu-watchdog",  # on a busy machine it ends the renderer, and the canvas stays black
]  # fmt: skip
NO_CHROMIUM = f"NOTHING OF THE VIEWER IS TESTED IN A BROWSER: {CHROMIUM} is missing; install chromium"
TOKEN = "of-a-test"
WAIT_MS = 240_000


@contextlib.contextmanager
def jupyterlab(root, **environment):
    """Address of a JupyterLab on 127.0.0.1 that shows a folder, configured as `make lab` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    changed = {"JUPYTER_CONFIG_PATH": str(PROJECT / "tools" / "lab"), "PYTHONPATH": str(PROJECT)}
    log = Path(root) / ".lab.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **changed, **environment}, cwd=root
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=1)
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def chromium():
    """A browser that draws WebGL without a GPU, or a loud skip."""
    return opened(FLAGS, NO_CHROMIUM)


def notebook(path, *sources):
    """Write a notebook of code cells."""
    book = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)
    return path


@dataclass
class LabPage:
    """A page of JupyterLab.

    Args:
        browser: from `chromium`.
        address: from `jupyterlab`.
        size: of the page, px.
    """

    browser: object
    address: str
    size: tuple = (1400, 1100)
    asked: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    said: list = field(default_factory=list)

    def __post_init__(self):
        width, height = self.size
        self.tab = self.browser.new_context(viewport={"width": width, "height": height}).new_page()
        self.tab.set_default_timeout(WAIT_MS)
        self.tab.route(re.compile(r"^(https?|wss?)://"), self._only_here)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda message: self.said.append(f"{message.type}: {message.text[:300]}"))

    def _only_here(self, route):
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            self.asked.append(route.request.url)
            route.abort()

    def open(self, path):
        """Open a file of the server's folder; a notebook once its kernel is there."""
        self.tab.goto(f"{self.address}/lab/tree/{path}?token={TOKEN}&reset")
        if str(path).endswith(".ipynb"):
            self.until_idle()
        return self

    def until_idle(self):
        """Wait for the kernel."""
        self.tab.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def run_all(self, timeout_ms=WAIT_MS):
        """Run all cells and wait until they ran; the first error is an assertion."""
        self.tab.evaluate(
            """() => { window.ran = null;
            window.jupyterapp.commands.execute('notebook:run-all-cells').then(
              (value) => { window.ran = 'done'; }, (error) => { window.ran = String(error); }); }"""
        )
        self.tab.wait_for_function("() => window.ran !== null", timeout=timeout_ms)
        self.until_idle()
        assert self.failures() == []

    def start(self, source, cell=-1):
        """Start a source in a cell of the notebook, the last one unless told, in place of what it held."""
        self.tab.evaluate(
            """([source, cell]) => { const book = window.jupyterapp.shell.currentWidget.content;
            book.activeCellIndex = book.widgets.length + cell;
            book.activeCell.model.sharedModel.setSource(source);
            window.ran = null;
            const done = () => { window.ran = 'done'; };
            window.jupyterapp.commands.execute('notebook:run-cell').then(done); }""",
            [source, cell],
        )

    def run(self, source, timeout_ms=WAIT_MS):
        """Run a source in the last cell, and wait until its viewers are drawn."""
        self.start(source)
        self.tab.wait_for_function("() => window.ran !== null", timeout=timeout_ms)
        self.until_idle()
        assert self.failures() == []
        for number in range(self.canvases.count()):
            drawn = self.until(lambda pixels: pixels.max() > 100, number)
            assert drawn.max() > 100, "nothing is drawn: " + " | ".join(self.said[-20:])

    @contextlib.contextmanager
    def busy(self):
        """While the kernel computes and hears nothing of the page; the outputs stay."""
        with tempfile.TemporaryDirectory() as folder:
            started, ended = Path(folder, "started"), Path(folder, "ended")
            code = (
                f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\n"
                f"while not pathlib.Path({str(ended)!r}).exists():\n    time.sleep(0.05)"
            )
            self.start(code, cell=-2)
            while not started.exists():
                time.sleep(0.05)
            try:
                yield
            finally:
                ended.touch()
                self.tab.wait_for_function("() => window.ran !== null")

    def failures(self):
        """Texts of the outputs that are errors."""
        return self.tab.evaluate(
            """() => { const found = [];
            for (const cell of window.jupyterapp.shell.currentWidget.content.model.cells)
              for (const output of (cell.toJSON().outputs ?? []))
                if (output.output_type === 'error') found.push(output.ename + ': ' + output.evalue);
            return found; }"""
        )

    def close(self):
        """Close the page."""
        self.tab.context.close()

    # ---- the viewer ------------------------------------------------------------------------

    @property
    def canvases(self):
        """The canvases of viewers: of each, those of the planes that it shows, the axial one first."""
        return self.tab.locator(".jp-OutputArea canvas:visible")

    def canvas(self, number=0):
        """Pixels of a canvas, uint8 `[rows, columns, 3]`, as they are on the screen."""
        from playwright.sync_api import Error  # here: it may be missing

        for _ in range(24):
            with contextlib.suppress(Error):  # it was hidden meanwhile: the next visible one is meant
                shot = self.canvases.nth(number).screenshot(timeout=WAIT_MS / 24)
                break
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))[2:-2, 2:-2]  # its edge is shared

    def until(self, holds, number=0, seconds=120):
        """Pixels of a canvas when something holds of them and they are still; else those at the end."""
        end, before = time.time() + seconds, np.zeros(0)
        while True:
            pixels = self.canvas(number)
            if (holds(pixels) and np.array_equal(pixels, before)) or time.time() > end:
                return pixels
            before = pixels
            time.sleep(0.2)

    def press(self, name, number=0):
        """Press a button of a viewer."""
        named = re.compile(rf"^\s*{re.escape(name)}\s*$")  # an icon is part of the name that a role has
        self.tab.locator(".jp-OutputArea button").filter(has_text=named).nth(number).click()

    def cursor(self, number=0):
        """What is said of the place under the cursor."""
        return self.tab.locator(".ct-cursor").nth(number).inner_text()

    def slider(self, name, key, number=0):
        """Press a key on a slider: Home is its lowest value, End its highest."""
        row = self.tab.locator(".widget-inline-hbox", has_text=name).nth(number)
        row.locator(".noUi-handle").focus()
        self.tab.keyboard.press(key)


def frame_of(pixels):
    """Where the slice lies on a canvas of one plane: slices of rows and columns; its rim is black."""
    seen = pixels.max(axis=2) > 24
    rows = np.flatnonzero(seen.mean(axis=1) > 0.1)
    columns = np.flatnonzero(seen.mean(axis=0) > 0.1)
    if not len(rows) or not len(columns):
        return slice(0, 1), slice(0, 1)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def picture(pixels, frame=None):
    """The slice on a canvas: grey, float; NaN where cursor, letter or overlay is."""
    part = pixels[frame or frame_of(pixels)].astype(np.float64)
    return np.where(np.ptp(part, axis=2) > 12, np.nan, part.mean(axis=2))


def likeness(seen, expected):
    """Correlation of a picture with what was expected, which is stretched to its size."""
    import cv2

    stretched = cv2.resize(expected.astype(np.float32), seen.shape[::-1], interpolation=cv2.INTER_LINEAR)
    grey = np.isfinite(seen)
    if grey.mean() < 0.5 or seen[grey].std() == 0:
        return 0.0
    return float(np.corrcoef(seen[grey], stretched[grey])[0, 1])
