"""Shapes in mm, drawn into a volume: ellipses, balls, tapering tubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def axes_mm(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates along z (from 0), y and x (0 in the middle of the slice), mm.

    >>> [axis.tolist() for axis in axes_mm((2, 3, 3), (5.0, 2.0, 2.0))]
    [[0.0, 5.0], [-2.0, 0.0, 2.0], [-2.0, 0.0, 2.0]]
    """
    z, y, x = (np.arange(n, dtype=np.float64) * step for n, step in zip(shape, spacing_mm, strict=True))
    return z, y - y.mean(), x - x.mean()


@dataclass(frozen=True)
class Grid:
    """Coordinates that broadcast to [D, H, W]: u is 0 at the lowest slice and 1 at the top."""

    u: Array
    z: Array
    y: Array
    x: Array
    height: float
    b: float
    a: float


def ellipse(grid: Grid, y: float, x: float, by: float, ax: float) -> Array:
    """Elliptic cylinder along z: below 1 inside; centre and half axes in mm."""
    return ((grid.y - y) / by) ** 2 + ((grid.x - x) / ax) ** 2


def fill(hu: Array, where: NDArray[np.bool_], value: Array | float) -> None:
    """Set voxels in place; mask and value broadcast to the volume."""
    np.copyto(hu, value, where=where, casting="same_kind")


def add_balls(weight: Array, spacing_mm: tuple[float, float, float], points: NDArray[np.float64]) -> None:
    """Raise `weight` to the soft-edged union of balls, in place.

    Args:
        weight: float32 [D, H, W] in [0, 1].
        spacing_mm: (z, y, x).
        points: [n, 4] of (z, y, x, radius), mm, in the axes of `axes_mm`.
    """
    step = np.asarray(spacing_mm)
    middle = np.array([0.0, (weight.shape[1] - 1) / 2, (weight.shape[2] - 1) / 2])
    at = points[:, :3] / step + middle
    reach = np.ceil((points[:, 3].max() + step[1] / 2) / step).astype(int)
    index, square = [], []
    for axis in range(3):
        near = np.round(at[:, axis, None]).astype(int) + np.arange(-reach[axis], reach[axis] + 1)
        squares = ((near - at[:, axis, None]) * step[axis]) ** 2
        squares[(near < 0) | (near >= weight.shape[axis])] = np.inf
        index.append(near)
        square.append(squares.astype(np.float32))
    distance = np.sqrt(square[0][:, :, None, None] + square[1][:, None, :, None] + square[2][:, None, None])
    value = np.clip(0.5 + (points[:, 3].astype(np.float32)[:, None, None, None] - distance) / step[1], 0, 1)
    ball, i, j, k = np.nonzero(value)
    np.maximum.at(weight, (index[0][ball, i], index[1][ball, j], index[2][ball, k]), value[ball, i, j, k])


def branches(
    start: NDArray[np.float64],
    heading: NDArray[np.float64],
    length: NDArray[np.float64],
    radius: float,
    n: int,
) -> NDArray[np.float64]:
    """Straight tapering tubes, [branches, n, 4], from starts [k, 3] along headings [k, 3]."""
    heading = heading / np.linalg.norm(heading, axis=-1, keepdims=True)
    along = np.linspace(0, 1, n)
    path = start[:, None] + heading[:, None] * length[:, None, None] * along[None, :, None]
    radii = np.broadcast_to(radius * (1 - 0.45 * along)[None, :, None], (len(start), n, 1))
    return np.concatenate([path, radii], -1)
