"""One phantom patient: anatomy, lesions and scanner, and the one line where the label enters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctlib.datasets.synthetic import lesions
from ctlib.datasets.synthetic.anatomy import Chest, chest
from ctlib.datasets.synthetic.dicom import KERNELS, Scanner, acquire, scanner
from ctlib.datasets.synthetic.lesions import FillingDefect, RoundObject

COHORTS = {"lidc": 1, "rspect": 2}
"""Cohorts, and their stream of the seed."""
MAKERS = ("Phantom Alpha", "Phantom Beta", "Phantom Gamma")


@dataclass(frozen=True)
class Exam:
    """One phantom patient's exam.

    Args:
        ill: whether there is disease.
        hu: int16 [D, H, W], HU, axes Superior, Posterior, Left.
        chest: anatomy.
        scanner: how it is stored.
        objects: round objects (lidc).
        defects: filling defects (rspect).
    """

    ill: bool
    hu: NDArray[np.int16]
    chest: Chest
    scanner: Scanner
    objects: tuple[RoundObject, ...] = ()
    defects: tuple[FillingDefect, ...] = ()


def is_ill(seed: int, index: int) -> bool:
    """Whether a patient is ill: of the patients 2k and 2k + 1 always exactly one is, at random.

    >>> [is_ill(0, index) for index in range(6)]
    [True, False, True, False, False, True]
    """
    first = np.random.default_rng([seed, 0, index // 2]).integers(2)
    return bool((first + index) % 2)


def exam(cohort: str, seed: int, index: int, ill: bool | None = None) -> Exam:
    """Draw a patient.

    Args:
        cohort: "lidc" or "rspect".
        seed: of the cohort.
        index: of the patient, from 0.
        ill: another label than `is_ill` says, for the same patient.

    Raises:
        ValueError: no phantom cohort has that name.
    """
    if cohort not in COHORTS:
        raise ValueError(f"phantom cohort is {cohort!r}; known are {', '.join(COHORTS)}.")
    rng = np.random.default_rng([seed, COHORTS[cohort], index])
    ill = is_ill(seed, index) if ill is None else ill
    body = chest(rng, contrast=cohort == "rspect")
    kernel = list(KERNELS)[rng.integers(len(KERNELS))]
    made = scanner(rng, kernel, MAKERS if cohort == "lidc" else ("", *MAKERS))
    objects: list[RoundObject] = []
    defects: list[FillingDefect] = []
    if cohort == "lidc":
        objects = lesions.halt(lesions.round_objects(body, rng), rng, ill)
        lesions.draw_objects(body.hu, body, objects)
    else:
        defects = lesions.draw_defects(body.hu, body, rng)
        lesions.enhance(body.hu, body, rng, ill)
    return Exam(ill, acquire(body.hu, kernel, rng), body, made, tuple(objects), tuple(defects))
