"""A seeded chest in HU: what every phantom patient is made of, healthy or not.

A chest is drawn from implicit shapes in mm, in patient coordinates, so that it is asymmetric
along all three axes, as people are: the heart, the aortic arch, the descending aorta and the
stomach lie on the left; the liver and the larger lung on the right; the spine is posterior;
lungs taper to the apex and end on two domes of different height. A volume that was flipped
or transposed on its way is therefore noticed.

The field of view is aimed at the lungs, 270 to 320 mm across, so that the wall of the chest is cut
at the sides, and slices are coarse (about 3 mm a pixel): the demo runs on a laptop.
"""

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


MATRIX_PX = 96
"""Rows and columns of a phantom slice."""
N_SLICES = (28, 46)
"""Fewest and most slices of a chest."""

CONTRAST_HU = (250.0, 450.0)
"""Attenuation of the pulmonary arteries with contrast, which differs between patients."""
ARTERY = 0.12
"""Radius of the central arteries with contrast, in half widths of the body: about twice that of
people, so that a filling defect is several pixels wide at the demo's matrix."""
HEART_SHARE = (0.2, 0.3)
"""Contrast of heart and aorta against that of the arteries: an early scan."""
FOAM, LUNG_HU = 0.3, -850
"""Chests without contrast are cast in foam: what is denser than lung keeps this share of its
difference to it. Walls as dense as tissue drown what lies in the lungs: a small network that began
at random told nothing at all from 64 such patients, nor from 300."""

# HU of tissues: usual values of radiology textbooks, rounded.
AIR, FAT, MUSCLE, LIVER, BLOOD, MARROW, CORTEX = -1000, -100, 45, 60, 42, 180, 420


@dataclass(frozen=True)
class Chest:
    """A chest without disease, noise and scanner.

    Args:
        hu: float32 [D, H, W], HU, axes Superior, Posterior, Left.
        spacing_mm: (z, y, x).
        room_mm: float32 [D, H, W], depth inside a lung, mm, about the distance to its border;
            negative outside.
        arteries: paths of the right and the left descending pulmonary artery and of the trunk:
            [n, 4] of (z, y, x, radius) in mm, from the top downwards.
        body_mm: half widths of the body: (anteroposterior, left-right).
        contrast_hu: attenuation of the pulmonary arteries; 0 without contrast.
    """

    hu: Array
    spacing_mm: tuple[float, float, float]
    room_mm: Array
    arteries: tuple[NDArray[np.float64], ...]
    body_mm: tuple[float, float]
    contrast_hu: float

    def axes_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates of the voxels along z, y and x, mm; y and x are 0 in the middle."""
        return axes_mm(self.hu.shape, self.spacing_mm)


def chest(rng: np.random.Generator, contrast: bool) -> Chest:
    """Draw a patient: size, position, spacing, slice count, organs.

    Args:
        rng: of this patient only.
        contrast: whether the pulmonary arteries are filled with contrast, as for embolism.

    >>> patient = chest(np.random.default_rng(0), contrast=False)
    >>> patient.hu.shape[1:], bool(28 <= len(patient.hu) <= 46)
    ((96, 96), True)
    """
    pixel = rng.uniform(2.8, 3.4)
    thickness = float(rng.choice([5.0, 5.5, 6.0, 7.0]))
    depth = int(np.clip(rng.normal(215, 25) / thickness, *N_SLICES))
    spacing = (thickness, round(pixel, 4), round(pixel, 4))
    z, y, x = axes_mm((depth, MATRIX_PX, MATRIX_PX), spacing)
    half = MATRIX_PX * pixel / 2
    body = (half * rng.uniform(0.92, 1.0), half * rng.uniform(1.14, 1.24))
    shift = rng.uniform(-0.04, 0.04, 2) * half
    contrast_hu = float(rng.uniform(*CONTRAST_HU)) if contrast else 0.0
    grid = Grid(
        (z / (depth * thickness))[:, None, None].astype(np.float32),
        z[:, None, None].astype(np.float32),
        (y - shift[0])[None, :, None].astype(np.float32),
        (x - shift[1])[None, None, :].astype(np.float32),
        depth * thickness,
        *body,
    )
    hu = _wall(grid, rng)
    room = _chest_organs(hu, grid, rng, contrast_hu)
    _lung_vessels(hu, room, spacing, shift, grid, rng, contrast_hu)
    arteries = _central_arteries(hu, spacing, shift, grid, rng, contrast_hu)
    if not contrast:
        np.copyto(hu, LUNG_HU + FOAM * (hu - LUNG_HU), where=hu > LUNG_HU)
    return Chest(hu, spacing, room, arteries, body, contrast_hu)


def _wall(grid: Grid, rng: np.random.Generator) -> Array:
    """Body with its fat rim, muscle, ribs, sternum, spine; filled with soft tissue."""
    g, a, b = grid, grid.a, grid.b
    narrow = 1 - 0.16 * np.clip((g.u - 0.55) / 0.45, 0, 1) ** 2
    skin = (np.abs(g.x) / (a * narrow)) ** 2.4 + (np.abs(g.y) / (b * narrow)) ** 2.4
    hu = np.full(skin.shape, AIR, np.float32)
    fill(hu, skin < 1, FAT)
    fill(hu, skin < rng.uniform(0.80, 0.92), MUSCLE)
    cage = np.sqrt((g.x / (0.83 * a * narrow)) ** 2 + (g.y / (0.80 * b * narrow)) ** 2)
    ribs = (np.abs(cage - 1) * b < 4.5) & (np.cos(2 * np.pi * (g.z - 0.45 * g.y) / 27) > 0.15)
    fill(hu, ribs, CORTEX)
    sternum = ellipse(g, -0.80 * b, 0, 0.06 * b, 0.15 * a)
    fill(hu, (sternum < 1) & (g.u > 0.35), MARROW)
    spine = ellipse(g, 0.55 * b, 0, 0.19 * b, 0.16 * a)
    fill(hu, spine < 1, MARROW)
    fill(hu, (spine < 1) & (spine > 0.6) & (np.cos(2 * np.pi * g.z / 25) > -0.6), CORTEX)
    fill(hu, ellipse(g, 0.79 * b, 0, 0.06 * b, 0.05 * a) < 1, 30)
    process = ellipse(g, 0.90 * b, 0, 0.07 * b, 0.04 * a)
    fill(hu, (process < 1) & (np.cos(2 * np.pi * g.z / 25) > -0.2), CORTEX)
    return hu


def _lung_room(grid: Grid, left: bool, rng: np.random.Generator) -> tuple[Array, Array]:
    """Depth inside a lung in plane, and height above its diaphragm, mm."""
    g, side = grid, 1.0 if left else -1.0
    ax = g.a * (0.345 if left else 0.375) * rng.uniform(0.96, 1.04)
    by = g.b * (0.70 if left else 0.73) * rng.uniform(0.97, 1.03)
    taper = np.sqrt(np.clip(1 - (np.clip(g.u - 0.42, 0, None) / 0.68) ** 2.2, 0.0, 1))
    cx = side * g.a * (0.23 + 0.21 * taper)
    across = ((g.x - cx) / (ax * taper + 1)) ** 2 + ((g.y - 0.02 * g.b) / (by * taper + 1)) ** 2
    depth = (1 - np.sqrt(across)) * ax * taper
    top = (0.05 if left else 0.10) * rng.uniform(0.85, 1.15)
    dome = g.height * (top - 0.16 * ((g.x - side * 0.42 * g.a) / ax) ** 2 - 0.14 * (g.y / by + 0.2) ** 2)
    return depth.astype(np.float32), (g.z - dome).astype(np.float32)


def _chest_organs(hu: Array, grid: Grid, rng: np.random.Generator, contrast_hu: float) -> Array:
    """Lungs, abdomen below the domes, heart, mediastinum, aorta, trachea; returns the room."""
    g, a, b = grid, grid.a, grid.b
    lung_hu = rng.normal(LUNG_HU, 18) + 35 * g.y / b
    blood = BLOOD if not contrast_hu else contrast_hu * rng.uniform(*HEART_SHARE)
    heart_u = rng.uniform(0.18, 0.24)
    heart = (
        ((g.x - 0.15 * a - 0.06 * g.y) / (0.31 * a)) ** 2
        + ((g.y + 0.30 * b) / (0.38 * b)) ** 2
        + ((g.u - heart_u) / 0.27) ** 2
    )
    middle = ellipse(g, -0.05 * b, 0.02 * a, 0.62 * b, 0.13 * a)
    spine = ellipse(g, 0.55 * b, 0, 0.19 * b, 0.16 * a)
    keep_off = np.minimum((np.sqrt(heart) - 1) * 0.30 * a, (np.sqrt(middle) - 1) * 0.13 * a)
    keep_off = np.minimum(keep_off, (np.sqrt(spine) - 1) * 0.16 * a)
    room = np.full(hu.shape, -99, np.float32)
    for left in (False, True):
        depth, above = _lung_room(g, left, rng)
        lung = np.minimum(np.minimum(depth, above), keep_off)
        fill(hu, lung > 0, lung_hu)
        fill(hu, (depth > 0) & (above <= 0), MUSCLE + 5 if left else LIVER + 0.15 * contrast_hu)
        np.maximum(room, lung, out=room)
    stomach = ellipse(g, -0.30 * b, 0.42 * a, 0.20 * b, 0.17 * a) + (g.u / 0.07) ** 2
    fill(hu, stomach < 1, -920)
    fill(hu, (middle < 1) & (room <= 0) & (spine > 1), -20)
    fill(hu, heart < 1, BLOOD + 8)
    fill(hu, heart < 0.72, blood)
    _aorta_and_airways(hu, g, BLOOD if not contrast_hu else 0.9 * blood)
    return room


def _aorta_and_airways(hu: Array, grid: Grid, blood: float) -> None:
    """Descending aorta left of the spine, arch, ascending aorta, trachea and main bronchi."""
    g, a, b = grid, grid.a, grid.b
    radius = 0.095 * a
    arch = (g.u > 0.66) & (g.u < 0.66 + 2.0 * radius / g.height)
    fill(hu, (ellipse(g, 0.36 * b, 0.17 * a, radius, radius) < 1) & (g.u < 0.73), blood)
    fill(
        hu,
        (ellipse(g, -0.22 * b, -0.09 * a, 1.15 * radius, 1.15 * radius) < 1) & (g.u > 0.42) & (g.u < 0.73),
        blood,
    )
    on_arch = np.abs((g.x - 0.17 * a) * 0.58 * b - (g.y - 0.36 * b) * 0.26 * a) / np.hypot(0.58 * b, 0.26 * a)
    fill(hu, (on_arch < radius) & (g.y > -0.24 * b) & (g.y < 0.38 * b) & arch, blood)
    split = np.clip((0.60 - g.u) / 0.12, 0, 1) * 0.24 * a
    airway = (g.u > 0.48) & (g.y < b)
    for side in (-1.0, 1.0):
        tube = (g.x - side * split) ** 2 + (g.y - 0.14 * b) ** 2
        fill(hu, (tube < (0.068 * a) ** 2) & airway, AIR + 10)


def _lung_vessels(
    hu: Array,
    room: Array,
    spacing: tuple[float, float, float],
    shift: NDArray[np.float64],
    grid: Grid,
    rng: np.random.Generator,
    contrast_hu: float,
) -> None:
    """Thin branching vessels from each hilum outwards: two generations, tapering."""
    points = []
    for side in (-1.0, 1.0):
        hilum = np.array([0.46 * grid.height, 0.08 * grid.b + shift[0], side * 0.24 * grid.a + shift[1]])
        heading = rng.normal(size=(12, 3)) * (0.9, 1.0, 0.45) + (0, 0, side * 0.55)
        stems = branches(np.repeat(hilum[None], 12, 0), heading, rng.uniform(35, 60, 12), 3.8, 16)
        tips = np.repeat(stems[:, -1, :3], 2, 0)
        twigs = np.repeat(heading, 2, 0) / np.linalg.norm(heading, axis=1).repeat(2)[:, None]
        twigs = twigs + rng.normal(size=twigs.shape) * 0.55
        ends = branches(tips, twigs, rng.uniform(20, 45, 24), 2.1, 12)
        points += [stems.reshape(-1, 4), ends.reshape(-1, 4)]
    weight = np.zeros(hu.shape, np.float32)
    add_balls(weight, spacing, np.concatenate(points))
    weight *= room > 0
    hu += weight * ((0.8 * contrast_hu if contrast_hu else 25) - hu)


def _central_arteries(
    hu: Array,
    spacing: tuple[float, float, float],
    shift: NDArray[np.float64],
    grid: Grid,
    rng: np.random.Generator,
    contrast_hu: float,
) -> tuple[NDArray[np.float64], ...]:
    """Pulmonary trunk, main branches, descending arteries; returns the latter two and the trunk."""
    a, b, height = grid.a, grid.b, grid.height
    move = np.array([0.0, shift[0], shift[1], 0.0])
    # without contrast they are thin, so as not to pass for nodules
    wide = (ARTERY if contrast_hu else 0.045) * a * rng.uniform(0.95, 1.1)
    trunk = np.linspace(
        [0.40 * height, -0.32 * b, 0.10 * a, wide], [0.56 * height, -0.14 * b, 0.10 * a, wide], 10
    )
    tubes, descending = [trunk + move], []
    for side in (-1.0, 1.0):
        top = (0.54 if side < 0 else 0.58) * height
        hilum = np.array([top, 0.06 * b, side * 0.31 * a, wide])
        tubes.append(np.linspace(trunk[-1], hilum, 16) + move)
        low = np.array([top - rng.uniform(0.32, 0.36) * height, 0.22 * b, side * 0.40 * a, 0.80 * wide])
        descending.append(np.linspace(hilum, low, 24) + move)
        high = np.array([top + 0.16 * height, -0.06 * b, side * 0.33 * a, 0.35 * wide])
        tubes += [descending[-1], np.linspace(hilum * (1, 1, 1, 0.5), high, 12) + move]
    weight = np.zeros(hu.shape, np.float32)
    add_balls(weight, spacing, np.concatenate(tubes))
    hu += weight * ((contrast_hu if contrast_hu else BLOOD) - hu)
    return descending[0], descending[1], (trunk + move)[::-1]
