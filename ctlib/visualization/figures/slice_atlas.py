"""Slices of a volume in one picture a browser decodes, from which it can still set any HU window.

A grey value of a picture has 8 bits, CT 12. Evenly spread, one grey would be 9 HU of what our HU windows
show: 44 greys for the 400 HU of the mediastinum, which shows as bands. So HU are coded finely where HU
windows are narrow and coarsely where they are wide, along an inverse hyperbolic sine: a step is 3.9 HU
at soft tissue and 13 to 20 HU in the lung, nowhere more than 1.7 % of a HU window: 91 greys or more in each.
The page turns codes to greys by a table of 256 values in an SVG filter. No script reads a pixel back: a
browser that guards against fingerprints answers such reads with noise.

WebP holds a chest slice of 192 px in 3.7 kB at quality 80, where JPEG needs 5.8 kB for a larger error
and 12 bits without loss 16 kB and more (LIDC-IDRI-0314, every third slice): 12 exams would take 25 MB.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctlib.core import HU_MIN, HU_WINDOWS

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
        return f"data:image/webp;base64,{base64.b64encode(self.webp).decode('ascii')}"


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
