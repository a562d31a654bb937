"""A moving picture of some clips, inside the page: it plays offline, without a script.

It is an animated WebP, which every current browser shows and which is a fraction of a GIF. Readers whose
system asks for less motion, and paper, get the middle frame.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping

import numpy as np
from IPython.display import HTML, display
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ctlib.visualization.html import address
from ctlib.visualization.style import INK

MAX_BYTES = 210_000
"""Of the moving picture and the still one; base64 makes 280 kB of it, and a report holds 2 MB."""
MAX_CLIPS = 25
"""More would be too small to see."""
WIDTH_PX = 720
"""CSS pixels of the widest picture."""
COLUMNS, TILE_PX = 5, 150
"""At most so many tiles a row, and CSS pixels of the widest tile."""
GAP_PX, LETTERS_PX = 8, 12
"""Between tiles, and height of the names, CSS pixels."""
TRIES = ((2.0, 60), (2.0, 30), (1.5, 30), (1.0, 40), (1.0, 15), (0.67, 15), (0.5, 10))
"""Pixels a CSS pixel, and WebP quality (0 to 100); the first that is small enough is taken."""


def show_moving(
    clips: Mapping[str, NDArray[np.floating]], alt: str, caption: str, frames_per_s: float = 8.0
) -> None:
    """Display clips side by side, moving; see `moving_html`."""
    display(HTML(moving_html(clips, alt, caption, frames_per_s)))


def moving_html(
    clips: Mapping[str, NDArray[np.floating]], alt: str, caption: str, frames_per_s: float = 8.0
) -> str:
    """An HTML `<figure>` with clips in a grid that play together, over and over.

    A clip with fewer frames than the longest rests on its last.

    Args:
        clips: `[D, H, W]` in [0, 1] by name, which is written above; all of one H and W.
        alt: what is seen, for those who cannot see it.
        caption: what it shows.
        frames_per_s: pace at which it is shown.

    Raises:
        ValueError: no alternative text, no clips, clips of several sizes, more than `MAX_CLIPS`, a pace
            that is not shown, or what does not fit `MAX_BYTES`.

    >>> text = moving_html({"still": np.zeros((2, 8, 8))}, "A black square", "One clip.")
    >>> text[:36], "prefers-reduced-motion" in text
    ('<figure class="ct-figure"><picture><', True)
    """
    if not alt.strip():
        raise ValueError("show_moving: alt is empty; say in a sentence what the clips show.")
    sizes = {clip.shape[1:] for clip in clips.values()}
    if len(sizes) != 1 or len(clips) > MAX_CLIPS or not 0 < frames_per_s <= 50:
        raise ValueError(
            f"show_moving: {len(clips)} clips of {len(sizes)} sizes at {frames_per_s:g} frames/s; give 1 to "
            f"{MAX_CLIPS} of one height and width, at more than 0 and at most 50."
        )
    grid = _Grid.of(len(clips), *sizes.pop())
    moving, still = _small_enough(grid, clips, round(1000 / frames_per_s))
    calm = f'<source media="print, (prefers-reduced-motion: reduce)" srcset="{address(still)}"/>'
    return (
        f'<figure class="ct-figure"><picture>{calm}<img src="{address(moving)}" alt="{html.escape(alt)}" '
        f'width="{grid.width_px}" style="max-width:100%;height:auto;background:#fff"/></picture>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


class _Grid:
    """Where tiles and names stand, CSS pixels.

    Args:
        n: tiles.
        columns: tiles a row.
        tile_px: width and height of a tile.
    """

    def __init__(self, n: int, columns: int, tile_px: tuple[float, float]) -> None:
        self.columns, self.tile_px = columns, tile_px
        self.width_px = round(columns * (tile_px[0] + GAP_PX) - GAP_PX)
        self.height_px = round(math.ceil(n / columns) * self._step_px)

    @classmethod
    def of(cls, n: int, height: int, width: int) -> _Grid:
        """The grid of n clips of frames `[height, width]`."""
        columns = min(n, COLUMNS)
        across = min(TILE_PX, (WIDTH_PX + GAP_PX) / columns - GAP_PX)
        return cls(n, columns, (across, across * height / width))

    @property
    def _step_px(self) -> float:
        return self.tile_px[1] + GAP_PX + 1.5 * LETTERS_PX

    def corner(self, i: int) -> tuple[float, float]:
        """Left and top of the name of a tile; the tile is below it."""
        return (i % self.columns) * (self.tile_px[0] + GAP_PX), (i // self.columns) * self._step_px


def _small_enough(
    grid: _Grid, clips: Mapping[str, NDArray[np.floating]], step_ms: int
) -> tuple[bytes, bytes]:
    """The moving and the still picture, as good as `MAX_BYTES` allows."""
    for sharpness, quality in TRIES:
        frames = _frames(grid, clips, sharpness)
        moving = _webp(frames, quality, step_ms)
        still = _webp([frames[len(frames) // 2]], quality, step_ms)
        if (n_bytes := len(moving) + len(still)) <= MAX_BYTES:
            return moving, still
    raise ValueError(
        f"show_moving: {len(clips)} clips make a picture of {n_bytes:,} bytes, {MAX_BYTES:,} are allowed; "
        "give fewer or shorter clips."
    )


def _webp(frames: list[Image.Image], quality: int, step_ms: int) -> bytes:
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:], "duration": step_ms, "loop": 0}
    frames[0].save(buffer, "WEBP", quality=quality, method=2, **(more if len(frames) > 1 else {}))
    return buffer.getvalue()


def _frames(grid: _Grid, clips: Mapping[str, NDArray[np.floating]], sharpness: float) -> list[Image.Image]:
    """All frames of the picture; names are drawn once."""
    size = (round(grid.width_px * sharpness), round(grid.height_px * sharpness))
    tile = (round(grid.tile_px[0] * sharpness), round(grid.tile_px[1] * sharpness))
    empty = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(empty)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), round(LETTERS_PX * sharpness))
    corners = [tuple(round(place * sharpness) for place in grid.corner(i)) for i in range(len(clips))]
    for (left, top), name in zip(corners, clips, strict=True):
        pen.text((left, top), _fitting(name.replace("_", " "), font, tile[0]), fill=INK, font=font)
    frames = []
    for i in range(max(len(clip) for clip in clips.values())):
        frame = empty.copy()
        for (left, top), clip in zip(corners, clips.values(), strict=True):
            grey = np.round(np.clip(clip[min(i, len(clip) - 1)], 0, 1) * 255).astype(np.uint8)
            picture = Image.fromarray(grey).resize(tile, Image.Resampling.BICUBIC)
            frame.paste(picture, (left, top + round(1.5 * LETTERS_PX * sharpness)))
        frames.append(frame)
    return frames


def _fitting(name: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """The name, or as much of it as fits."""
    if font.getlength(name) <= width_px:
        return name
    while name and font.getlength(f"{name}…") > width_px:
        name = name[:-1]
    return f"{name}…"
