"""A version of a generator stands for what is drawn: whoever changes a picture has to raise it."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from ctlib.datasets.synthetic import GENERATORS, anatomy, ct, dicom, lesions, video

DRAWN = {
    ("videos", 3): [
        *(126.977, 28.386, 0.259, 6.213, 5.485, 6.009, -4.892, 5.689),  # pan_right
        *(85.821, 40.204, -1.193, 11.084, 10.835, 8.723, -5.669, 8.332),  # pan_down
        *(115.678, 30.568, 0.564, 6.079, 7.633, 7.606, 4.356, 8.657),  # zoom_in
        *(89.044, 33.333, -0.676, 8.127, -8.516, 8.308, 1.688, 7.527),  # rotate_left
    ],
    ("phantoms", 6): [
        *(-738.343, 163.437, -4.721, 24.974, 6.084, 23.063, 5.099, 18.99),  # lidc, ill
        *(-747.079, 173.729, -4.869, 48.718, 0.127, 51.663, 3.193, 47.25),  # lidc, healthy
        *(-406.517, 524.724, -12.053, 81.041, -25.543, 90.314, 14.725, 85.232),  # rspect, ill
        *(-330.525, 554.039, -14.461, 57.291, -17.272, 60.6, 11.849, 55.461),  # rspect, healthy
    ],
}
"""Figures of each version, see `figures`: of four videos and four exams. A change of what is drawn gets a
new version, and its figures replace these; the test that fails prints them."""
TOLERANCE = 0.01
"""In grey levels and HU. Where another processor rounds a pixel to the next level, a mean over thousands of
pixels moves by less; a constant that is changed by a tenth moves one of the figures by 0.016 or more."""


def figures(values: NDArray[np.generic]) -> Iterator[float]:
    """Mean, spread, and on each axis the balance between its ends and the mean step between neighbours."""
    values = values.astype(np.float64)
    yield values.mean()
    yield values.std()
    for axis, length in enumerate(values.shape):
        yield (np.moveaxis(values, axis, -1) * np.linspace(-1, 1, length)).mean()
        yield np.abs(np.diff(values, axis=axis)).mean()


def videos() -> list[float]:
    """Figures of a video of each kind of motion."""
    photos, found = video.photographs(), []
    for seed, name in enumerate(("pan_right", "pan_down", "zoom_in", "rotate_left")):
        found += figures(video.frames_of(name, photos, 8, 32, np.random.default_rng(seed)))
    return found


def phantoms() -> list[float]:
    """Figures of an ill and a healthy patient of each cohort."""
    exams = [ct.exam(cohort, 3, patient) for cohort in ct.STREAMS for patient in (0, 1)]
    assert {exam.ill for exam in exams} == {True, False}
    return [figure for exam in exams for figure in figures(exam.hu)]


FIGURES: dict[str, Callable[[], list[float]]] = {"videos": videos, "phantoms": phantoms}


@pytest.mark.parametrize("generator", GENERATORS)
def test_what_is_drawn_is_what_its_version_says(generator):
    version = GENERATORS[generator]
    found = FIGURES[generator]()
    assert (generator, version) in DRAWN, f"figures of {generator} {version}: {np.round(found, 3).tolist()}"
    moved = np.abs(np.subtract(found, DRAWN[generator, version])).max()
    assert moved <= TOLERANCE, (
        f"{generator} {version} are drawn otherwise, by {moved:.3f}: raise it in ctlib/datasets/synthetic/__init__.py; "
        f"the new figures are {np.round(found, 3).tolist()}"
    )


CHANGES = [
    ("videos", video, "PACES", 1.1),
    ("videos", video, "N_DISCS", 2),
    ("videos", video, "DISC_RADIUS", 1.1),
    ("videos", video, "DISC_FRAMES", 1.1),
    ("videos", video, "DISC_BRIGHT", 1.1),
    ("videos", video, "GROUND", 1.1),
    ("videos", video, "GROUND_SPREAD", 1.1),
    ("videos", video, "FOCUS", 1.1),
    ("phantoms", anatomy, "CONTRAST_HU", 1.1),
    ("phantoms", anatomy, "ARTERY", 1.1),
    ("phantoms", anatomy, "HEART_SHARE", 1.1),
    ("phantoms", anatomy, "FOAM", 1.1),
    ("phantoms", anatomy, "LUNG_HU", 1.1),
    ("phantoms", dicom, "KERNELS", 2),
    ("phantoms", lesions, "N_SLICES", 2),
    ("phantoms", lesions, "OBJECT_RADIUS_MM", 1.1),
    ("phantoms", lesions, "PACE_MM", 1.1),
    ("phantoms", lesions, "OBJECT_HU", 1.1),
    ("phantoms", lesions, "N_OBJECTS", 2),
    ("phantoms", lesions, "DEFECT_SLICES", 2),
    ("phantoms", lesions, "DEFECT_SHARE", 1.1),
    ("phantoms", lesions, "DEFECT_HU", 1.1),
    ("phantoms", lesions, "ORGANS_HU", 1.1),
    ("phantoms", lesions, "ORGANS_APART_HU", 1.1),
    ("phantoms", lesions, "ENHANCES_FROM_HU", 1.1),
    ("phantoms", lesions, "WITHIN", 1.1),
]
"""Generator, module, constant and by how much it is multiplied."""


def changed(value, factor):
    """A constant of any form, each of its numbers times a factor."""
    if isinstance(value, dict):
        return {key: changed(part, factor) for key, part in value.items()}
    return tuple(changed(part, factor) for part in value) if isinstance(value, tuple) else value * factor


@pytest.mark.parametrize(
    ("generator", "module", "name", "factor"), CHANGES, ids=[change[2] for change in CHANGES]
)
def test_a_constant_that_is_changed_is_noticed(generator, module, name, factor, monkeypatch):
    monkeypatch.setattr(module, name, changed(getattr(module, name), factor))
    with pytest.raises(AssertionError, match=rf"{generator} \d+ are drawn otherwise"):
        test_what_is_drawn_is_what_its_version_says(generator)
