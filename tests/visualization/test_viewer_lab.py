"""The viewer in JupyterLab 4 under headless Chromium, with the network cut: pixels against the array."""

import re

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
from ctlib.visualization.slices import plane

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
    notebook(root / "viewer.ipynb", PHANTOM, CLIPS, "")
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
    return hu.to_unit(plane(VOLUME.hu, index, place), hu.HuWindow.named(hu_window)) * 255


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
    _letters_stand_at_the_edges(page.canvas())


def _letters_stand_at_the_edges(pixels):
    """A letter of orientation inside the picture hides what lies there, and reads as a mark in it."""
    red, green, blue = np.moveaxis(pixels.astype(int), 2, 0)
    yellow = (green - blue > 40) & (red - blue > 40)
    rows, columns = frame_of(pixels)
    tall, wide = (rows.stop - rows.start) // 10, (columns.stop - columns.start) // 10
    inner = yellow[rows.start + tall : rows.stop - tall, columns.start + wide : columns.stop - wide]
    assert yellow.any() and not inner.any()


def test_three_planes_and_a_rendering_are_on_screen_and_the_cursor_tells_hu_and_mm(page):
    page.run("view = viewer.show(volume, 'lung', place=(34, 38, 8))")
    pixels = page.until(lambda p: p.max() > 100)
    middle = pixels[:, pixels.shape[1] // 4 : -(pixels.shape[1] // 4)]  # two by two, centred
    tiles = [tile for half in np.array_split(middle, 2) for tile in np.array_split(half, 2, axis=1)]
    assert min(tile.std() for tile in tiles) > 5
    text = page.cursor().replace("−", "-")
    assert "100 HU" in text and "slice 34, row 38, column 8" in text
    assert "S 70.0, P 162.0, L 44.0 mm" in text


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
    assert page.tab.locator(".ct-strip").get_attribute("aria-valuenow") == "3"


def _click_slice_2(page):
    """Click in the run's first clip, of 20 slices."""
    part = page.tab.locator(".ct-strip").first.locator("rect.part").nth(2)
    part.click(position={"x": part.bounding_box()["width"] * 0.125, "y": 5}, force=True)


def test_the_wheel_moves_the_slice_and_a_click_the_cursor(page):
    page.run("view = viewer.show(volume, place=(20, 24, 32))")
    page.press("axial")
    shown(page, grey(0, (20, 24, 32)))
    box = page.canvases.first.bounding_box()
    page.tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    page.tab.wait_for_function("() => !document.querySelector('.ct-cursor').innerText.includes('row 24')")
    row = int(re.search(r"row (\d+)", page.cursor())[1])
    assert row == pytest.approx(12, abs=1)
    before = slice_of(page)
    page.tab.mouse.wheel(0, 100)
    page.tab.wait_for_function(
        f"() => !document.querySelector('.ct-cursor').innerText.includes('slice {before},')"
    )
    assert abs(slice_of(page) - before) <= 2


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
    assert "drawn with 256 of 512 rows" in page.tab.locator(".jp-OutputArea").last.inner_text()
    page.slider("contours", "Home")
    bare = page.until(lambda p: (p != pixels).any())
    frame = frame_of(bare)
    assert _where(pixels, bare, frame, (512, 512)) == pytest.approx([240, 300, 200, 260], abs=6)


def test_two_runs_side_by_side_have_one_cursor_and_one_hu_window(page):
    page.run(
        """runs = {"random": viewer.Run([0.2, 0.4]), "video": viewer.Run([0.1, 0.9])}
view = viewer.compare(volume, runs, clips=clips, place=(34, 38, 8))""",
    )
    assert page.canvases.count() == 2
    page.press("axial")
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
