"""The viewer in JupyterLab 4 under headless Chromium, with the network cut: pixels against the array."""

import os
import re
import signal
import time

import cv2
import numpy as np
import pytest
from lab_page import (
    CHROMIUM,
    NO_CHROMIUM,
    LabPage,
    chromium,
    frame_of,
    jupyterlab,
    likeness,
    notebook,
    picture,
)

from ctlib.core import hu
from ctlib.visualization.viewer.scene import NAMES, plane

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.exists(), reason=NO_CHROMIUM)]

PHANTOM = """
import numpy as np, pandas as pd
from ctlib import viewer
from ctlib.volumes import Volume

def asymmetric():
    # a different thing in each of the eight corners: no flip and no exchange of axes looks the same
    hu = np.full((40, 48, 64), -700, np.int16)
    hu[:, 8:20, 6:20] = 0            # anterior right, all slices
    hu[20:, 30:44, 40:60] = -350     # posterior left, superior half
    hu[:8, 4:10, 34:60] = 150        # anterior left, most inferior slices
    hu[30:, 36:44, 4:12] = 100       # posterior right, most superior slices
    return Volume(hu, (5.0, 4.0, 3.0), "1.2", (-100.0, 10.0, 20.0))

volume = asymmetric()
"""
SCOPE = {}
exec(PHANTOM, SCOPE)
VOLUME = SCOPE["volume"]
CLIPS = """
clips = pd.DataFrame({"series_uid": "1.2", "clip": [0, 1], "start": [0, 20], "stop": [20, 40],
                      "n_positive": [0, 5], "label": [0, 1]})
"""
ENDINGS = ("restart", "kill", "shutdown")
"""How a kernel ends; each has a notebook of its own, and these tests are the last of this page."""
TURNS = {
    "flipped left to right": lambda a: a[:, ::-1],
    "flipped top to bottom": lambda a: a[::-1],
    "turned by half": lambda a: a[::-1, ::-1],
    "transposed": np.transpose,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One page of JupyterLab, whose last cell each test fills anew."""
    root = tmp_path_factory.mktemp("lab")
    for name in ("viewer", *ENDINGS):
        notebook(root / f"{name}.ipynb", PHANTOM, CLIPS, "")
    with jupyterlab(root) as address, chromium() as browser:
        opened = LabPage(browser, address).open("viewer.ipynb")
        opened.run_all()
        yield opened
        opened.close()


@pytest.fixture(autouse=True)
def _nothing_from_elsewhere(page):
    """Nothing was asked of any other machine, and no script failed."""
    yield
    assert page.asked == [] and page.errors == []


def grey(index, place, hu_window="lung"):
    """A plane as it must look, 0 to 255."""
    return hu.to_unit(plane(VOLUME.hu, index, place[index]), hu.HuWindow.named(hu_window)) * 255


def shown(page, expected, number=0, frame=None):
    """The picture on a canvas, once it is like what is expected."""
    alike = page.until(lambda pixels: likeness(picture(pixels, frame), expected) > 0.95, number)
    return picture(alike, frame)


def slice_of(page, number=0):
    return int(re.search(r"slice (\d+)", page.cursor(number))[1])


@pytest.mark.parametrize(("index", "name"), [(0, "axial"), (1, "coronal"), (2, "sagittal")])
def test_a_plane_is_seen_as_a_radiologist_expects_it(page, index, name):
    place = (34, 38, 8)
    page.run(f"view = viewer.show(volume, 'lung', place={place})")
    page.press(name)
    expected = grey(index, place)
    seen = shown(page, expected)
    assert likeness(seen, expected) > 0.95
    for turn in TURNS.values():
        assert likeness(seen, turn(expected)) < 0.9
    depth, height, width = (n * step for n, step in zip(VOLUME.shape, VOLUME.spacing_mm, strict=True))
    aspect = ((width / height), (width / depth), (height / depth))[index]
    assert seen.shape[1] / seen.shape[0] == pytest.approx(aspect, rel=0.03)


ENDS = (("I", "S"), ("A", "P"), ("R", "L"))
"""Where the axes of a volume begin and end."""


def directions(pixels, index, place):
    """Letters left, right, above and below a plane, from where the asymmetric phantom is seen on it."""
    raw = hu.to_unit(np.take(VOLUME.hu, place[index], axis=index), hu.HuWindow.named("lung")) * 255
    turned = {(up, back): raw[:: -1 if up else 1, :: -1 if back else 1] for up in (0, 1) for back in (0, 1)}
    alike = {turn: likeness(picture(pixels, np.s_[:, :]), seen) for turn, seen in turned.items()}
    (up, back), found = max(alike.items(), key=lambda item: item[1])
    assert found > 0.9 and sorted(alike.values())[-2] < 0.9
    rows, columns = (axis for axis in range(3) if axis != index)
    return [*ENDS[columns][:: -1 if back else 1], *ENDS[rows][:: -1 if up else 1]]


@pytest.mark.parametrize("view", ["all", *NAMES])
def test_letters_stand_beside_each_plane_and_say_where_the_phantom_lies(page, view):
    """A letter inside the picture hides what lies there, and reads as a mark in it."""
    place = (34, 38, 8)
    page.run(f"view = viewer.show(volume, 'lung', place={place})")
    page.press(view)
    shown = [name for name in NAMES if view in ("all", name)]
    for number, name in enumerate(shown):
        index = NAMES.index(name)
        pixels = page.until(
            lambda p, i=index: likeness(picture(p, np.s_[:, :]), grey(i, place)) > 0.9, number
        )
        tile = page.tab.locator(f".ct-plane[data-plane={name}]")
        letters = tile.locator(".ct-side")
        assert letters.all_inner_texts() == directions(pixels, index, place)
        canvas, whole = tile.locator("canvas").bounding_box(), tile.bounding_box()
        for edge in ("left", "right", "above", "below"):
            box = tile.locator(f".ct-side.{edge}").bounding_box()
            assert 0 < _gap(box, canvas, edge) + 2 < 20 and _gap(canvas, whole, edge) < 0
    assert page.tab.locator(".ct-plane:visible").count() == len(shown)


def _gap(inner, outer, edge):
    """How far a box lies beyond the edge of another, px: up to its nearer side; below 0 inside."""
    return {
        "left": outer["x"] - inner["x"] - inner["width"],
        "right": inner["x"] - outer["x"] - outer["width"],
        "above": outer["y"] - inner["y"] - inner["height"],
        "below": inner["y"] - outer["y"] - outer["height"],
    }[edge]


def test_three_planes_are_on_screen_the_axial_largest_and_the_cursor_tells_hu_and_mm(page):
    page.run("view = viewer.show(volume, 'lung', place=(34, 38, 8))")
    axial, coronal, sagittal = (page.canvases.nth(i).bounding_box() for i in range(3))
    assert axial["x"] < coronal["x"] and axial["y"] <= coronal["y"] < sagittal["y"]
    assert axial["height"] > 1.5 * max(coronal["height"], sagittal["height"])
    whole = page.tab.locator(".ct-planes").bounding_box()
    drawn = sum(box["width"] * box["height"] for box in (axial, coronal, sagittal))
    assert drawn > 0.67 * whole["width"] * whole["height"]  # no black third
    text = page.cursor().replace("−", "-")
    assert "100 HU" in text and "slice 34, row 38, column 8" in text
    assert "S 70.0, P 162.0, L 44.0 mm" in text


def test_every_row_and_column_of_a_large_matrix_is_drawn_and_the_crosshair_is_one_pixel(page):
    """Stripes one voxel wide are told apart where the picture is enlarged."""
    page.run(
        """stripes = np.full((12, 512, 512), -1000, np.int16)
stripes[:, :, ::2] = 100
view = viewer.show(Volume(stripes, (5.0, 0.7, 0.7), "1.2", (0.0, 0.0, 0.0)), place=(6, 256, 256))"""
    )
    page.press("axial")
    page.tab.wait_for_selector(".ct-planes.single")
    page.tab.wait_for_selector('.ct-plane[data-drawn="512 x 512"]:visible')
    box = page.canvases.first.bounding_box()
    page.tab.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.tab.keyboard.down("Control")
    for _ in range(14):
        page.tab.mouse.wheel(0, -100)
    page.tab.keyboard.up("Control")
    step = box["width"] / 512 * 1.15**14  # px of a voxel
    assert _stripe(page.until(lambda p: abs(_stripe(p) - step) < 0.5)) == pytest.approx(step, abs=0.5)
    page.tab.mouse.dblclick(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    pixels = page.until(lambda p: picture(p).std() > 0 and _red(p).any())
    rows, columns = (
        np.flatnonzero(_red(pixels).mean(axis=1) > 0.5),
        np.flatnonzero(_red(pixels).mean(axis=0) > 0.5),
    )
    assert len(rows) == len(columns) == 1


def _stripe(pixels):
    """Width of the stripes in a row of a canvas, px."""
    edges = np.flatnonzero(np.diff(pixels[20].mean(axis=1) > 128))
    return float(np.ptp(edges)) / (len(edges) - 1) if len(edges) > 9 else 0.0


def _red(pixels):
    """Where the crosshair is."""
    red, green, blue = np.moveaxis(pixels.astype(int), 2, 0)
    return (red - green > 60) & (red - blue > 60)


def test_a_rendering_is_drawn_when_it_is_asked_for(page):
    page.run("view = viewer.show(volume, 'lung')")
    page.press("rendering")
    page.tab.wait_for_selector(".ct-planes", state="detached")
    assert page.until(lambda p: p.std() > 5 and p.max() > 100).std() > 5
    page.press("axial")
    assert likeness(shown(page, grey(0, (20, 24, 32))), grey(0, (20, 24, 32))) > 0.95


def test_an_hu_window_changes_what_is_seen_and_is_what_it_says(page):
    place = (10, 24, 32)
    page.run(f"view = viewer.show(volume, 'lung', place={place})")
    page.press("axial")
    frame = frame_of(page.until(lambda pixels: likeness(picture(pixels), grey(0, place)) > 0.95))
    levels = {}
    for name in ("lung", "mediastinum"):
        page.press(name)
        seen = shown(page, grey(0, place, name), frame=frame)
        rows, columns = seen.shape
        block = seen[int(rows * 0.25) : int(rows * 0.35), int(columns * 0.15) : int(columns * 0.25)]
        levels[name] = float(np.nanmedian(block))  # of 0 HU
        assert levels[name] == pytest.approx(255 * hu.to_unit(np.zeros(1), hu.HuWindow.named(name))[0], abs=6)
    assert levels["lung"] - levels["mediastinum"] > 100


def test_a_click_on_the_score_strip_moves_the_slice(page):
    page.run("view = viewer.show(volume, clips=clips, scores={'video': [0.1, 0.9]}, place=(34, 38, 8))")
    page.press("axial")
    shown(page, grey(0, (34, 38, 8)))
    _click_slice_2(page)
    page.tab.wait_for_function("() => document.querySelector('.ct-cursor').innerText.includes('slice 2,')")
    expected = grey(0, (2, 38, 8))
    seen = shown(page, expected)
    assert likeness(seen, expected) > 0.95 and likeness(seen, grey(0, (34, 38, 8))) < 0.9
    page.tab.keyboard.press("ArrowRight")
    page.tab.wait_for_function("() => document.querySelector('.ct-cursor').innerText.includes('slice 3,')")
    page.tab.wait_for_selector('.ct-strip[aria-valuenow="3"]')


def _click_slice_2(page):
    """Click in the run's first clip, of 20 slices."""
    part = page.tab.locator(".ct-strip").first.locator("rect.part").nth(2)
    part.click(position={"x": part.bounding_box()["width"] * 0.125, "y": 5}, force=True)


def _until_slice(page, place, row=24):
    said = f"slice {place}, row {row},"
    page.tab.wait_for_function("(s) => document.querySelector('.ct-cursor').innerText.includes(s)", arg=said)


def test_wheel_arrows_and_page_keys_step_and_a_click_moves_the_cursor(page):
    page.run("view = viewer.show(volume, place=(20, 24, 32))")
    shown(page, grey(0, (20, 24, 32)))
    box = page.canvases.first.bounding_box()
    page.tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    page.tab.wait_for_function("() => !document.querySelector('.ct-cursor').innerText.includes('row 24')")
    row = int(re.search(r"row (\d+)", page.cursor())[1])
    assert row == pytest.approx(12, abs=1)
    for key, place in (("ArrowDown", 19), ("ArrowUp", 20), ("ArrowRight", 19), ("ArrowLeft", 20),
                       ("PageDown", 10), ("PageUp", 20), ("Home", 39), ("End", 0), ("PageUp", 10)):  # fmt: skip
        page.tab.keyboard.press(key)
        _until_slice(page, place, row)
        page.tab.wait_for_selector(f'.ct-plane[data-plane=axial][data-at="{place}"]')
    page.tab.mouse.wheel(0, 100)
    _until_slice(page, 9, row)
    for _ in range(3):
        page.tab.mouse.wheel(0, -100)
    _until_slice(page, 12, row)
    expected = grey(0, (12, row, 32))
    assert likeness(shown(page, expected), expected) > 0.95
    coronal = page.canvases.nth(1).bounding_box()
    page.tab.mouse.move(coronal["x"] + 50, coronal["y"] + 50)
    page.tab.mouse.wheel(0, 100)
    _until_slice(page, 12, row + 1)


def _drag(page, start, end):
    """A drag on the first canvas, from and to shares of its width and height; its size, CSS px."""
    box = page.canvases.first.bounding_box()
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.tab.mouse.move(*spots[0])
    page.tab.mouse.down()
    page.tab.mouse.move(*spots[1], steps=8)
    page.tab.mouse.up()
    return box["width"], box["height"]


def test_a_drag_changes_the_hu_window_and_its_controls_follow(page):
    page.run("view = viewer.show(volume, place=(10, 24, 32))")
    page.press("axial")
    shown(page, grey(0, (10, 24, 32)))
    width, height = _drag(page, (0.3, 0.5), (0.5, 0.4))  # right: wider; up: a higher centre
    page.tab.wait_for_function(
        "() => [...document.querySelectorAll('.mod-active')].some(e => e.innerText === 'free')"
    )
    expected, deadline = pytest.approx(1500 * (1 + 0.2 * width / 200), rel=0.02), time.monotonic() + 60
    wide = 0.0
    while wide != expected and time.monotonic() < deadline:  # the last move may come after the cell
        page.start("print(view.panels[0].centre.value, view.panels[0].width.value, view.panels[0].place)")
        page.tab.wait_for_function("() => window.ran !== null")
        text = page.tab.locator(".jp-OutputArea-output pre").last.inner_text()
        centre, wide, *place = map(float, re.findall(r"-?[\d.]+", text))
    assert place == [10, 24, 32]  # a drag is no click
    assert wide == expected
    assert centre == pytest.approx(-600 + 7.5 * 0.1 * height, abs=20)


def test_a_ruler_measures_in_mm_on_its_slice(page):
    page.run("view = viewer.show(volume, place=(10, 24, 32))")
    page.press("axial")
    bare = shown(page, grey(0, (10, 24, 32)))
    with page.busy():  # choosing and drawing are the page's
        page.press("ruler")
        _drag(page, (0.25, 0.25), (0.5, 0.75))
        said = re.search(r"ruler: ([\d.]+) mm", page.tab.locator(".ct-status").inner_text())
    assert float(said[1]) == pytest.approx(np.hypot(48 * 2.0, 16 * 3.0), abs=1.5)
    yellow = lambda p: (p[:, :, 0].astype(int) - p[:, :, 2] > 80) & (p[:, :, 1] > 150)  # noqa: E731
    assert yellow(page.until(lambda p: yellow(p).sum() > 50)).sum() > 50
    page.tab.keyboard.press("ArrowDown")
    _until_slice(page, 9)
    assert yellow(page.until(lambda p: not yellow(p).any())).sum() == 0
    page.tab.keyboard.press("ArrowUp")
    assert yellow(page.until(lambda p: yellow(p).sum() > 50)).sum() > 50
    page.tab.keyboard.press("Escape")
    assert np.nanmax(np.abs(shown(page, grey(0, (10, 24, 32))) - bare)) < 3


def test_a_slab_shows_its_maximum(page):
    page.run("view = viewer.show(volume, 'lung', place=(16, 24, 32))")
    page.press("axial")
    shown(page, grey(0, (16, 24, 32)))
    page.tab.locator(".widget-dropdown select").first.select_option("30 mm")
    expected = hu.to_unit(VOLUME.hu[14:20].max(axis=0), hu.HuWindow.named("lung")) * 255
    assert likeness(shown(page, expected), expected) > 0.95
    page.tab.locator(".ct-plane:visible .ct-what").filter(has_text="30 mm maximum").wait_for()
    page.tab.keyboard.press("Escape")


def test_a_snapshot_is_a_png_of_what_is_seen(page, tmp_path):
    page.run("view = viewer.show(volume, 'lung', place=(34, 38, 8))")
    page.press("axial")
    shown(page, grey(0, (34, 38, 8)))
    with page.tab.expect_download() as download:
        page.press("snapshot")
    assert download.value.suggested_filename == "ct-slice34-row38-column8.png"
    download.value.save_as(tmp_path / "a.png")
    pixels = cv2.imread(str(tmp_path / "a.png"))[18:-18, 18:-18, ::-1]
    assert likeness(picture(pixels, np.s_[:, :]), grey(0, (34, 38, 8))) > 0.95


def test_grad_cam_and_contours_appear_where_the_array_says(page):
    page.run(
        """cam = np.zeros(volume.shape, np.float32)
cam[8:13, 30:42, 10:22] = 1
box = "12,40 12,56 20,56 20,40"
mark = dict(series_uid="1.2", nodule=0, reader=1, slice=10, z_mm=0.0, inclusion=True, contour=box)
marks = pd.DataFrame([mark])
view = viewer.show(volume, marks=marks, cam=cam, place=(10, 24, 32))""",
    )
    page.press("axial")
    expected = grey(0, (10, 24, 32))
    with_both = page.until(lambda p: likeness(picture(p), expected) > 0.9 and _blue(p).sum() > 200)
    page.slider("contours", "Home")
    without_contours = page.until(lambda p: (p != with_both).any())
    page.slider("Grad-CAM", "Home")
    bare = page.until(lambda p: likeness(picture(p), expected) > 0.95)
    frame = frame_of(bare)
    assert _where(with_both, without_contours, frame) == pytest.approx((12, 20, 40, 56), abs=1.6)
    assert _where(without_contours, bare, frame) == pytest.approx((30, 41, 10, 21), abs=1.6)
    changed = with_both[(with_both != without_contours).any(axis=2)].astype(int)
    # the second reader's colour is a blue; it fades into what lies beside it
    assert np.percentile(changed[:, 2] - changed[:, 0], 90) > 60


def _blue(pixels):
    """Where the second reader's colour is; the crosshair is red, letters are yellow."""
    return pixels[:, :, 2].astype(int) - pixels[:, :, 0] > 40


def _where(before, after, frame, shape=(48, 64)):
    """Rows and columns of the slice, first and last, of the largest part in which two canvases differ."""
    differ = (np.abs(before[frame].astype(int) - after[frame]) > 20).any(axis=2)
    parts = cv2.connectedComponentsWithStats(differ.astype(np.uint8), connectivity=8)[2][1:]
    assert len(parts), "the canvases are the same"
    left, top, wide, tall, _ = parts[parts[:, cv2.CC_STAT_AREA].argmax()]
    down, across = (n / size for n, size in zip(shape, differ.shape, strict=True))
    ends = [top * down, (top + tall - 1) * down, left * across, (left + wide - 1) * across]
    return [end - 0.5 for end in ends]


def test_a_large_volume_is_the_base_and_a_small_layer_lies_on_it(page):
    """Loaded anew before the first was drawn, too: layers keep their order and their colours."""
    page.run(
        """steps = np.add.outer(np.arange(512) // 8, np.arange(512) // 16).astype(np.int16)
large = np.stack([steps * 12 - 1300 + 4 * z for z in range(40)]).astype(np.int16)
large[:, 300:340, 60:140] = 150
large = Volume(large, (5.0, 0.7, 0.7), "1.2", (0.0, 0.0, 0.0))
box = "240,200 240,260 300,260 300,200"
mark = dict(series_uid="1.2", nodule=0, reader=1, slice=10, z_mm=0.0, inclusion=True, contour=box)
marks = pd.DataFrame([mark])
view = viewer.show(large, marks=marks, place=(10, 128, 384))
view.panels[0].load(viewer.Scene(large, marks=marks, place=(10, 128, 384)))""",
    )
    page.press("axial")
    steps = np.add.outer(np.arange(512) // 8, np.arange(512) // 16) * 12 - 1260.0
    steps[300:340, 60:140] = 150
    expected = hu.to_unit(steps, hu.HuWindow.named("lung")) * 255
    pixels = page.until(lambda p: likeness(picture(p), expected) > 0.95 and _blue(p).sum() > 200)
    assert likeness(picture(pixels), expected) > 0.95 and _blue(pixels).sum() > 200
    page.tab.wait_for_selector('.ct-plane[data-drawn="512 x 512"]:visible')
    page.slider("contours", "Home")
    bare = page.until(lambda p: (p != pixels).any())
    frame = frame_of(bare)
    assert _where(pixels, bare, frame, (512, 512)) == pytest.approx([240, 300, 200, 260], abs=6)


def test_two_runs_side_by_side_have_one_cursor_and_one_hu_window(page):
    page.run(
        """runs = {"random": viewer.Run([0.2, 0.4]), "video": viewer.Run([0.1, 0.9])}
view = viewer.compare(volume, runs, clips=clips, place=(34, 38, 8))""",
    )
    page.press("axial")
    page.tab.wait_for_function("() => document.querySelectorAll('.ct-planes.single').length === 2")
    assert page.canvases.count() == 2
    alike = lambda pixels: likeness(picture(pixels), grey(0, (34, 38, 8))) > 0.95  # noqa: E731
    frames = [frame_of(page.until(alike, number)) for number in range(2)]
    _click_slice_2(page)
    page.tab.wait_for_function(
        "() => [...document.querySelectorAll('.ct-cursor')].every(e => e.innerText.includes('slice 2,'))"
    )
    page.press("mediastinum", 1)
    for number in range(2):
        expected = grey(0, (2, 38, 8), "mediastinum")
        assert likeness(shown(page, expected, number, frames[number]), expected) > 0.95


def test_exams_are_stepped_through_and_notes_are_kept(page, tmp_path):
    page.run(
        f"""table = pd.DataFrame({{"series_uid": ["a", "b", "c"], "disagreement": [0.1, 0.9, 0.5]}})
exams = dict(a=(2, 24, 32), b=(10, 24, 32), c=(34, 24, 32))
scene = lambda uid: viewer.Scene(volume, "lung", place=exams[uid])
browser = viewer.browse(table, scene, {str(tmp_path / "notes.csv")!r})"""
    )
    page.press("axial")
    for place, name in (((10, 24, 32), "b"), ((34, 24, 32), "c")):
        expected = grey(0, place)
        assert likeness(shown(page, expected), expected) > 0.95
        field = page.tab.locator("textarea")
        field.fill(f"seen {name}")
        field.blur()
        page.tab.wait_for_timeout(1000)
        page.press("next")
        page.tab.wait_for_function("() => document.querySelector('textarea').value === ''")
    assert (tmp_path / "notes.csv").read_text().count("seen") == 2
    page.press("previous")
    page.tab.wait_for_function("() => document.querySelector('textarea').value === 'seen c'")


@pytest.mark.parametrize("end", ENDINGS)
def test_a_viewer_that_lost_its_kernel_says_so_and_keeps_what_it_has(page, end):
    page.open(f"{end}.ipynb").run_all()
    page.run("import os\nview = viewer.show(volume, place=(20, 24, 32))\nprint(os.getpid())")
    shown(page, grey(0, (20, 24, 32)))
    if end == "kill":
        os.kill(int(page.tab.locator(".jp-OutputArea-output pre").last.inner_text()), signal.SIGKILL)
    else:
        page.tab.evaluate(
            f"() => {{ window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.{end}(); }}"
        )
    page.tab.wait_for_selector(".ct-status[data-kind=ended]", timeout=60_000)
    assert "The kernel of this viewer has ended" in page.tab.locator(".ct-status").last.inner_text()
    if end == "kill":  # JupyterLab says it too, over all of the page
        page.tab.locator(".jp-Dialog button.jp-mod-accept").click()
    expected = grey(0, (20, 24, 32))
    assert likeness(shown(page, expected), expected) > 0.95
