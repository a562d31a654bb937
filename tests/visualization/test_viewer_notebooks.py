"""Where nobody sits at a page the viewer leaves a figure; itk-vtk-viewer in JupyterLab."""

import io
import os
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from lab_page import CHROMIUM, NO_CHROMIUM, WAIT_MS, LabPage, chromium, jupyterlab, notebook
from PIL import Image

from ctlib.core.workspace import PROJECT

pytestmark = pytest.mark.slow

SHOW = """
import numpy as np
from ctlib import viewer
from ctlib.volumes import Volume
volume = Volume(np.full((6, 8, 10), -1000, np.int16), (2.5, 0.8, 0.7), "1.2", (0.0, 0.0, 0.0))
view = viewer.show(volume)
"""


@pytest.mark.parametrize("how", ["papermill", "nbconvert"])
def test_an_executed_notebook_holds_a_figure_wherever_it_was_started(tmp_path, how):
    """Started from a terminal of JupyterLab, too: its variables are inherited."""
    given = notebook(tmp_path / "a.ipynb", SHOW + "viewer.show(volume, viewer='itk')")
    done = tmp_path / "b.ipynb"
    command = {
        "papermill": ["papermill", str(given), str(done), "--kernel", "python3", "--no-progress-bar"],
        "nbconvert": ["nbconvert", "--to", "notebook", "--execute", str(given), "--output", str(done)],
    }[how]
    lab = {"JPY_SESSION_NAME": "a.ipynb", "JPY_PARENT_PID": str(os.getpid()), "PYTHONPATH": str(PROJECT)}
    subprocess.run(
        [sys.executable, "-m", *_module(command)], env={**os.environ, **lab}, check=True, timeout=600
    )
    outputs = nbformat.read(done, 4).cells[-1].outputs
    assert [output.output_type for output in outputs] == ["display_data"] * 2
    for output in outputs:
        assert "HU window lung" in output.data["text/html"] or 'class="ct-figure"' in output.data["text/html"]
        assert not any("widget" in kind for kind in output.data)


def _module(command):
    return command if command[0] == "papermill" else ["jupyter", *command]


@pytest.mark.skipif(not CHROMIUM.exists(), reason=NO_CHROMIUM)
def test_itk_shows_the_volume_as_an_image_in_jupyterlab(tmp_path):
    from ctlib.visualization.viewer import itk

    if not (itk.DIST / "itkVtkViewer.js").exists():
        pytest.skip("itk-vtk-viewer is not tested: run `make itk-viewer`")
    notebook(
        tmp_path / "a.ipynb", SHOW + "volume.hu[3:, 2:6, 3:8] = 100\nview = viewer.show(volume, viewer='itk')"
    )
    with jupyterlab(tmp_path) as address, chromium() as browser:
        page = LabPage(browser, address).open("a.ipynb")
        page.run_all()
        frame = page.tab.frame_locator("iframe[title='itk-vtk-viewer']")
        frame.locator("body[data-shown='yes']").wait_for(state="attached")
        assert frame.locator("body").get_attribute("data-kind") == "image"
        box = page.tab.locator("iframe[title='itk-vtk-viewer']")
        seen = np.zeros(1)
        for _ in range(30):
            shot = box.screenshot(path=tmp_path / "itk.png", timeout=WAIT_MS)
            seen = np.asarray(Image.open(io.BytesIO(shot)).convert("L"))[100:-40, 300:-300]
            if np.ptp(seen) > 60:
                break
            page.tab.wait_for_timeout(1000)
        assert np.ptp(seen) > 60, "nothing is drawn"
        assert page.asked == [] and page.errors == []
        page.close()
