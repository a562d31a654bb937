import io
import itertools
import re
import types
import warnings
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from made_up_results import made_up, plain
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from test_claims import study_of

from ctlib.analysis import findings
from ctlib.datasets.store import Store
from ctlib.io.volume import Volume
from ctlib.metrics import Bootstrap, arm_aurocs, effects, run_aurocs
from ctlib.visualization import figures
from ctlib.visualization.html import figure_html, png, svg, table_html
from ctlib.visualization.style import FIGURES as ALL
from ctlib.visualization.style import INITS, init_look, init_looks, style

NETWORKS = ["slow_r50", "r2plus1d_r50", "x3d_m"]
TASKS = ["lidc_nodule", "rspect_pe"]
SVG = "{http://www.w3.org/2000/svg}"


def results(tasks=TASKS, fractions=(0.25, 1.0), seeds=(0, 1), missing=(), single_class=False):
    """Tables `runs`, `curves` and `predictions` of a small grid; `missing` are indices of failed runs."""
    rng, runs, curves, predictions = np.random.default_rng(4), [], [], []
    label = np.ones(16, int) if single_class else np.arange(16) % 2
    names = [f"p{i}" for i in range(16)]
    arms = [
        (t, b, i, f, s) for t in tasks for b in NETWORKS for i in INITS_USED for f in fractions for s in seeds
    ]
    for k, (task, backbone, init, fraction, seed) in enumerate(arms):
        run, status = f"run{k}", "failed" if k in missing else "finished"
        runs.append((run, task, backbone, init, fraction, seed, 1e-3, status))
        for epoch in (1, 2, 3):
            curves.append((run, epoch, np.nan if k in missing else 0.5 + 0.1 * epoch))
        score = rng.random(16) + 0.3 * label
        part = pd.DataFrame({"run_id": run, "patient_id": names, "study": names, "score": score / 2})
        predictions += [] if k in missing else [part.assign(study_label=label, split="test", clip=0)]
    columns = ["run_id", "task", "backbone", "init", "fraction", "seed", "lr", "status"]
    return (
        pd.DataFrame(runs, columns=columns),
        pd.DataFrame(curves, columns=["run_id", "epoch", "val_auroc"]),
        pd.concat(predictions),
    )


INITS_USED = ["random", "video"]
GRIDS = {
    "whole": {},
    "one task, one fraction, one seed": {"tasks": TASKS[:1], "fractions": (0.25,), "seeds": (0,)},
    "missing runs": {"missing": (1, *range(18, 24))},
    "no AUROC": {"single_class": True, "seeds": (0,), "tasks": TASKS[:1]},
}


def cohort(n, seed=0, labels=True):
    rng = np.random.default_rng([5, seed])
    depth, label = rng.integers(20, 30, n), np.arange(n) % 2
    uids = [f"u{seed}.{i}" for i in range(n)]
    series = pd.DataFrame({"patient_id": uids, "series_uid": uids, "n_slices": depth, "thickness_mm": np.nan})
    series = series.assign(spacing_z_mm=5.0, spacing_x_mm=rng.uniform(0.6, 0.9, n), label=label)
    parts = []
    for uid, d, sick in zip(uids, depth, label, strict=True):
        marked = [int(sick and 6 <= i < 10) for i in range(d)]
        parts.append(pd.DataFrame({"series_uid": uid, "slice": range(d), "label": marked}))
    slices = pd.concat(parts, ignore_index=True)
    slices["z_mm"] = -300 + 5.0 * slices["slice"]
    if not labels:
        series["label"], slices["label"] = pd.NA, pd.NA
    return types.SimpleNamespace(series=series, slices=slices)


def volume(spacing=(5.0, 1.0, 1.0), shape=(12, 40, 60)):
    hu = np.full(shape, -1000, np.int16)
    hu[:, 10:30, 15:50] = 40
    hu[:, 12:15, 18:22] = 900  # anterior and right: top left in a radiological picture
    return Volume(hu, spacing, "1.2.3", (-100.0, 0.0, 0.0))


def marks():
    ring = "18,30 18,34 22,34 22,30"
    rows = [("1.2.3", 0, reader, place, -70.0, True, ring) for reader in range(4) for place in (5, 6)]
    rows += [
        ("1.2.3", 0, 0, 5, -75.0, False, "19,31 19,32 20,32"),
        ("1.2.3", 1, 0, 2, -90.0, True, "1,1 1,2 2,2"),
    ]
    columns = ["series_uid", "nodule", "reader", "slice", "z_mm", "inclusion", "contour"]
    return pd.DataFrame(rows, columns=columns)


def pretraining():
    ends = zip([*NETWORKS, "resnet18"], [0.9, 0.88, 0.87, np.nan], strict=True)
    rows = [("video", name, epoch, end * epoch / 5) for name, end in ends for epoch in range(1, 6)]
    table = pd.DataFrame(rows, columns=["init", "backbone", "epoch", "heldout_metric"])
    table = table.assign(train_loss=2.2 - table["heldout_metric"], heldout_loss=2.3 - table["heldout_metric"])
    return table.assign(metric="accuracy", chance=1 / 9)


def two_inits():
    labels_free = pretraining().assign(init="ct_lidc_ssl", metric="clips found again", chance=0.02)
    return pd.concat([pretraining(), labels_free], ignore_index=True)


CLIPS = pd.DataFrame({"low_mm": [0.0, 80, 160], "high_mm": [80.0, 160, 200], "score": [0.2, np.nan, 1.0]})
FRAMES = {f"motion_{i}": np.random.default_rng(i).random((16, 48, 48)) for i in range(5)}


def drawn():
    for name, options in GRIDS.items():
        runs, curves, predictions = results(**options)
        how = Bootstrap(50)
        table = effects(runs, predictions, averaged=NETWORKS[:2], how=how)
        yield f"effect_forest, {name}", lambda t=table: figures.effect_forest(t)
        dots, means = run_aurocs(runs, predictions), arm_aurocs(runs, predictions, how)
        yield f"auroc_by_fraction, {name}", lambda d=dots, m=means: figures.auroc_by_fraction(d, m)
        yield f"learning_curves, {name}", lambda c=curves, r=runs: figures.learning_curves(c, r)
    for name, data in {
        "two": {"rspect": cohort(60), "lidc": cohort(20, 1)},
        "one exam": {"lidc": cohort(1)},
        "no label": {"lidc": cohort(3, labels=False)},
    }.items():
        yield f"geometry, {name}", lambda d=data: figures.geometry(d)
        yield f"label_bands, {name}", lambda d=data: figures.label_bands(d)
    yield "hu_histogram", lambda: figures.hu_histogram({"rspect": [volume().hu], "lidc": [volume().hu] * 3})
    yield "montage", lambda: figures.montage(figures.slices_of(volume(), range(6), [0, 1] * 6), "lung")
    yield "montage, one", lambda: figures.montage(figures.slices_of(volume(), [3]), "pe")
    large = Volume(
        np.random.default_rng(0).integers(-1000, 400, (8, 512, 512), np.int16), (1, 0.7, 0.7), "l", (0, 0, 0)
    )
    yield "contact_sheet", lambda: figures.contact_sheet(volume(), "lung")
    yield "montage, large", lambda: figures.montage(figures.slices_of(large, range(8)), "lung")
    yield "contours", lambda: figures.contours(volume(), marks(), "lung")
    yield "video_strip", lambda: figures.video_strip(FRAMES)
    yield "pretraining_curves", lambda: figures.pretraining_curves(pretraining())
    yield "pretraining_curves, two", lambda: figures.pretraining_curves(two_inits())
    yield "pretraining_curves, none", lambda: figures.pretraining_curves(pretraining().head(0))
    yield "clip_scores", lambda: figures.clip_scores(CLIPS, "an exam")
    yield "clip_scores, labelled", lambda: figures.clip_scores(CLIPS.assign(label=[0, pd.NA, 1]), "an exam")


def asked(key, options):
    """The figure of a question, of made-up results."""
    runs = made_up(plain({"video": 0.1}), n_patients=24, **options)
    found = findings.answer(key, study_of(runs))
    return found.question.draw(found.study, found.table)


ASKED = ("two_d", "fractions", "speed", "cost", "calibration")
LOST = {"lost": lambda row: "failed" if row["seed"] == 1 and row["backbone"] == "slow_r50" else ""}


def questions():
    for key in ASKED:
        yield f"question {key}", lambda k=key: asked(k, {})
        yield f"question {key}, runs lost", lambda k=key: asked(k, LOST)
    seven = [
        "slow_r50",
        "slowfast_r50",
        "r2plus1d_r50",
        "csn_r101",
        "mvit_b",
        "swin3d_t",
        "penet",
        "resnet18",
    ]
    yield "question cost, eight networks", lambda: asked("cost", {"backbones": seven})
    controls = ("random", "video", "shuffled:video", "first_2:video", "frozen:video")
    yield "question ladder", lambda: asked("weight_ablations", {"inits": controls})
    one = {"tasks": ["lidc_nodule"], "fractions": [1.0], "seeds": [0]}
    yield "question cost, one of everything", lambda: asked("cost", one)
    yield "question speed, one of everything", lambda: asked("speed", one)


FIGURES = dict(drawn()) | dict(questions())


def weighed(name):
    """Figures of questions need an analysis first, which takes seconds: they are among the slow tests."""
    return pytest.param(name, marks=pytest.mark.slow) if name.startswith("question") else name


@pytest.mark.parametrize("name", [weighed(name) for name in FIGURES if not name.endswith("whole")])
def test_every_figure_is_complete_small_and_silent(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name]()
        html = figure_html(figure, "what is seen", "a caption")
        figure.draw_without_rendering()  # places were those of another resolution
    # Noise is the worst case of a picture; real slices of the same size take two thirds of it.
    assert len(html) < (250_000 if name in ("montage, large", "video_strip") else 170_000)
    box = figure.bbox.padded(1)
    for words in set(figure.findobj(drawn_text)) - {t for ax in figure.axes for t in tick_labels(ax)}:
        assert words.get_fontsize() >= 8.9, words
        extent = words.get_window_extent()
        inside = box.contains(extent.x0, extent.y0) and box.contains(extent.x1, extent.y1)
        assert inside, f"{words.get_text()!r} is cut off"


def drawn_text(artist):
    """Whether an artist is words that can be seen."""
    if not isinstance(artist, Text) or not artist.get_visible() or not artist.get_text().strip():
        return False
    return artist.axes is None or artist.axes.get_visible()


def tick_labels(ax):
    """Texts of ticks; those beyond the range are there but never drawn."""
    return [t for axis in (ax.xaxis, ax.yaxis) for t in axis.findobj(Text) if t is not axis.label]


def test_every_figure_is_named_where_others_look_for_it():
    own = {name: drawn for name, drawn in ALL.items() if (drawn.__module__ or "").startswith("ctlib.")}
    assert len(own) > 20 and [name for name in own if getattr(figures, name, None) is not own[name]] == []


def test_nothing_global_changes():
    before = dict(matplotlib.rcParams)
    svg(FIGURES["clip_scores"]())
    assert dict(matplotlib.rcParams) == before


def test_the_same_figure_has_the_same_bytes():
    assert svg(FIGURES["montage"]()) == svg(FIGURES["montage"]())
    assert png(FIGURES["clip_scores"]()) == png(FIGURES["clip_scores"]())


def test_an_svg_is_brief_and_drawn_as_matplotlib_wrote_it():
    figure = FIGURES["clip_scores"]()
    with style():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    short, long = svg(figure), buffer.getvalue()
    assert len(short) < 0.66 * len(long)
    brief, whole = ElementTree.fromstring(short), ElementTree.fromstring(long)
    names = [node.get("id") for node in brief.iter() if node.get("id")]
    called = re.findall(rb'(?:href="|url\()#([^")]+)', short)
    assert len(names) == len(set(names)) and set(names) == {name.decode() for name in called}
    ways = dict(re.findall(r"\.(s\w+)\{([^}]*)\}", short.decode()))
    drawn = [ways[node.get("class")] for node in brief.iter() if node.get("class")]
    styled = [node.get("style") for node in whole.iter() if node.get("style")]
    assert drawn == [style.replace(": ", ":").replace("; ", ";") for style in styled]
    letters = [node for node in brief.iter(f"{SVG}use") if node.get("x") and "." not in node.get("x")]
    assert len(letters) > 20
    places = [node.get("transform") for node in whole.iter(f"{SVG}use") if node.get("transform")]
    level = [float(place[10:].split()[0]) for place in places if place.endswith(" 0)")]
    assert np.allclose([float(node.get("x")) for node in letters], level, atol=0.51)


# ---- how figures and tables are shown --------------------------------------------------


def test_a_shown_figure_has_its_texts_and_needs_no_network(capsys):
    html = figure_html(FIGURES["clip_scores"](), 'scores "high" & low', "n < 5 patients")
    assert html.startswith("<figure") and 'alt="scores &quot;high&quot; &amp; low"' in html
    assert "<figcaption>n &lt; 5 patients</figcaption>" in html and 'src="data:image/svg+xml;base64,' in html
    assert "http" not in html and 'width="720"' in html and 'class="ct-figure ct-chart"' in html
    assert 'class="ct-figure"' in figure_html(FIGURES["montage"](), "alt", "caption")  # no chart
    with pytest.raises(ValueError, match="alt is empty"):
        figures.show(FIGURES["clip_scores"](), " ", "caption")


def test_a_figure_of_many_shapes_becomes_a_png():
    data = {"lidc": cohort(700)}
    assert 'src="data:image/png;base64,' in figure_html(figures.label_bands(data), "alt", "caption")


def test_a_table_rounds_to_what_matters():
    frame = pd.DataFrame({"task": ["a<b", "c"], "fraction": [0.25, 1.0], "n_patients": [12345, 7]})
    frame = frame.assign(auroc=[0.81249, np.nan], low=[0.7, 0.6], spacing_z_mm=1.25, seconds=[5.4673, 612.3])
    html = table_html(frame, "A & B")
    assert re.findall(r"<td[^>]*>(.*?)</td>", html)[:7] == [
        "a&lt;b",
        "25 %",
        "12,345",
        "0.812",
        "0.700",
        "1.25",
        "5",
    ]
    assert (
        "<caption>A &amp; B</caption>" in html
        and '<td class="num">–</td>' in html
        and '<td style="text-align:left">c</td>' in html
    )
    rounded = table_html(frame, "", {"seconds": "{:.1f}"})
    assert '<td class="num" data-v="5.4673">5.5</td>' in rounded  # what is rounded is there to take along
    assert '<td class="num" data-v="12345">12,345</td>' in html and 'align:left">task</th>' in html


def test_ends_of_a_difference_are_signed_and_an_empty_table_says_so():
    html = table_html(pd.DataFrame({"effect": [0.05], "low": [-0.01], "high": [0.11]}), "")
    assert re.findall(r"<td[^>]*>(.*?)</td>", html) == ["+0.050", "−0.010", "+0.110"]
    assert ": none." in table_html(pd.DataFrame({"run_id": []}), "Runs that failed")


# ---- what figures show -----------------------------------------------------------------


def texts(figure):
    return [words.get_text() for words in figure.findobj(Text)]


USUAL = ["random", "video", "kinetics400", "imagenet", "ct_lidc", "ct_rspect", "kinetics400+ct_lidc"]
USUAL += [f"{c}:video" for c in ("meanvar", "shuffled", "first_2", "reversed", "flat", "frozen")]
BLIND = {
    "no": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""Machado, Oliveira and Fernandes 2009 (doi:10.1109/TVCG.2009.113), severity 1, linear RGB."""


def linear(colour):
    parts = np.array(to_rgb(colour))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE 1976 L*a*b* of linear sRGB, white D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", BLIND)
def test_inits_are_told_apart_by_colour_with_any_sight(sight):
    seen = {init: lab(np.array(BLIND[sight]) @ linear(init_look(init).colour)) for init in USUAL}
    near = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(USUAL, 2)}
    assert min(near.values()) > 12, min(near, key=near.get)


def test_names_of_inits_are_dark_enough_to_be_read():
    for init in [*USUAL, *INITS, "mine", "yours", "shuffled:kinetics400"]:
        luminance = linear(init_look(init).colour) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) > 2.9, init


def test_an_init_looks_the_same_whatever_stands_beside_it():
    names = [*USUAL, "mine", "ct_other", "frozen:shuffled:video"]
    assert len({init_look(init) for init in names}) == len(names)
    for init in names:
        assert init_looks([init, "random"])[init] == init_looks(["ct_mine", "a", init])[init]
    assert init_look("shuffled:kinetics400").colour != init_look("shuffled:video").colour


def test_colours_are_fixed_by_init():
    for name in ("learning_curves, whole", "auroc_by_fraction, whole"):
        lines = [line for ax in FIGURES[name]().axes for line in ax.lines if len(line.get_xdata()) > 1]
        assert {INITS["video"].colour.lower(), INITS["random"].colour} <= {
            to_hex(line.get_color()) for line in lines
        }


def test_names_of_inits_can_be_read():
    legend = FIGURES["auroc_by_fraction, whole"]().legends[0]
    assert [words.get_text() for words in legend.get_texts()] == INITS_USED
    assert [to_hex(words.get_color()) for words in legend.get_texts()] == [
        INITS[init].colour.lower() for init in INITS_USED
    ]


@pytest.mark.parametrize(
    "name", ["learning_curves, whole", "auroc_by_fraction, whole", "effect_forest, whole"]
)
def test_panels_share_their_ranges(name):
    axes = FIGURES[name]().axes
    assert (
        len(axes) > 1
        and len({ax.get_ylim() for ax in axes}) == 1
        and len({ax.get_xlim() for ax in axes}) == 1
    )


def test_dots_means_and_intervals_have_the_colour_of_their_init():
    runs, _, predictions = results()
    dots, means = run_aurocs(runs, predictions), arm_aurocs(runs, predictions, Bootstrap(50))
    axes = figures.auroc_by_fraction(dots, means).axes
    for place, task, network in ((0, TASKS[0], NETWORKS[0]), (5, TASKS[1], NETWORKS[2])):
        panel = axes[place]
        for table, marker in ((dots, "."), (means, "None")):
            here = table[(table["task"] == task) & (table["backbone"] == network)]
            drawn = {
                to_hex(line.get_color()): sorted(line.get_ydata())
                for line in panel.lines
                if line.get_marker() == marker
            }
            for init in INITS_USED:
                wanted = sorted(here.loc[here["init"] == init, "auroc"])
                assert drawn[INITS[init].colour.lower()] == pytest.approx(wanted)
        ends = np.array([segment[:, 1] for segment in panel.collections[1].get_segments()])
        video = here[here["init"] == "video"].sort_values("fraction")
        assert ends == pytest.approx(video[["low", "high"]].to_numpy())


def test_missing_runs_are_shown_as_missing():
    scores = FIGURES["auroc_by_fraction, missing runs"]()
    assert [ax.texts[0].get_text() if ax.texts else "" for ax in scores.axes[:3]] == [
        "1 of 8 runs missing",
        "",
        "6 of 8 runs missing",
    ]


def test_the_forest_says_what_the_table_says():
    runs, _, predictions = results()
    table = effects(runs, predictions, averaged=NETWORKS[:2], how=Bootstrap(50))
    table.loc[0, ["effect", "low", "high"]] = [-0.1234, -0.2, 0.04]
    figure = figures.effect_forest(table)
    assert "−0.12 (−0.20 to +0.04)" in texts(figure) and "16 test patients, 8 with disease" in figure.axes[
        0
    ].get_title(loc="left")
    first = next(line for line in figure.axes[0].lines if list(line.get_xdata()) == [-0.2, 0.04])
    assert list(first.get_ydata()) == [1, 1]
    assert figure.get_supxlabel() == "difference in test AUROC: video − random"
    with pytest.raises(ValueError, match="2 pairs of inits"):
        figures.effect_forest(pd.concat([table, table.assign(init="imagenet")]))


def test_ct_is_shown_in_radiological_convention_and_true_aspect():
    figure = figures.montage(figures.slices_of(volume(spacing=(5.0, 2.0, 1.0)), [3]), "lung")
    png(figure)
    ax = figure.axes[0]
    shown = ax.images[0]
    column, row = ax.transData.transform((20, 13))  # the bright mark: right, anterior
    middle = ax.transData.transform((29.5, 19.5))
    assert column < middle[0] and row > middle[1]
    assert shown.origin == "upper" and shown.get_array()[13, 20] == 63 and shown.get_array()[0, 0] < 20
    box = ax.get_window_extent()
    assert box.height / box.width == pytest.approx((40 * 2.0) / (60 * 1.0), rel=0.01)
    left_to_right = sorted((w.get_position()[0], w.get_text()) for w in ax.texts)
    assert [side for _, side in left_to_right] == ["R", "L"]
    assert any("−600/1500 HU" in words for words in texts(figure))


def test_a_large_slice_is_shown_as_area_means():
    figure = FIGURES["montage, large"]()
    assert all(ax.images[0].get_array().shape[0] < 200 for ax in figure.axes)
    assert figure.axes[0].images[0].get_extent() == [-0.5, 511.5, 511.5, -0.5]


def test_contours_lie_on_the_pixels_they_name():
    figure = figures.contours(volume(), marks(), "lung")
    assert [ax.get_title(loc="left").split(",")[0] for ax in figure.axes] == [
        "slice 5",
        "slice 6",
    ]  # of the larger nodule
    assert "readers: 4" in figure.axes[0].get_title(loc="left") and "z -75.0 mm" in figure.axes[0].get_title(
        loc="left"
    )
    ring, hole = figure.axes[0].lines[0], figure.axes[0].lines[-1]
    assert list(ring.get_xdata()) == [30, 34, 34, 30, 30] and list(ring.get_ydata()) == [18, 18, 22, 22, 18]
    assert hole.get_linestyle() == ":"
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    part = figure.axes[0].images[0].get_array()
    row, column = round(13 - top - 0.5), round(20 - left - 0.5)
    assert part[row, column] == 63 and part[row, column + 2] < 63  # the bright mark ends at column 21
    assert left < 30 < 34 < right and top < 18 < 22 < bottom
    with pytest.raises(ValueError, match=r"no mark of series 9\.9"):
        figures.contours(Volume(volume().hu, (5.0, 1.0, 1.0), "9.9", (0.0, 0.0, 0.0)), marks(), "lung")


def test_bands_stand_where_the_labels_are():
    figure = figures.label_bands({"lidc": cohort(4)})
    assert "2 of 4 exams" in figure.axes[0].get_title(loc="left")
    assert figures.n_patients({"lidc": cohort(4)}) == "lidc: 4 patients, 4 exams"
    marked = [bar for bar in figure.axes[0].patches if to_hex(bar.get_facecolor()) == "#e69f00"]
    assert sorted({bar.get_y() + bar.get_height() / 2 for bar in marked}) == [30, 35, 40, 45]  # slices 6 to 9
    assert len(marked) == 8 and {bar.get_height() for bar in marked} == {5.0}


def test_examples_show_both_classes_and_a_labelled_slice(tmp_path):
    data, store = cohort(5), Store(tmp_path, 16)
    for uid, depth in zip(data.series["series_uid"], data.series["n_slices"], strict=True):
        hu = np.zeros((depth, 32, 32), np.int16) + np.arange(depth, dtype=np.int16)[:, None, None]
        store.put(Volume(hu, (5.0, 0.7, 0.8), uid, (0.0, 0.0, 0.0)))
    pictures = figures.examples(store, data, n=4)
    assert [picture.positive for picture in pictures] == [True, False, True, False]
    assert all(6 <= picture.hu.min() < 10 for picture in pictures if picture.positive)
    assert pictures[0].spacing_mm == pytest.approx((1.4, 1.6))
    assert len(figures.examples(store, data, n=10)) == 10  # fewer exams than pictures: several slices each
    ill = data.series.loc[data.series["label"] == 1, "series_uid"]
    of_exams = data.slices["label"].astype("Int64").mask(data.slices["series_uid"].isin(ill))
    unmarked = types.SimpleNamespace(series=data.series, slices=data.slices.assign(label=of_exams))
    first, second = figures.examples(store, unmarked, n=2)  # labels of exams only, as a user's own data have
    assert first.title.endswith(", exam with disease") and first.positive
    assert second.title.endswith(", no disease") and second.positive is False
    assert len(figures.sample(store, data, 3)) == 3 and figures.sample(store, data, 99)[4].shape[1:] == (
        16,
        16,
    )
