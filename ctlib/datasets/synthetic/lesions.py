"""Round objects in the lungs and filling defects in the arteries of a phantom.

Everything here is drawn before the label is looked at. Which patient is ill then decides one
thing a cohort: whether objects stand still (nodules), or how much all organs enhance (embolism).
So nothing else can carry the label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ctlib.datasets.synthetic.anatomy import MATRIX_PX, Array, Chest

N_SLICES = (6, 7, 8)
"""Slices of an object: enough for four positive slices in a clip, wherever clips begin."""
OBJECT_RADIUS_MM = (14.0, 22.0)
"""Largest radius of a round object in a lung: 3 to 4 px of a 56 px matrix over 300 mm."""
PACE_MM = (7.5, 14.0)
"""How far a vessel's cross-section moves from slice to slice: 1.4 to 2.6 px of that matrix."""
OBJECT_HU = (-100.0, 60.0)
"""Attenuation of a round object: soft tissue, partly aerated."""
N_OBJECTS = (2, 3)
"""Fewest and most round objects of an exam, nodules and vessels together."""
DEFECT_SLICES = (9, 10, 11)
"""Slices of a filling defect, which fills most of a descending artery."""
DEFECT_SHARE = (0.85, 0.93)
"""Its radius in radii of the artery."""
SECOND_DEFECT = 0.8
"""Share of exams with a lasting defect on both sides; the others have one."""
FLOW_ARTEFACT = 0.3
"""Share of exams with a flow artefact of a single slice."""
DEFECT_HU = (40.0, 25.0)
"""Attenuation of filling defects, mean and spread between exams."""
ORGANS_HU, ORGANS_APART_HU = (300.0, 150.0), 225.0
"""Enhancement of the organs, HU: mean and spread between exams, and how far apart the labels' means are.
Who knew it would tell the labels at an AUROC of 0.86: the normal distribution at 225 / (150 sqrt 2)."""
ENHANCES_FROM_HU = (-150.0, -50.0)
"""Below the first HU (lung, air) nothing enhances, above the second all does."""
WITHIN = 0.72
"""Organs lie within this share of the body's half widths; outwards there is the wall."""


@dataclass(frozen=True)
class RoundObject:
    """Discs on consecutive slices: a nodule where they stand still, a vessel where they move.

    Args:
        first: index of its lowest slice.
        centres_mm: [n, 2] of (y, x) a slice, mm, in the axes of `Chest.axes_mm`.
        radii_mm: [n], radius a slice; swells and shrinks as a ball's does.
        hu: attenuation.
        spikes_rad: directions of spicules; empty for a smooth outline.
        moves: False for a nodule.
    """

    first: int
    centres_mm: NDArray[np.float64]
    radii_mm: NDArray[np.float64]
    hu: float
    spikes_rad: NDArray[np.float64]
    moves: bool = True

    @property
    def slices(self) -> range:
        """Indices of its slices, from the lowest."""
        return range(self.first, self.first + len(self.radii_mm))

    def standing(self, at: int) -> RoundObject:
        """The same discs, all where the disc `at` is."""
        return replace(
            self, centres_mm=np.repeat(self.centres_mm[at : at + 1], len(self.radii_mm), 0), moves=False
        )


def _apart(
    first: int, centres: NDArray[np.float64], radius: float, others: list[RoundObject]
) -> NDArray[np.bool_]:
    """For tracks [k, n, 2]: whether each keeps clear of all others, wherever these might stand."""
    free = np.ones(len(centres), bool)
    for other in others:
        if first <= other.slices.stop and other.first <= first + centres.shape[1]:
            gap = np.linalg.norm(centres[:, :, None] - other.centres_mm[None, None], axis=-1).min((1, 2))
            free &= gap > radius + other.radii_mm.max() + 12
    return free


def _track(chest: Chest, rng: np.random.Generator, others: list[RoundObject]) -> RoundObject | None:
    """One vessel that runs obliquely through a lung, or None where no try out of many fits."""
    n = int(rng.choice(N_SLICES))
    radius = float(rng.uniform(*OBJECT_RADIUS_MM))
    pace = float(rng.uniform(*PACE_MM))
    steps = (np.arange(n) - (n - 1) / 2) * pace
    _, y_mm, x_mm = chest.axes_mm()
    for first in rng.permutation(len(chest.hu) - n):
        room = chest.room_mm[first : first + n].min(0)
        rows, cols = np.nonzero(room > 0.55 * radius)
        if len(rows) < 20:
            continue
        pick = rng.integers(len(rows), size=300)
        angle = rng.uniform(0, 2 * np.pi, 300)
        heading = np.stack([np.sin(angle), np.cos(angle)], -1)
        middle = np.stack([y_mm[rows[pick]], x_mm[cols[pick]]], -1)
        centres = middle[:, None] + heading[:, None] * steps[None, :, None]
        at = np.rint(centres / chest.spacing_mm[1:] + (MATRIX_PX - 1) / 2).astype(int).clip(0, MATRIX_PX - 1)
        fits = (room[at[..., 0], at[..., 1]] > 0.55 * radius).all(1) & _apart(first, centres, radius, others)
        if fits.any():
            height = np.sqrt(1 - ((np.arange(n) - (n - 1) / 2) / (n / 2)) ** 2)
            spiculated = rng.random() < 0.4
            spikes = rng.uniform(0, 2 * np.pi, rng.integers(7, 12)) if spiculated else np.empty(0)
            hu = float(rng.uniform(*OBJECT_HU))
            return RoundObject(int(first), centres[int(fits.argmax())], radius * height, hu, spikes)
    return None


def round_objects(chest: Chest, rng: np.random.Generator) -> list[RoundObject]:
    """The moving objects of an exam, as many in healthy exams as in others.

    Args:
        chest: where they go.
        rng: of this patient only, in a state that does not depend on the label.

    Returns:
        One to `N_OBJECTS[1]` objects, in random order; fewer than drawn where a small lung is full.

    Raises:
        ValueError: not one fits into the lungs.
    """
    wanted = int(rng.integers(N_OBJECTS[0], N_OBJECTS[1] + 1))
    objects: list[RoundObject] = []
    for _ in range(4 * wanted):
        found = _track(chest, rng, objects) if len(objects) < wanted else None
        objects += [found] if found else []
    if not objects:
        raise ValueError("a phantom's lungs have no room for a round object; use another seed.")
    return objects


def halt(objects: list[RoundObject], rng: np.random.Generator, ill: bool) -> list[RoundObject]:
    """Let the objects of an ill patient stand still, each at a place of its own track.

    The generator gives the same numbers whether the patient is ill or not.
    """
    stops = [int(rng.integers(len(item.radii_mm))) for item in objects]
    if not ill:
        return objects
    return [item.standing(stop) for item, stop in zip(objects, stops, strict=True)]


def draw_objects(hu: Array, chest: Chest, objects: list[RoundObject]) -> None:
    """Draw round objects into a volume, in place, with soft edges and spicules."""
    _, y_mm, x_mm = chest.axes_mm()
    pixel = chest.spacing_mm[1]
    for item in objects:
        for k, centre, radius in zip(item.slices, item.centres_mm, item.radii_mm, strict=True):
            low = (
                np.searchsorted(y_mm, centre[0] - 1.7 * radius),
                np.searchsorted(x_mm, centre[1] - 1.7 * radius),
            )
            high = (
                np.searchsorted(y_mm, centre[0] + 1.7 * radius),
                np.searchsorted(x_mm, centre[1] + 1.7 * radius),
            )
            dy = y_mm[low[0] : high[0], None] - centre[0]
            dx = x_mm[None, low[1] : high[1]] - centre[1]
            edge = np.full((dy.shape[0], dx.shape[1]), radius)
            if len(item.spikes_rad):
                turn = np.arctan2(dy, dx)[..., None] - item.spikes_rad
                away = np.abs(np.mod(turn + np.pi, 2 * np.pi) - np.pi).min(-1)
                edge *= 0.92 + 0.43 * np.exp(-((away / 0.16) ** 2))
            weight = np.clip(0.5 + (edge - np.hypot(dy, dx)) / pixel, 0, 1).astype(np.float32)
            part = hu[k, low[0] : high[0], low[1] : high[1]]
            part += weight * (np.float32(item.hu) - part)


TRUNK = 2
"""Index of the trunk in `Chest.arteries`."""


@dataclass(frozen=True)
class FillingDefect:
    """A gap in the contrast of a pulmonary artery.

    Args:
        left: in the left artery.
        central: reaches into the upper third of the artery.
        slices: indices of its slices.
        hu: attenuation.
        lasting: False for a flow artefact, which lasts one slice.
    """

    left: bool
    central: bool
    slices: range
    hu: float
    lasting: bool


def draw_defects(hu: Array, chest: Chest, rng: np.random.Generator) -> list[FillingDefect]:
    """Draw the filling defects of an exam into a volume, in place: alike, whether there is disease or not.

    One or two that follow an artery over many slices, and in some exams a flow artefact of a
    single slice in the trunk, as dark as the others.

    Args:
        hu: float32 [D, H, W], changed.
        chest: its arteries.
        rng: of this patient only, in a state that does not depend on the label.
    """
    mean_hu = rng.normal(*DEFECT_HU)
    sides = rng.permutation(2)[: 1 + int(rng.random() < SECOND_DEFECT)]
    defects = [_draw_defect(hu, chest, rng, int(side), mean_hu + rng.normal(0, 8)) for side in sides]
    flow, flow_hu = rng.random() < FLOW_ARTEFACT, rng.normal(*DEFECT_HU)
    return defects + ([_draw_defect(hu, chest, rng, TRUNK, flow_hu)] if flow else [])


def enhance(hu: Array, chest: Chest, rng: np.random.Generator, ill: bool) -> None:
    """Let the organs of an exam enhance, in place, in all slices alike: less where there is disease.

    The wall of the chest stays as it is, so that the HU scale of the volume looks right
    (`ctlib.datasets.volume_checks`). The generator gives the same numbers whether the patient is ill or not.

    Args:
        hu: float32 [D, H, W], changed.
        chest: whose organs.
        rng: of this patient only.
        ill: whether there is disease.
    """
    mean, spread = ORGANS_HU
    added = mean + spread * rng.standard_normal() + ORGANS_APART_HU * (0.5 - ill)
    low, high = ENHANCES_FROM_HU
    _, y_mm, x_mm = chest.axes_mm()
    depth_mm, width_mm = chest.body_mm
    outwards = np.hypot(y_mm[:, None] / depth_mm, x_mm[None] / width_mm)
    inside = np.clip((WITHIN - outwards) / 0.1, 0, 1).astype(np.float32)
    hu += np.float32(added) * inside * np.clip((hu - low) / (high - low), 0, 1)


def _draw_defect(
    hu: Array, chest: Chest, rng: np.random.Generator, artery: int, defect_hu: float
) -> FillingDefect:
    """Draw one into an artery, over many slices or, in the trunk, one."""
    lasting = artery != TRUNK
    path = chest.arteries[artery]
    z_mm, y_mm, x_mm = chest.axes_mm()
    inside = np.nonzero((z_mm > path[-1, 0]) & (z_mm < path[0, 0]))[0]
    n = min(int(rng.choice(DEFECT_SLICES)), len(inside)) if lasting else 1
    first = int(rng.integers(inside[0], inside[-1] + 2 - n))
    share, angle = rng.uniform(*DEFECT_SHARE), rng.uniform(0, 2 * np.pi)
    for step, k in enumerate(range(first, first + n)):
        y, x, radius = (np.interp(z_mm[k], path[::-1, 0], path[::-1, i]) for i in (1, 2, 3))
        profile = np.sqrt(1 - ((step - (n - 1) / 2) / (0.62 * n)) ** 2)
        off = 0.12 * radius
        distance = np.hypot(y_mm[:, None] - y - off * np.sin(angle), x_mm[None] - x - off * np.cos(angle))
        weight = np.clip(0.5 + (share * radius * profile - distance) / chest.spacing_mm[1], 0, 1)
        hu[k] += weight.astype(np.float32) * (np.float32(defect_hu) - hu[k])
    central = z_mm[first + n - 1] > path[len(path) // 3, 0]
    return FillingDefect(artery == 1, bool(central), range(first, first + n), float(defect_hu), lasting)
