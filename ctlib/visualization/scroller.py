"""Exams to scroll through inside a static page: slices, labels, scores of clips, contours, heat.

What is shown is all in the page (see `ctlib.visualization.scroller` for the pixels), and the script
that turns slices is in `assets`. Without a script, and on paper, each exam is a strip of slices.
"""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ctlib.core import HU_MIN, HU_WINDOWS, counted, hu
from ctlib.datasets import Cohort, Task
from ctlib.io import Volume
from ctlib.visualization.html import address
from ctlib.visualization.slices import CohortTables, in_turn, points_of
from ctlib.visualization.style import DISEASE, READERS, init_looks

CENTRE_HU, SOFTNESS_HU = 40.0, 200.0
"""Where the code is finest, and how far from there a step has grown by the square root of 2."""
LOW_HU = float(HU_MIN)
HIGH_HU = max(hu_window.high for hu_window in HU_WINDOWS.values())
"""No named HU window tells apart what is above."""
COLUMNS = 12
"""Tiles a row of the picture: the longest side that WebP allows, 16,383 px, holds 64 rows of 256 px."""
MAX_SLICES = 120
"""Of a longer volume every second (third, ...) slice is kept."""
TRIES = (
    (256, None), (256, 90), (192, 90), (192, 80), (160, 80), (160, 70), (128, 70), (128, 50), (96, 40),
)  # fmt: skip
"""Longest side of a tile, px, and WebP quality (0 to 100; None is without loss); the first that fits."""
_PX_PER_BYTE = 2.2
"""Of WebP without loss, at most: what cannot fit is not tried."""
_ENDS = (math.asinh((LOW_HU - CENTRE_HU) / SOFTNESS_HU), math.asinh((HIGH_HU - CENTRE_HU) / SOFTNESS_HU))


def to_code(hu: NDArray[np.generic]) -> NDArray[np.uint8]:
    """HU of any shape to codes 0 to 255; what is outside `LOW_HU` to `HIGH_HU` gets the code of the end.

    >>> to_code(np.array([-1024, 0, 40, 80, 3071])).tolist()
    [0, 113, 123, 133, 255]
    """
    bent = np.arcsinh((np.asarray(hu, np.float32) - CENTRE_HU) / SOFTNESS_HU)
    share = np.clip((bent - _ENDS[0]) / (_ENDS[1] - _ENDS[0]), 0, 1)
    return np.rint(255 * share).astype(np.uint8)


def from_code(code: NDArray[np.generic]) -> NDArray[np.float64]:
    """Codes of any shape to HU; of HU in range it gives them back to half a step.

    >>> from_code(np.array([0, 123, 255])).round().tolist()
    [-1024.0, 39.0, 1300.0]
    """
    bent = _ENDS[0] + np.asarray(code, np.float64) / 255 * (_ENDS[1] - _ENDS[0])
    return CENTRE_HU + SOFTNESS_HU * np.sinh(bent)


@dataclass(frozen=True)
class Atlas:
    """A picture of tiles, row by row.

    Args:
        webp: the picture.
        tile_px: rows and columns of a tile.
        n: tiles.
        exact: whether codes are kept without loss and at the size of the slices.
    """

    webp: bytes
    tile_px: tuple[int, int]
    n: int
    exact: bool

    @property
    def address(self) -> str:
        """As a page holds it, a `data:` address."""
        return address(self.webp)


def kept(n: int) -> list[int]:
    """Indices of the slices that are shown of a volume of n.

    >>> len(kept(100)), kept(250)[:3]
    (100, [0, 3, 6])
    """
    return list(range(0, n, math.ceil(n / MAX_SLICES)))


def atlas(hu: NDArray[np.int16], max_bytes: int) -> Atlas:
    """The slices as one picture of codes, as sharp as the bytes allow.

    Args:
        hu: int16 `[D, H, W]`, HU; what is reduced, is by area means.
        max_bytes: of the picture.

    Raises:
        ValueError: it does not fit.
    """
    for longest_px, quality in TRIES:
        scale = min(1.0, longest_px / max(hu.shape[1:]))
        size = (max(1, round(hu.shape[2] * scale)), max(1, round(hu.shape[1] * scale)))
        if quality is None and len(hu) * size[0] * size[1] > _PX_PER_BYTE * max_bytes:
            continue
        webp = _webp(Image.fromarray(tiled(to_code(_resized(hu, size)))), quality)
        if len(webp) <= max_bytes:
            return Atlas(webp, (size[1], size[0]), len(hu), quality is None and scale == 1)
    raise ValueError(
        f"atlas: {len(hu)} slices take {len(webp):,} bytes, {max_bytes:,} are allowed; show fewer exams."
    )


def heat_atlas(heat: NDArray[np.floating], longest_px: int = 64) -> Atlas:
    """Heat as a picture with transparency: dark red where it begins, yellow and opaque at 1.

    Args:
        heat: `[D, h, w]` in [0, 1]; NaN is shown as nothing.
        longest_px: longest side of a tile, px.
    """
    from matplotlib import colormaps

    scale = min(1.0, longest_px / max(heat.shape[1:]))
    size = (max(1, round(heat.shape[2] * scale)), max(1, round(heat.shape[1] * scale)))
    known = np.clip(np.nan_to_num(np.asarray(heat, np.float32)), 0, 1)
    flat = tiled(_resized(known, size))
    rgba = np.rint(255 * colormaps["inferno"](0.25 + 0.7 * flat)).astype(np.uint8)
    rgba[..., 3] = np.rint(255 * np.sqrt(flat))
    return Atlas(_webp(Image.fromarray(rgba), 70), (size[1], size[0]), len(heat), False)


def _resized(planes: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Planes `[n, h, w]` at a size (width, height), px, by area means."""
    if planes.shape[:0:-1] == size:
        return planes
    return np.stack([np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA)) for plane in planes])


def tiled(planes: NDArray[Any]) -> NDArray[Any]:
    """`[n, h, w]` as one plane of tiles, `COLUMNS` a row, the rest 0.

    >>> tiled(np.ones((13, 2, 3))).shape
    (4, 36)
    """
    n, height, width = planes.shape
    rows = math.ceil(n / COLUMNS)
    full = np.zeros((rows * COLUMNS, height, width), planes.dtype)
    full[:n] = planes
    turned = full.reshape(rows, COLUMNS, height, width).transpose(0, 2, 1, 3)
    return np.asarray(turned.reshape(rows * height, COLUMNS * width))


def _webp(picture: Image.Image, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    how = {"lossless": True, "exact": True, "quality": 60} if quality is None else {"quality": quality}
    picture.save(buffer, "WEBP", method=2, **how)
    return buffer.getvalue()


PARTS = Path(__file__).parent / "assets"
MAX_BYTES = 4_800_000
"""Of all pictures of a scroller; base64 makes 6.4 MB of it, and a report with one holds 8 MB."""
MAX_BYTES_AN_EXAM = 1_000_000
STRIP_SLICES, STRIP_PX = 6, 128
"""Slices of a strip, and the longest side of each, px."""


@dataclass(frozen=True)
class ClipScores:
    """What one run, or the mean of some, says of each clip of an exam.

    Args:
        name: what people read, for example "video, mean of 3 seeds".
        by_clip: score in [0, 1] of each clip, in the order of the clips; NaN where there is none.
        init: decides the colour.
    """

    name: str
    by_clip: Sequence[float]
    init: str = ""


@dataclass(frozen=True)
class ScrollerExam:
    """An exam to scroll through.

    Args:
        title: what people read.
        volume: as acquired or as stored; slices are seen from the feet.
        labels: one a slice, 1 = disease, empty where unknown; () for none.
        clips: first slice of each clip, and the slice after its last.
        scores: of the clips.
        marks: rows of table `marks` of this series; None for none.
        marked_px: rows and columns of the slices in whose pixels the contours are; those of the volume
            where it is None.
        heats: Grad-CAM or the like by name, `[D, h, w]` in [0, 1] over the field of view of the slices.
        hu_window: name of the HU window that is shown first.
        z_mm: patient coordinate of each slice, mm; those of the volume where it is ().

    Raises:
        ValueError: labels, clips, scores or heats do not fit the volume.
    """

    title: str
    volume: Volume
    labels: Sequence[Any] = ()
    clips: Sequence[tuple[int, int]] = ()
    scores: Sequence[ClipScores] = ()
    marks: pd.DataFrame | None = None
    marked_px: tuple[int, int] | None = None
    heats: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    hu_window: str = "lung"
    z_mm: Sequence[float] = ()

    def __post_init__(self) -> None:
        n = len(self.volume.hu)
        hu.HuWindow.named(self.hu_window)
        wrong = [f"labels has {len(self.labels)}"] if len(self.labels) not in (0, n) else []
        wrong += [f"z_mm has {len(self.z_mm)}"] if len(self.z_mm) not in (0, n) else []
        wrong += [f"heats[{k!r}] has {len(heat)}" for k, heat in self.heats.items() if len(heat) != n]
        if wrong:
            raise ValueError(f"ScrollerExam {self.title!r}: {wrong[0]} slices, the volume has {n}.")
        for scores in self.scores:
            if len(scores.by_clip) != len(self.clips):
                raise ValueError(
                    f"ScrollerExam {self.title!r}: scores of {scores.name!r} are of {len(scores.by_clip)} "
                    f"clips, the exam has {len(self.clips)}."
                )


def exam_of(
    title: str, volume: Volume, slices: pd.DataFrame, clips: pd.DataFrame | None = None, **more: Any
) -> ScrollerExam:
    """An exam from tables: labels and z of its slices, and its clips.

    Args:
        title: what people read.
        volume: of the series; its `series_uid` picks the rows.
        slices: table `slices`.
        clips: table `clips`.
        more: other fields of `ScrollerExam`; `marks` may be of many series.
    """
    own = slices[slices["series_uid"] == volume.series_uid].sort_values("slice")
    if clips is not None:
        mine = clips[clips["series_uid"] == volume.series_uid].sort_values("clip")
        more["clips"] = list(zip(mine["start"].tolist(), mine["stop"].tolist(), strict=True))
    if more.get("marks") is not None:
        more["marks"] = more["marks"][more["marks"]["series_uid"] == volume.series_uid]
    labels, z_mm = own["label"].tolist(), own["z_mm"].tolist()
    return ScrollerExam(title, volume, labels, z_mm=z_mm, **more)


def scroller(exams: Sequence[ScrollerExam], alt: str, caption: str, max_bytes: int = MAX_BYTES) -> None:
    """Display exams to scroll through; see `scroller_html`."""
    display(HTML(scroller_html(exams, alt, caption, max_bytes)))


def scroller_html(exams: Sequence[ScrollerExam], alt: str, caption: str, max_bytes: int = MAX_BYTES) -> str:
    """An HTML `<figure>` in which one exam at a time is scrolled through, without a network.

    Args:
        exams: what to show; the first is shown first.
        alt: what is seen, for those who cannot see it.
        caption: what it shows, with the number of patients.
        max_bytes: of all pictures; more exams are shown less sharply.

    Raises:
        ValueError: no exam, no alternative text, or too many exams to fit.
    """
    if not alt.strip() or not exams:
        raise ValueError("scroller: give at least one exam, and say in alt what they show.")
    each = min(MAX_BYTES_AN_EXAM, max_bytes // len(exams))
    colours = _colours(exams)
    shown = [_Shown(e, each) for e in exams]
    data = {
        "windows": [[name, w.centre, w.width] for name, w in hu.HU_WINDOWS.items()],
        "code_hu": np.round(from_code(np.arange(256)), 1).tolist(),
        "readers": READERS,
        "exams": [one.data(colours) for one in shown],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    style, script = ((PARTS / name).read_text("utf-8") for name in ("scroller.css", "scroller.js"))
    strips = "".join(one.strip(alt) for one in shown)
    return (
        f'<figure class="ct-scroller"><style>{style}</style>'
        f'<div class="sc-app" role="group" aria-label="{html.escape(alt)}" hidden=""></div>'
        f'<div class="sc-strips">{strips}</div>'
        f"<figcaption>{html.escape(caption)} {_how_shown(shown)}</figcaption>"
        f'<script type="application/json" class="sc-data">{text}</script><script>{script}</script></figure>'
    )


def _colours(exams: Sequence[ScrollerExam]) -> dict[str, str]:
    """Colour of each init, the same in all exams."""
    looks = init_looks(scores.init for e in exams for scores in e.scores if scores.init)
    return {init: look.colour for init, look in looks.items()}


def _how_shown(shown: Sequence[_Shown]) -> str:
    """What was reduced, in words."""
    reduced = [one for one in shown if not one.pixels.exact]
    steps = max(one.places[1] - one.places[0] if len(one.places) > 1 else 1 for one in shown)
    said = []
    if steps > 1:
        said.append(f"Of long exams every {steps}. slice is shown at most.")
    if reduced:
        said.append("Slices are reduced by area means and compressed: for orientation, not for reading.")
    return html.escape(" ".join(said))


class _Shown:
    """An exam as the page holds it.

    Args:
        exam: what to show.
        max_bytes: of its pictures.
    """

    def __init__(self, exam: ScrollerExam, max_bytes: int) -> None:
        self.exam = exam
        self.places = kept(len(exam.volume.hu))
        self.heats = {name: heat_atlas(heat[self.places]) for name, heat in exam.heats.items()}
        self.drawn = _strip(exam)
        left = max_bytes - len(self.drawn) - sum(len(heat.webp) for heat in self.heats.values())
        self.pixels = atlas(exam.volume.hu[self.places], left)

    def data(self, colours: Mapping[str, str]) -> dict[str, Any]:
        """What the script needs."""
        exam = self.exam
        n, height, width = exam.volume.hu.shape
        z_mm = list(exam.z_mm) or exam.volume.z_mm.tolist()
        return {
            "title": exam.title, "window": exam.hu_window, "n": n, "places": self.places,
            "size": [width, height],
            "aspect": width * exam.volume.spacing_mm[2] / (height * exam.volume.spacing_mm[1]),
            "z": [round(z, 1) for z in z_mm],
            "labels": [None if pd.isna(label) else int(label) for label in exam.labels],
            "clips": [list(clip) for clip in exam.clips],
            "scores": [
                {"name": s.name, "colour": colours.get(s.init, "#6b6b6b"),
                 "by_clip": [None if pd.isna(x) else round(float(x), 4) for x in s.by_clip]}
                for s in exam.scores
            ],
            "outlines": _outlines(exam, set(self.places)),
            "columns": COLUMNS, "tile": list(self.pixels.tile_px), "source": self.pixels.address,
            "heats": [
                {"name": name, "tile": list(heat.tile_px), "source": heat.address}
                for name, heat in self.heats.items()
            ],
        }  # fmt: skip

    def strip(self, alt: str) -> str:
        """The exam without a script."""
        told = html.escape(f"{alt}: {self.exam.title}, slices from inferior to superior")
        window = f"HU window {self.exam.hu_window}, {hu.HuWindow.named(self.exam.hu_window)}".replace(
            "-", "−"
        )
        return (
            f'<div class="sc-strip"><p><strong>{html.escape(self.exam.title)}</strong> '
            f'{html.escape(window)}</p><img src="{address(self.drawn)}" alt="{told}"/></div>'
        )


def _outlines(exam: ScrollerExam, places: set[int]) -> list[list[Any]]:
    """Contours as [slice, reader, whether it is a hole, SVG path in pixels of the volume]."""
    if exam.marks is None:
        return []
    height, width = exam.volume.hu.shape[1:]
    marked = exam.marked_px or (height, width)
    found: list[list[Any]] = []
    for row in exam.marks[exam.marks["slice"].isin(places)].itertuples(index=False):
        points = (points_of(row.contour) + 0.5) * [height / marked[0], width / marked[1]]
        path = "L".join(f"{x:.5g} {y:.5g}" for y, x in points)
        found.append([int(row.slice), int(row.reader) % len(READERS), not row.inclusion, f"M{path}Z"])
    return found


def _strip(exam: ScrollerExam) -> bytes:
    """Slices of an exam side by side as WebP, evenly from the first to the last, and of its disease."""
    n = len(exam.volume.hu)
    marked = [i for i, label in enumerate(exam.labels) if not pd.isna(label) and label == 1]
    spread = np.linspace(0, n - 1, STRIP_SLICES + 2).round().astype(int)[1:-1].tolist()
    if marked:
        spread[STRIP_SLICES // 2] = marked[len(marked) // 2]
    chosen = sorted(set(spread))
    y_mm, x_mm = (
        size * step for size, step in zip(exam.volume.hu.shape[1:], exam.volume.spacing_mm[1:], strict=True)
    )
    longest = max(y_mm, x_mm)
    size = (max(1, round(STRIP_PX * x_mm / longest)), max(1, round(STRIP_PX * y_mm / longest)))
    picture = Image.new("RGB", (len(chosen) * (size[0] + 4) - 4, size[1] + 18), "white")
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(11)
    for i, place in enumerate(chosen):
        unit = hu.to_unit(exam.volume.hu[place], hu.HuWindow.named(exam.hu_window))
        how = cv2.INTER_AREA if unit.shape[0] > size[1] else cv2.INTER_LINEAR
        grey = np.rint(255 * cv2.resize(unit, size, interpolation=how)).astype(np.uint8)
        left = i * (size[0] + 4)
        picture.paste(Image.fromarray(grey), (left, 18))
        told = f"slice {place}" + (", disease" if place in marked else "")
        pen.text((left, 2), told, fill="#222222", font=font)
        if place in marked:
            pen.rectangle((left, 18, left + size[0] - 1, 17 + size[1]), outline=DISEASE, width=2)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70, method=4)
    return buffer.getvalue()


SPLIT = "test"
"""Exams whose scores are looked at: none of the runs saw them."""


def sample_exams(
    cohort: CohortTables,
    volume: Callable[[str], Volume],
    clips: pd.DataFrame,
    hu_window: str,
    n: int = 6,
    marks: pd.DataFrame | None = None,
) -> list[ScrollerExam]:
    """Exams with and without disease in turn, as long as there are both.

    Args:
        cohort: its tables.
        volume: a series of the cohort, as acquired: `Cohort.volume`, or `pictures.stored` of a store.
        clips: table `clips`.
        hu_window: name of the HU window that is shown first.
        n: exams at most.
        marks: table `marks`; contours are shown where they are.
    """
    return [
        _exam_of_table(cohort, series_uid, volume, clips, hu_window=hu_window, marks=marks)
        for series_uid in in_turn(cohort.series)[:n]
    ]


def samples(
    cohorts: Mapping[str, Cohort], clips: Mapping[str, pd.DataFrame], tasks: Mapping[str, Task], n: int = 3
) -> list[ScrollerExam]:
    """`sample_exams` of several cohorts, each in the HU window of its task.

    Args:
        cohorts: cohorts by name.
        clips: tables `clips` by name.
        tasks: tasks by the name of their cohort.
        n: exams a cohort at most.
    """
    return [
        exam
        for name, cohort in cohorts.items()
        for exam in sample_exams(cohort, cohort.volume, clips[name], tasks[name].hu_window, n, cohort.marks)
    ]


def disagreed_exams(
    cohort: CohortTables,
    volume: Callable[[str], Volume],
    clips: pd.DataFrame,
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    inits: tuple[str, str],
    hu_window: str,
    n: int = 6,
    marks: pd.DataFrame | None = None,
) -> list[ScrollerExam]:
    """The test exams on whose clips two inits disagree most, with the scores of both.

    A score is the mean over the runs of the init, and the disagreement of an exam the largest difference
    of such means over its clips. Runs that differ in anything but the init should be passed in pairs.

    Args:
        cohort: its tables.
        volume: see `sample_exams`.
        clips: table `clips`.
        runs: table `runs`, of one task; the caller picks the networks and the fraction.
        predictions: table `predictions`.
        inits: the two.
        hu_window: name of the HU window that is shown first.
        n: exams at most.
        marks: table `marks`; contours are shown where they are.

    Returns:
        Largest disagreement first; empty where not both inits have scores.
    """
    known = runs.loc[runs["init"].isin(inits), ["run_id", "init"]]
    scores = predictions[predictions["split"] == SPLIT].merge(known, on="run_id")
    means = scores.groupby(["study", "clip", "init"])["score"].mean().unstack("init").reindex(columns=inits)
    apart = (means[inits[1]] - means[inits[0]]).abs().groupby("study").max().dropna()
    n_runs = known[known["run_id"].isin(scores["run_id"])]["init"].value_counts()
    exams: list[ScrollerExam] = []
    for study in apart.sort_values(ascending=False, kind="stable").index:
        series = cohort.series.loc[cohort.series["study_uid"] == study, "series_uid"]
        if len(series) != 1 or len(exams) == n:  # clips of several series are counted through: not shown
            continue
        own = clips[clips["series_uid"] == series.iloc[0]]["clip"].sort_values()
        by_clip = means.loc[study].reindex(own)
        told = [
            ClipScores(f"{i}, mean of {counted(n_runs[i], 'run')}", by_clip[i].tolist(), i) for i in inits
        ]
        exams.append(
            _exam_of_table(
                cohort, series.iloc[0], volume, clips, hu_window=hu_window, marks=marks, scores=told
            )
        )
    return exams


def _exam_of_table(
    cohort: CohortTables, series_uid: str, volume: Callable[[str], Volume], clips: pd.DataFrame, **more: Any
) -> ScrollerExam:
    row = cohort.series[cohort.series["series_uid"] == series_uid].iloc[0]
    label = "no label" if pd.isna(row["label"]) else "disease" if row["label"] == 1 else "no disease"
    title = f"{row['cohort']} {series_uid.removeprefix('series-')[:6]}, {label}"
    upright = (int(row["rows_px"]), int(row["cols_px"]))
    return exam_of(title, volume(series_uid), cohort.slices, clips, marked_px=upright, **more)
