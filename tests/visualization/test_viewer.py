import io
import subprocess
import sys
import types
import urllib.error
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK

from ctlib.io.volume import Volume, read_series
from ctlib.visualization import viewer
from ctlib.visualization.viewer import browser, itk, view
from ctlib.visualization.viewer.niivue import MATRIX_PX, drawable, nifti
from ctlib.visualization.viewer.scene import SEVERAL, contours, heat, plane

UID = "1.2.3"


@pytest.fixture
def volume():
    hu = np.random.default_rng(0).integers(-1024, 3072, (6, 8, 10)).astype(np.int16)
    return Volume(hu, (2.5, 0.8, 0.7), UID, (-80.0, 5.0, 7.0))


@pytest.fixture
def clips():
    rows = {"series_uid": [UID, UID, "other"], "clip": [0, 1, 0], "start": [0, 4, 0], "stop": [4, 6, 90]}
    return pd.DataFrame({**rows, "n_positive": [0, 2, 0], "label": pd.array([0, 1, None], "Int64")})


def mark(reader=0, place=2, contour="2,3 2,6 5,6 5,3", nodule=0, uid=UID):
    return {
        "series_uid": uid, "nodule": nodule, "reader": reader, "slice": place, "z_mm": -75.0,
        "inclusion": True, "contour": contour,
    }  # fmt: skip


# ---- NIfTI in memory ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_nifti_says_where_each_voxel_lies(volume, dtype):
    voxels = (np.arange(volume.hu.size) % 251).reshape(volume.shape).astype(dtype)
    read = nibabel.Nifti1Image.from_bytes(nifti(volume, voxels))
    assert "".join(nibabel.aff2axcodes(read.affine)) == "LPS"
    assert np.array_equal(np.asarray(read.dataobj).transpose(2, 1, 0), voxels)
    right, anterior, superior = (read.affine @ (3, 2, 1, 1))[:3]  # column, row, slice
    assert (-right, -anterior, superior) == pytest.approx((7 + 3 * 0.7, 5 + 2 * 0.8, -80 + 2.5), abs=1e-5)


def test_nifti_is_read_back_by_our_reader_and_by_another(volume, tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti(volume, volume.hu))
    ours = read_series(path)
    assert np.array_equal(ours.hu, volume.hu) and ours.spacing_mm == pytest.approx(volume.spacing_mm)
    assert ours.origin_mm == pytest.approx(volume.origin_mm)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.hu)
    assert image.GetDirection() == pytest.approx(np.eye(3).ravel())
    assert image.GetOrigin() == pytest.approx(volume.origin_mm[::-1])


def test_the_viewer_is_imported_without_what_trains_and_judges():
    """Each costs a first volume one to ten seconds (6 s of 10 in all were measured)."""
    heavy = (
        "torch",
        "torchvision",
        "matplotlib",
        "sklearn",
        "scipy.stats",
        "seaborn",
        "lightning",
        "ipyniivue",
    )
    loaded = f"print([n for n in {heavy} if n in sys.modules])"
    code = f"import sys; from ctlib import viewer; viewer.show; from ctlib.visualization.viewer import panel; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# ---- layers ------------------------------------------------------------------------------


def test_contours_are_one_voxel_wide_by_reader_and_named_where_they_meet(volume):
    drawn = contours(volume, pd.DataFrame([mark(0), mark(1, contour="5,6 5,9 7,9 7,6"), mark(4, place=3)]))
    outline = np.zeros((8, 10), np.uint8)
    outline[2:6, 3:7] = 1
    outline[3:5, 4:6] = 0
    outline[5:8, 6:10] = np.where(np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]) == 1, 2, 0)
    outline[5, 6] = SEVERAL
    assert np.array_equal(drawn[2], outline)
    assert set(np.unique(drawn[3])) == {0, 1} and drawn[[0, 1, 4, 5]].max() == 0  # a fifth reader begins anew


def test_a_rendering_of_a_large_matrix_has_fewer_pixels_of_the_same_extent(volume):
    assert drawable(volume) is volume
    hu = np.zeros((2, 2 * MATRIX_PX, 3 * MATRIX_PX), np.int16)
    hu[0, :3, :3] = 90  # one whole pixel of 3 x 3; parts of others
    large = Volume(hu, (2.5, 0.8, 0.7), UID, (-80.0, 5.0, 7.0))
    small = drawable(large)
    assert small.shape == (2, round(2 * MATRIX_PX / 3), MATRIX_PX)
    assert small.hu[0, 0, 0] == 90 and small.hu.max() == 90 and small.hu[1].max() == 0
    for axis in range(3):
        edges = [
            (v.origin_mm[axis] - v.spacing_mm[axis] / 2, v.shape[axis] * v.spacing_mm[axis])
            for v in (large, small)
        ]
        assert edges[0] == pytest.approx(edges[1])


def test_heat_keeps_its_highest_value_and_its_zero():
    given = np.array([[[0.0, 0.5, np.nan, 2.0]]])
    assert heat(given).tolist() == [[[0, 64, 0, 255]]]
    assert heat(np.zeros((1, 2, 2))).max() == 0


# ---- what a scene refuses, and where it opens ----------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels": [0, 1]}, "labels are 2, series 1.2.3 has 6 slices"),
        ({"scores": {"video": [0.5]}}, "run 'video' has 1 scores, series 1.2.3 has 2 clips"),
        ({"scores": {"video": [0.5, 3.1]}}, "run 'video' has scores outside"),
        ({"cam": np.zeros((6, 8, 9))}, r"Grad-CAM of run 'Grad-CAM' has shape \(6, 8, 9\)"),
        ({"place": (6, 0, 0)}, r"place is \(6, 0, 0\)"),
        ({"marks": pd.DataFrame([mark(contour="2,3 2,60 5,6")])}, "give the volume as acquired"),
        ({"marks": pd.DataFrame([mark(place=7)])}, "give the volume as acquired"),
        ({"hu_window": "fat"}, "hu_window is 'fat'"),
        ({"viewer": "itkview"}, "viewer is 'itkview'; known are auto, niivue, itk, itkwidgets, static"),
    ],
)
def test_what_does_not_belong_to_the_volume_is_refused(volume, clips, given, said):
    with pytest.raises(ValueError, match=said):
        viewer.show(volume, **{"clips": clips, **given})


def test_clips_beyond_the_volume_are_refused_and_those_of_others_passed_over(volume, clips):
    assert len(viewer.Scene(volume, clips=clips).clips) == 2
    with pytest.raises(viewer.SceneError, match="clips end at 7"):
        viewer.Scene(volume, clips=clips.replace({"stop": {6: 7}}))


def test_it_opens_where_something_is_marked(volume):
    assert viewer.Scene(volume).start == (3, 4, 5)
    assert viewer.Scene(volume, labels=[0, 0, 0, 0, 1, None]).start == (4, 4, 5)
    assert viewer.Scene(volume, marks=pd.DataFrame([mark()]), labels=[0, 0, 0, 0, 1, 0]).start == (2, 4, 4)
    assert viewer.Scene(volume, marks=pd.DataFrame([mark(uid="other")])).start == (3, 4, 5)


def test_bands_hold_every_slice_once_and_say_what_is_known(volume, clips):
    scene = viewer.Scene(
        volume, labels=[0, 0, 1, 1, None, None], clips=clips, runs={"video": viewer.Run([0.0, 1.0])}
    )
    names = [band.name for band in scene.bands]
    assert names == ["labels", "clips", "video"]
    for band in scene.bands:
        assert [i for part in band.parts for i in range(part.start, part.stop)] == list(range(6))
    said = [part.says for band in scene.bands for part in band.parts]
    assert said == [
        "slices 0 to 1, no disease", "slices 2 to 3, disease", "slices 4 to 5, no label",
        "clip 0, no disease", "clip 1, disease", "video, clip 0: 0.000", "video, clip 1: 1.000",
    ]  # fmt: skip
    assert scene.bands[2].parts[1].colour == "#00528c" and scene.bands[2].parts[1].text == "1.00"


# ---- without a page ------------------------------------------------------------------------


def test_in_plain_python_three_planes_are_drawn_in_true_aspect(volume, clips, capsys):
    view = viewer.show(volume, "bone", clips=clips, scores={"video": [0.1, 0.9]}, place=(1, 2, 3))
    assert view.viewer == "static" and "three planes" in capsys.readouterr().out
    axial, coronal, sagittal, bands = view.figure.axes
    assert [ax.get_title(loc="left") for ax in (axial, coronal, sagittal)] == [
        "axial, slice 1", "coronal, row 2", "sagittal, column 3",
    ]  # fmt: skip
    for ax, aspect in ((axial, 0.8 / 0.7), (coronal, 2.5 / 0.7), (sagittal, 2.5 / 0.8)):
        assert ax.get_aspect() == pytest.approx(aspect)
    said = view.figure.get_supxlabel()
    assert "HU window bone, 400/1800 HU" in said and f"{volume.hu[1, 2, 3]} HU".replace("-", "−") in said
    assert len(bands.patches) == 4
    shown = axial.images[0].get_array()
    assert shown[0, 0] < shown[0, 9] or volume.hu[1, 0, 0] >= volume.hu[1, 0, 9]


def test_planes_are_drawn_with_superior_up_and_anterior_left():
    voxels = np.arange(24).reshape(2, 3, 4)
    assert plane(voxels, 0, 1).tolist() == voxels[1].tolist()
    assert plane(voxels, 1, 1).tolist() == [voxels[1, 1].tolist(), voxels[0, 1].tolist()]
    assert plane(voxels, 2, 2).tolist() == [[14, 18, 22], [2, 6, 10]]


def test_a_grid_holds_every_slice_once_from_superior_to_inferior(capsys):
    hu = np.repeat(np.arange(-1000, 400, 100, dtype=np.int16), 6 * 8).reshape(14, 6, 8)
    volume = Volume(hu, (2.5, 0.8, 0.4), UID, (0.0, 0.0, 0.0))
    labels = [None, 1, *[0] * 12]
    view = viewer.grid(volume, "lung", labels=labels, columns=4)
    (ax,) = view.figure.axes
    sheet = ax.images[0].get_array()
    assert sheet.shape == (4 * 12, 4 * 8)  # a pixel of 0.8 x 0.4 mm is as high as two
    levels = [float(np.median(sheet.data[12 * (i // 4) :, 8 * (i % 4) :][:12, :8])) for i in range(14)]
    assert levels == sorted(levels, reverse=True) and len(set(levels)) > 9
    assert [text.get_text() for text in ax.texts] == [str(place) for place in range(13, -1, -1)]
    (frame,) = ax.patches
    assert (frame.get_x() // 8, frame.get_y() // 12) == (0, 3)  # slice 1 is the thirteenth
    assert "all slices" in capsys.readouterr().out
    with pytest.raises(viewer.SceneError, match="labels are 1"):
        viewer.grid(volume, labels=[1])
    with pytest.raises(ValueError, match="columns is -1"):
        viewer.grid(volume, columns=-1)


def test_two_runs_are_compared_with_a_row_of_planes_each(volume):
    cam = np.zeros(volume.shape)
    cam[3] = 1
    view = viewer.compare(volume, {"random": viewer.Run(cam=cam), "video": viewer.Run(cam=cam)})
    assert [ax.get_title(loc="left") for ax in view.figure.axes][:4:3] == [
        "random, axial, slice 3",
        "video, axial, slice 3",
    ]
    with pytest.raises(viewer.SceneError, match=r"was given 1 runs \(random\)"):
        viewer.compare(volume, {"random": viewer.Run()})


class Kernel:
    """A kernel that was asked something."""

    def __init__(self, kind, **content):
        self.request = {"header": {"msg_type": kind}, "content": content}

    def get_parent(self, channel):
        return self.request


@pytest.mark.parametrize(
    ("kernel", "watched"),
    [
        (None, False),
        (Kernel("execute_request", allow_stdin=True), True),
        (Kernel("execute_request", allow_stdin=False), False),  # papermill, nbconvert
        (Kernel("comm_msg", data={}), True),  # a button of a widget
        (Kernel(""), False),
    ],
)
def test_a_page_is_told_from_an_execution_by_who_can_answer(monkeypatch, kernel, watched):
    shell = types.SimpleNamespace(kernel=kernel)
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)
    assert view.is_watched() is watched
    assert view.chosen("itk") == ("itk" if watched else "static")


# ---- notes and exams -----------------------------------------------------------------------


def test_notes_are_kept_one_an_exam_whatever_they_hold(tmp_path):
    notes = browser.Notes(tmp_path / "n" / "notes.csv", "series_uid")
    assert notes.of("a") == ""
    odd = 'a "note", with\ntwo lines, ümlaut and =1+1'
    notes.save("a", odd)
    notes.save("b", "NA")
    notes.save("b", "second")
    again = browser.Notes(tmp_path / "n" / "notes.csv", "series_uid")
    assert again.of("a") == odd and again.of("b") == "second"
    again.save("a", "  ")
    table = pd.read_csv(tmp_path / "n" / "notes.csv")
    assert table[["series_uid", "note"]].to_numpy().tolist() == [["b", "second"]]
    assert [path.name for path in (tmp_path / "n").iterdir()] == ["notes.csv"]


def test_a_note_that_cannot_be_written_leaves_the_others(tmp_path, monkeypatch):
    notes = browser.Notes(tmp_path / "notes.csv", "series_uid")
    notes.save("a", "first")

    def half(self, text, **kw):
        self.write_bytes(b"series_")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space"):
        notes.save("b", "second")
    assert notes.of("a") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.csv"]


def test_a_csv_that_holds_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("study,label\n1,0\n")
    with pytest.raises(browser.NotesError, match=r"labels.csv has columns \['study', 'label'\]"):
        browser.Notes(path, "series_uid")
    assert path.read_text() == "study,label\n1,0\n"


def test_where_nobody_sits_the_exams_are_listed_by_the_column(volume, tmp_path, monkeypatch):
    listed = []
    monkeypatch.setattr(
        "ctlib.visualization.html.table", lambda frame, caption, folded: listed.extend(frame["series_uid"])
    )

    def exams(uid):
        return viewer.Scene(volume)

    table = pd.DataFrame({"series_uid": ["a", "b", "c"], "disagreement": [0.1, 0.9, 0.5]})
    assert viewer.browse(table, exams, tmp_path / "notes.csv") is None
    assert listed == ["b", "c", "a"] and not (tmp_path / "notes.csv").exists()
    with pytest.raises(ValueError, match="no column 'auroc'"):
        viewer.browse(table, exams, tmp_path / "n.csv", sort_by="auroc")
    with pytest.raises(ValueError, match="has series_uid a twice"):
        viewer.browse(pd.concat([table, table]), exams, tmp_path / "n.csv")


def test_disagreement_is_between_the_mean_scores_of_the_finished_runs():
    runs = pd.DataFrame(
        {
            "run_id": list("abcde"), "task": "t", "backbone": "n", "fraction": [1, 1, 1, 1, 0.5],
            "init": ["random", "random", "video", "video", "video"],
            "status": ["finished", "finished", "finished", "failed", "finished"],
        }
    )  # fmt: skip
    rows = [
        (run, "test", study, clip, score, study == "s1")
        for run, scores in {
            "a": (0.2, 0.4, 0.9),
            "b": (0.4, 0.2, 0.9),
            "c": (0.8, 0.1, 0.7),
            "e": (0, 0, 0),
        }.items()
        for (study, clip), score in zip((("s1", 0), ("s1", 1), ("s2", 0)), scores, strict=True)
    ]
    predictions = pd.DataFrame(rows, columns=["run_id", "split", "study", "clip", "score", "study_label"])
    scores = viewer.exam_scores(runs, predictions, "t", 1)
    series = pd.DataFrame({"series_uid": ["x", "y"], "study_uid": ["s1", "s2"], "patient_id": ["p", "q"]})
    table = viewer.disagreement(scores, series, ["random", "video"])
    assert table["series_uid"].tolist() == ["x", "y"] and table["label"].tolist() == [1, 0]
    assert table["score_random"].tolist() == pytest.approx([0.3, 0.9])
    assert table["disagreement"].tolist() == pytest.approx([0.5, 0.2])


# ---- the other viewers ---------------------------------------------------------------------


@pytest.fixture
def dist(tmp_path):
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "itkVtkViewer.js").write_text("// the viewer")
    (tmp_path / "secret.txt").write_text("of somebody")
    return folder


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def test_itk_serves_the_volume_as_an_image_and_contours_as_a_label_map(volume, dist):
    scene = viewer.Scene(volume, "lung", marks=pd.DataFrame([mark()]))
    address = itk.page(scene, dist)
    base, query = address.split("?")
    assert base.startswith("http://127.0.0.1:") and "hu=-1350,150" in query
    parts = dict(part.split("=") for part in query.split("&"))
    read = nibabel.Nifti1Image.from_bytes(get(parts["fileToLoad"]))
    assert read.get_data_dtype() == np.float32  # integers of few values would be taken for labels
    assert np.array_equal(np.asarray(read.dataobj).transpose(2, 1, 0), volume.hu)
    assert nibabel.Nifti1Image.from_bytes(get(parts["labelImage"])).get_data_dtype() == np.uint8
    assert b"processURLParameters" in get(address) and get(base + "itkVtkViewer.js") == b"// the viewer"


def test_itk_serves_nothing_else_and_nobody_without_the_address(volume, dist):
    base = itk.page(viewer.Scene(volume), dist).split("?")[0]
    root = "/".join(base.split("/")[:3])
    for url in (
        f"{root}/",
        f"{root}/itkVtkViewer.js",
        f"{base}../secret.txt",
        f"{base}%2e%2e/secret.txt",
        f"{base}itk/",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(url)


def test_itk_forgets_the_exams_that_were_shown_long_ago(volume, dist):
    first = itk.page(viewer.Scene(volume), dist).split("fileToLoad=")[1].split("&")[0]
    for _ in range(2 * itk.N_SERVED):
        itk.page(viewer.Scene(volume), dist)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(first)


def test_itk_that_was_not_fetched_is_said(volume, tmp_path):
    with pytest.raises(itk.ItkMissing, match="run `make itk-viewer` once"):
        itk.page(viewer.Scene(volume), tmp_path)


@pytest.fixture
def stand_ins(monkeypatch):
    """itkwidgets and what it brings, that only note what they are given."""
    given = []
    ngff = types.SimpleNamespace(to_ngff_image=lambda data, **grid: {"data": data, **grid})
    widgets = types.SimpleNamespace(view=lambda **arguments: given.append(arguments) or "shown")
    modules = {
        "itkwidgets": widgets,
        "imjoy_jupyterlab_extension": types.SimpleNamespace(),
        "ngff_zarr": ngff,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return given


def test_itkwidgets_is_given_hu_mm_hu_window_and_contours(volume, stand_ins, monkeypatch):
    monkeypatch.setattr(itk.socket, "create_connection", lambda *a, **k: io.BytesIO())
    itk.show_itkwidgets(viewer.Scene(volume, "pe", marks=pd.DataFrame([mark()])))
    (given,) = stand_ins
    assert given["image"]["data"] is volume.hu and given["image"]["dims"] == ("z", "y", "x")
    assert given["image"]["scale"] == {"z": 2.5, "y": 0.8, "x": 0.7}
    assert given["image"]["translation"] == {"z": -80.0, "y": 5.0, "x": 7.0}
    assert (given["vmin"], given["vmax"]) == (-100, 900)
    assert np.array_equal(given["label_image"]["data"], contours(volume, pd.DataFrame([mark()])))


def test_itkwidgets_without_a_network_says_so_and_what_to_use(volume, stand_ins, monkeypatch):
    def cut(*args, **kw):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(itk.socket, "create_connection", cut)
    with pytest.raises(
        itk.ItkwidgetsMissing, match=r"cannot be reached from here .*Network is unreach"
    ) as said:
        itk.show_itkwidgets(viewer.Scene(volume))
    assert 'viewer="niivue"' in str(said.value) and stand_ins == []


@pytest.mark.parametrize("absent", itk.PACKAGES)
def test_itkwidgets_without_a_package_says_which(volume, stand_ins, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(itk.ItkwidgetsMissing, match=f"needs the package {absent}, which is not installed"):
        itk.show_itkwidgets(viewer.Scene(volume))
