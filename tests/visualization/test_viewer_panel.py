"""The widgets of the viewer without a page: what each control does to the others."""

import numpy as np
import pandas as pd
import pytest

from ctlib.core.hu import HU_MAX, HuWindow
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
    return tuple(panel.picture.limits)


def asked(panel, *planes):
    """What the page is sent when it asks for planes: int16 planes, and layers as uint8."""
    sent = []
    panel.picture.send = lambda content, buffers=None: sent.append((content, buffers))
    need = {"need": planes, "serial": panel.picture.serial, "slab_mm": panel.picture.slab_mm}
    panel.picture._asked(panel.picture, need, [])
    return sent[0]


def test_a_panel_opens_at_its_place_in_its_hu_window(panel):
    assert panel.place == (1, 2, 3) and panel.strip.place == 1 and panel.strip.n_slices == 4
    assert limits(panel) == (-1350, 150) and panel.presets.value == "lung"
    text = panel.cursor.value
    assert "45 HU" in text and "slice 1, row 2, column 3" in text and "S −77.5, P 6.6, L 9.1 mm" in text
    assert panel.picture.place == [1, 2, 3] and panel.picture.first["planes"] == [(0, 1), (1, 2), (2, 3)]
    assert [len(part) for part in panel.picture.first["buffers"]] == [2 * 5 * 6, 2 * 4 * 6, 2 * 4 * 5]


def test_a_page_is_sent_whole_planes_as_they_are_drawn(panel, scene):
    hu = scene.volume.hu
    content, parts = asked(panel, [0, 3], [1, 4], [2, 0])
    assert content["planes"] == [(0, 3), (1, 4), (2, 0)]
    axial, coronal, sagittal = (np.frombuffer(part, "<i2") for part in parts)
    assert np.array_equal(axial.reshape(5, 6), hu[3])
    assert np.array_equal(coronal.reshape(4, 6), hu[::-1, 4])
    assert np.array_equal(sagittal.reshape(4, 5), hu[::-1, :, 0])


def test_a_slab_is_the_maximum_over_its_mm_and_ends_where_the_volume_does(panel, scene):
    panel.slab.value = 5  # of 2.5 mm slices two, of 0.8 mm rows six
    hu = np.random.default_rng(0).integers(-1000, 400, scene.volume.shape).astype(np.int16)
    panel.load(viewer.Scene(Volume(hu, scene.volume.spacing_mm, "1.3", (0.0, 0.0, 0.0))))
    parts = asked(panel, [0, 1], [0, 3], [1, 2])[1]
    axial, last, coronal = (np.frombuffer(part, "<i2") for part in parts)
    assert np.array_equal(axial.reshape(5, 6), hu[1:3].max(axis=0))
    assert np.array_equal(last.reshape(5, 6), hu[3])
    assert np.array_equal(coronal.reshape(4, 6), hu[::-1].max(axis=1))


def test_what_was_asked_of_another_volume_or_slab_is_not_sent(panel, scene):
    old = {"need": [[0, 0]], "serial": panel.picture.serial, "slab_mm": 0.0}
    sent = []
    panel.picture.send = lambda content, buffers=None: sent.append((content["planes"], buffers))
    panel.load(scene)
    panel.picture._asked(panel.picture, old, [])
    panel.picture.slab_mm = 10.0
    panel.picture._asked(panel.picture, {**old, "serial": panel.picture.serial}, [])
    assert sent == [([], None), ([], None)]


def test_every_control_says_what_it_does(scene):
    cam = np.ones(scene.volume.shape)
    made = Panel()
    made.load(viewer.Scene(scene.volume, runs={"video": viewer.Run(cam=cam)}))
    for choice in (made.presets, made.planes, made.tool):
        assert len(choice.tooltips) == len(choice.options) and all(choice.tooltips)
    others = [made.centre, made.width, made.slab, made.snapshot, *made.opacities.children]
    assert len(others) == 6 and all(control.tooltip for control in others)


def test_the_strip_moves_the_slice_and_tells_those_who_follow(panel):
    told = []
    panel.followers.append(told.append)
    panel.strip.place = 3
    assert panel.place == (3, 2, 3) == told[0] and len(told) == 1
    assert panel.picture.place == [3, 2, 3]
    panel.picture.place = [0, 4, 5]  # a click or a turn of the wheel in the page
    assert panel.place == (0, 4, 5) == told[1] and panel.strip.place == 0


def test_hu_windows_by_name_and_free(panel):
    panel.presets.value = "mediastinum"
    assert limits(panel) == (-160, 240) and (panel.centre.value, panel.width.value) == (40, 400)
    panel.width.value = 600
    assert limits(panel) == (-260, 340) and panel.presets.value == FREE
    panel.width.value = 400
    assert panel.presets.value == "mediastinum" and limits(panel) == (-160, 240)
    panel.picture.limits = [-500.0, 151.0]  # a drag in the page
    assert (panel.centre.value, panel.width.value, panel.presets.value) == (-174.5, 651, FREE)
    panel.picture.limits = [9000.0, 9001.0]
    assert limits(panel) == (HU_MAX - 0.5, HU_MAX + 0.5)


def test_another_scene_keeps_the_hu_window_that_was_chosen(panel, scene):
    panel.presets.value = "bone"
    shorter = Volume(scene.volume.hu[:3], scene.volume.spacing_mm, "1.3", (0.0, 0.0, 0.0))
    panel.load(viewer.Scene(shorter, "lung", place=(2, 0, 0)))
    assert panel.presets.value == "bone" and limits(panel) == (-500, 1300)
    assert panel.strip.n_slices == 3 and panel.place == (2, 0, 0) and panel.picture.serial == 2


def test_layers_have_an_opacity_each_and_readers_a_legend(scene):
    mark = {"series_uid": "1.2", "nodule": 0, "slice": 1, "z_mm": 0.0, "inclusion": True}
    marks = pd.DataFrame([{**mark, "reader": 1, "contour": "1,1 1,3 3,3 3,1"}])
    cam = np.ones(scene.volume.shape)
    made = Panel()
    made.load(viewer.Scene(scene.volume, marks=marks, runs={"video": viewer.Run(cam=cam)}))
    names = [layer["name"] for layer in made.picture.layers]
    assert names == ["Grad-CAM", "contours"] and "reader 2" in made.legend.value
    assert "reader 1" not in made.legend.value and "several" not in made.legend.value
    empty = asked(made, [0, 0])[1]
    assert [len(part) for part in empty] == [60, 30, 0]  # no contour on that slice: nothing is sent
    contours = np.frombuffer(asked(made, [0, 1])[1][2], np.uint8).reshape(5, 6)
    assert contours[1, 1] == 2 and made.picture.layers[1]["colours"][2] == [0x56, 0xB4, 0xE9, 255]
    _opacity, colours, outlines = made.opacities.children
    outlines.value, before = 0.25, made.picture.layers[0]["colours"]
    assert [layer["opacity"] for layer in made.picture.layers] == [0.5, 0.25]
    colours.value = "hot"
    after = made.picture.layers[0]["colours"]
    assert before != after and [row[3] for row in after] == [0] * 64 + [255] * 192
    assert made.picture.layers[1]["colours"][2] == [0x56, 0xB4, 0xE9, 255]
    made.planes.value = "axial"
    assert made.picture.view == "axial"


def test_the_rendering_is_made_when_it_is_asked_for_and_anew_for_another_volume(panel, scene):
    assert panel.rendering is None
    panel.planes.value = "rendering"
    first = panel.rendering
    assert panel.shown.children == (first.widget,) and first.widget.opts.slice_type.name == "RENDER"
    panel.presets.value = "bone"
    assert (first.layer.cal_min, first.layer.cal_max) == (-500, 1300)
    sent = []
    first.widget.send = sent.append
    panel.snapshot.click()
    assert sent == [{"type": "save_scene", "data": ["ct-rendering.png"]}]
    panel.load(scene)
    assert panel.rendering is not first and panel.shown.children == (panel.rendering.widget,)
    panel.planes.value = "all"
    assert panel.rendering is None and panel.shown.children == (panel.picture,)


def test_panels_side_by_side_share_cursor_and_hu_window(scene):
    first, second = Panel("random"), Panel("video")
    for made in (first, second):
        made.load(scene)
    side_by_side([first, second])
    first.strip.place = 3
    assert second.place == (3, 2, 3)
    second.picture.place = [0, 4, 5]
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
