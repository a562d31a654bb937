"""How long until a volume is seen in JupyterLab 4, in what resolution, and how fast it answers to hands.

    python benchmarks/viewer.py [--slices 300] [--matrix 512] [--repeats 3]

Chromium renders without a GPU. A clock starts in the cell, before the import of the viewer (cold: a kernel
that has imported nothing but NumPy) or before the call of `viewer.show` (warm), and stops when the axial plane
in the page is no longer black; it is read in every frame. Wheel, keys and drag are input events of the
browser, timed until the picture shows what they asked for.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "factories"))

from lab_page import LabPage, chromium, jupyterlab, notebook

MADE = """
import time
import numpy as np
D, M = {slices}, {matrix}
hu = np.random.default_rng(0).integers(-1000, 400, (D, M, M), dtype=np.int16)
"""
COLD = """
started = time.time()
from ctlib import viewer
from ctlib.volumes import Volume
volume = Volume(hu, (1.0, 0.7, 0.7), "1.2", (0.0, 0.0, 0.0))
view = viewer.show(volume)
print(started, time.time() - started)
"""
WARM = """
started = time.time()
view = viewer.show(volume)
print(started, time.time() - started)
"""
LIT = """(before) => new Promise((found) => {
  const look = () => {
    const canvas = document.querySelector('.ct-plane[data-plane=axial] canvas');
    if (canvas && canvas !== window.lit && canvas.width > 100) {
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let lit = 0;
      for (let i = 0; i < data.length; i += 400) lit += data[i] > 40;
      if (lit > data.length / 1600) { window.lit = canvas; return found(Date.now() / 1000); }
    }
    requestAnimationFrame(look);
  };
  look();
})"""
SHOWS = "(at) => document.querySelector('.ct-plane[data-plane=axial]').dataset.at === String(at)"


def first_picture(page: LabPage, source: str) -> float:
    """Seconds from the start of a source until the axial plane is seen."""
    page.start(source)
    lit = page.tab.evaluate(LIT)
    page.tab.wait_for_function("() => window.ran !== null")
    started, called = map(float, page.tab.locator(".jp-OutputArea-output pre").last.inner_text().split())
    print(f"  seen after {lit - started:.2f} s, of which the kernel's call took {called:.2f} s")
    return lit - started


def hands(page: LabPage, slices: int) -> None:
    """Print how long wheel, keys and a drag take."""
    axial = page.tab.locator(".ct-plane[data-plane=axial] canvas")
    box, at = axial.bounding_box(), slices // 2
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.tab.mouse.move(x, y)
    begun = time.time()
    for _ in range(40):
        page.tab.mouse.wheel(0, 100)
    at -= 40
    page.tab.wait_for_function(SHOWS, arg=at)
    print(f"40 turns of the wheel: the last slice is seen after {time.time() - begun:.2f} s")
    for name, steps in (("ArrowDown", 1), ("PageDown", 10)):
        begun, at = time.time(), at - steps
        page.tab.keyboard.press(name)
        page.tab.wait_for_function(SHOWS, arg=at)
        print(f"{name}: slice {at} is seen after {time.time() - begun:.2f} s")
    begun = time.time()
    page.tab.mouse.down()
    for i in range(20):
        page.tab.mouse.move(x + 5 * i, y - 3 * i)
    page.tab.mouse.up()
    free = "() => [...document.querySelectorAll('button.mod-active')].some((one) => one.innerText === 'free')"
    page.tab.wait_for_function(free)
    print(
        f"a drag over 20 places: HU window and its controls have followed after {time.time() - begun:.2f} s"
    )
    print("cursor:", re.sub(r"\s+", " ", page.cursor()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, jupyterlab(folder) as address, chromium() as browser:
        notebook(Path(folder) / "a.ipynb", MADE.format(slices=asked.slices, matrix=asked.matrix), "")
        page = LabPage(browser, address)
        page.open("a.ipynb")
        page.run_all()
        print(f"{asked.slices} x {asked.matrix} x {asked.matrix}, cold kernel:")
        first_picture(page, COLD)
        print("warm kernel:")
        times = [first_picture(page, WARM) for _ in range(asked.repeats)]
        print(f"  median {statistics.median(times):.2f} s")
        drawn = page.tab.locator(".ct-plane").evaluate_all("(all) => all.map((one) => one.dataset.drawn)")
        print("rows and columns that are drawn (axial, coronal, sagittal):", ", ".join(drawn))
        hands(page, asked.slices)
        page.close()


if __name__ == "__main__":
    main()
