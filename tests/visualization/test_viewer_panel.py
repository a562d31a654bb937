"""The widgets of the viewer without a page: what each control does to the others."""

import numpy as np
import pandas as pd
import pytest

from ctlib.core.hu import HuWindow
from ctlib.io.volume import Volume
from ctlib.visualization import viewer
from ctlib.visualization.viewer.browser import Browser, Notes
from ctlib.visualization.viewer.panel import FREE, Panel, side_by_side


@pytest.fixture
def scene():
    hu = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    return viewer.Scene(Volume(hu, (2.5, 0.8, 0.7), "1.2", (-80.0, 5.0, 7.0)), "lung", place=(1, 2, 3))


@pytest.fixture
def panel(scene):
    made = Panel()
    made.load(scene)
    return made


def limits(panel):
    base = panel.canvas.widget.volumes[0]
    return base.cal_min, base.cal_max


def test_a_panel_opens_at_its_place_in_its_hu_window(panel):
    assert panel.place == (1, 2, 3) and panel.strip.place == 1 and panel.strip.n_slices == 4
    assert limits(panel) == (-1350, 150) and panel.presets.value == "lung"
    text = panel.cursor.value
    assert "45 HU" in text and "slice 1, row 2, column 3" in text and "S −77.5, P 6.6, L 9.1 mm" in text
    # NiiVue counts along Right, Anterior, Superior
    expected = [1 - 3.5 / 6, 1 - 2.5 / 5, 1.5 / 4]
    assert panel.canvas.widget.scene.crosshair_pos == pytest.approx(expected)


@pytest.mark.parametrize("place", [(0, 0, 0), (3, 4, 5), (2, 1, 4)])
def test_where_the_canvas_says_the_cursor_is_is_where_it_was_put(panel, place):
    panel.move_to(place)
    told = []
    panel.canvas.on_move(told.append)
    panel.canvas._on_location({"frac": panel.canvas.widget.scene.crosshair_pos})
    assert told == [place]


def test_of_a_large_matrix_places_and_hu_are_those_of_the_volume(panel):
    hu = np.zeros((2, 512, 384), np.int16)
    hu[1, 301, 200] = 77
    panel.load(viewer.Scene(Volume(hu, (2.5, 0.8, 0.7), "1.2", (0.0, 0.0, 0.0)), place=(1, 301, 200)))
    assert "77 HU" in panel.cursor.value and "drawn with 256 of 512 rows" in panel.cursor.value
    data = panel.canvas.widget.volumes[0].data
    assert len(data) == 352 + 2 * 2 * 256 * 192
    told = []
    panel.canvas.on_move(told.append)
    panel.canvas._on_location({"frac": panel.canvas.widget.scene.crosshair_pos})
    assert told == [(1, 301, 200)]


def test_the_strip_moves_the_slice_and_tells_those_who_follow(panel):
    told = []
    panel.followers.append(told.append)
    panel.strip.place = 3
    assert panel.place == (3, 2, 3) == told[0] and len(told) == 1
    assert panel.canvas.widget.scene.crosshair_pos[2] == pytest.approx(3.5 / 4)


def test_hu_windows_by_name_and_free(panel):
    panel.presets.value = "mediastinum"
    assert limits(panel) == (-160, 240) and (panel.centre.value, panel.width.value) == (40, 400)
    panel.width.value = 600
    assert limits(panel) == (-260, 340) and panel.presets.value == FREE
    panel.width.value = 400
    assert panel.presets.value == "mediastinum" and limits(panel) == (-160, 240)


def test_another_scene_keeps_the_hu_window_that_was_chosen(panel, scene):
    panel.presets.value = "bone"
    shorter = Volume(scene.volume.hu[:3], scene.volume.spacing_mm, "1.3", (0.0, 0.0, 0.0))
    panel.load(viewer.Scene(shorter, "lung", place=(2, 0, 0)))
    assert panel.presets.value == "bone" and limits(panel) == (-500, 1300)
    assert panel.strip.n_slices == 3 and panel.place == (2, 0, 0) and len(panel.canvas.widget.volumes) == 1


def test_layers_have_an_opacity_each_and_readers_a_legend(scene):
    mark = {"series_uid": "1.2", "nodule": 0, "slice": 1, "z_mm": 0.0, "inclusion": True}
    marks = pd.DataFrame([{**mark, "reader": 1, "contour": "1,1 1,3 3,3 3,1"}])
    cam = np.ones(scene.volume.shape)
    made = Panel()
    made.load(viewer.Scene(scene.volume, marks=marks, runs={"video": viewer.Run(cam=cam)}))
    assert made.canvas.layers == ["Grad-CAM", "contours"] and "reader 2" in made.legend.value
    assert "reader 1" not in made.legend.value and "several" not in made.legend.value
    made.opacities.children[1].value = 0.25
    assert made.canvas.widget.volumes[2].opacity == 0.25
    made.planes.value = "axial"
    assert made.canvas.widget.opts.slice_type.name == "AXIAL"


def test_panels_side_by_side_share_cursor_and_hu_window(scene):
    first, second = Panel("random"), Panel("video")
    for made in (first, second):
        made.load(scene)
    side_by_side([first, second])
    first.strip.place = 3
    assert second.place == (3, 2, 3)
    second.canvas._on_location({"frac": [0.1, 0.1, 0.1]})
    assert first.place == second.place == (0, 4, 5)
    second.presets.value = "pe"
    assert limits(first) == limits(second) == (-100, 900)
    first.centre.value = 0
    assert limits(second) == (HuWindow(0, 1000).low, 500) and second.presets.value == FREE


def test_exams_are_sorted_by_any_column_and_each_has_its_note(scene, tmp_path):
    table = pd.DataFrame(
        {"series_uid": ["a", "b", "c"], "disagreement": [0.1, 0.9, np.nan], "age": [50, 40, 30]}
    )
    asked = []

    def exams(uid):
        asked.append(uid)
        return scene

    notes = Notes(tmp_path / "notes.csv", "series_uid")
    browser = Browser(table, exams, notes, "disagreement")
    browser.note.value = "odd"
    browser.go(browser.at + 1)
    assert asked == ["b", "a"] and browser.note.value == "" and notes.of("b") == "odd"
    browser.go(browser.at + 5)
    assert browser.key == "c" and browser.next.disabled and not browser.back.disabled
    assert "disagreement <b>–</b>" in browser.facts.value and "exam 3 of 3" in browser.facts.value
    browser.sort.value = "age"
    assert browser.key == "a" and asked[-1] == "a"
    browser.falling.value = False
    assert browser.key == "c"
    browser.go(1)
    assert browser.key == "b" and browser.note.value == "odd"
    browser.note.value = ""
    assert notes.of("b") == ""
