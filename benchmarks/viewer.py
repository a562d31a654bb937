"""How long from the call of `viewer.show` until the volume is on the screen, in JupyterLab 4.

    python benchmarks/viewer.py [--slices 300] [--matrix 256] [--repeats 3]

Chromium renders without a GPU. The clock starts in the cell, right before the call (modules are
imported by then), and stops when the canvas in the page is no longer black: it is read every 50 ms. Of
the first volume in a page that is when its three planes are drawn; its rendering follows.
Scrolling is timed until what is said of the cursor has followed so many turns of the wheel.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "factories"))

from lab_page import LabPage, chromium, jupyterlab, notebook

SOURCES = (
    """
import time
import numpy as np
import ipyniivue
from ctlib import viewer
from ctlib.visualization.viewer import panel
from ctlib.volumes import Volume
D, M = {slices}, {matrix}
hu = np.random.default_rng(0).integers(-1000, 400, (D, M, M), dtype=np.int16)
volume = Volume(hu, (1.0, 1.4, 1.4), "1.2", (0.0, 0.0, 0.0))
""",
    """
started = time.time()
view = viewer.show(volume)
called = time.time() - started
print(started, called)
""",
)
KEPT = """(() => {
  const before = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return before.call(this, kind, kind === 'webgl2' ? { ...options, preserveDrawingBuffer: true } : options);
  };
})()"""
"""What was drawn stays readable after its frame."""
LIT = """() => new Promise((found) => {
  const look = () => {
    const canvas = [...document.querySelectorAll('.jp-OutputArea canvas')].at(-1);
    if (canvas && canvas.width > 200) {
      const small = document.createElement('canvas');
      small.width = 64; small.height = 32;
      const context = small.getContext('2d');
      context.drawImage(canvas, 0, 0, 64, 32);
      const data = context.getImageData(0, 0, 64, 32).data;
      let lit = 0;
      for (let i = 0; i < data.length; i += 4) lit += data[i + 1] > 40;
      if (lit > 200) return found(Date.now() / 1000);
    }
    setTimeout(look, 50);  // each look waits for all that is drawn
  };
  look();
})"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--matrix", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, jupyterlab(folder) as address, chromium() as browser:
        first, second = (source.format(slices=asked.slices, matrix=asked.matrix) for source in SOURCES)
        notebook(Path(folder) / "a.ipynb", first, "")
        page = LabPage(browser, address)
        page.tab.add_init_script(KEPT)
        page.open("a.ipynb")
        page.run_all()
        times = []
        for _ in range(asked.repeats):
            page.start(second)
            lit = page.tab.evaluate(LIT)
            page.tab.wait_for_function("() => window.ran !== null")
            started, called = map(
                float, page.tab.locator(".jp-OutputArea-output pre").last.inner_text().split()
            )
            times.append(lit - started)
            print(f"on screen after {lit - started:.2f} s, of which the call took {called:.2f} s")
        print(f"{asked.slices} x {asked.matrix} x {asked.matrix}: median {statistics.median(times):.2f} s")
        page.press("axial")
        box = page.canvases.last.bounding_box()
        page.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        before, begun = page.cursor(), time.time()
        for _ in range(40):
            page.tab.mouse.wheel(0, 100)
        page.tab.wait_for_function(
            "(text) => document.querySelector('.ct-cursor').innerText !== text", arg=before
        )
        print(f"40 turns of the wheel were drawn and told in {time.time() - begun:.2f} s: {page.cursor()}")
        page.close()


if __name__ == "__main__":
    main()
