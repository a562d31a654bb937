"""Exams to scroll through inside a static page: slices, labels, scores of clips, contours, heat.

What is shown is all in the page (see `ctlib.visualization.figures.slice_atlas` for the pixels), and the script
that turns slices is in `scroller_assets`. Without a script, and on paper, each exam is a strip of slices.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ctlib.core import hu
from ctlib.io import Volume
from ctlib.visualization.figures import slice_atlas
from ctlib.visualization.figures.slices import points_of
from ctlib.visualization.figures.style import DISEASE, READERS, init_looks

PARTS = Path(__file__).parent / "scroller_assets"
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
        "code_hu": np.round(slice_atlas.from_code(np.arange(256)), 1).tolist(),
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
        self.places = slice_atlas.kept(len(exam.volume.hu))
        self.heats = {name: slice_atlas.heat_atlas(heat[self.places]) for name, heat in exam.heats.items()}
        self.drawn = _strip(exam)
        left = max_bytes - len(self.drawn) - sum(len(heat.webp) for heat in self.heats.values())
        self.pixels = slice_atlas.atlas(exam.volume.hu[self.places], left)

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
            "columns": slice_atlas.COLUMNS, "tile": list(self.pixels.tile_px), "source": self.pixels.address,
            "heats": [
                {"name": name, "tile": list(heat.tile_px), "source": heat.address}
                for name, heat in self.heats.items()
            ],
        }  # fmt: skip

    def strip(self, alt: str) -> str:
        """The exam without a script."""
        address = f"data:image/webp;base64,{base64.b64encode(self.drawn).decode('ascii')}"
        told = html.escape(f"{alt}: {self.exam.title}, slices from inferior to superior")
        window = f"HU window {self.exam.hu_window}, {hu.HuWindow.named(self.exam.hu_window)}".replace(
            "-", "−"
        )
        return (
            f'<div class="sc-strip"><p><strong>{html.escape(self.exam.title)}</strong> '
            f'{html.escape(window)}</p><img src="{address}" alt="{told}"/></div>'
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
