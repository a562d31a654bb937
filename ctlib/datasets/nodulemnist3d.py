"""NoduleMNIST3D of MedMNIST: 1,633 crops around lung nodules of LIDC-IDRI, 8-bit, in one npz.

Found in MedMNIST's own code (`medmnist/info.py`, version 3) and its paper (Yang et al., Scientific Data 2023,
doi 10.1038/s41597-022-01721-8): arrays `train_images`, `val_images`, `test_images` (uint8 `[N, 28, 28, 28]`, or 64
in `nodulemnist3d_64.npz`) and `..._labels` (uint8 `[N, 1]`); the readers' malignancy, 1 and 2 against 4 and 5, level
3 left out; voxels of 1 mm, cut around the centre; the split 7:1:2.

What is not published, and assumed here:

- **The values are no HU.** They are mapped from -1024 to 400 HU (`ASSUMED_HU`), a usual range for lungs. No source that
  was at hand says with what range these crops were made, so all HU of this cohort are guesses, for the store and the
  windows.
- **The axes.** The array's axes 0, 1, 2 are called Superior, Posterior, Left.
- **The patients.** No list of them is known to us, so each nodule counts as a patient, and a patient of LIDC-IDRI
  with two nodules may be in two of the official splits. Intervals are then too narrow. Whoever has a list puts it
  beside the npz as `patients.csv` (columns split, index, patient; index from 0 within the split's array): then
  patients are whole, and are split anew by `split_shares` where the official split tears one.
- **The voxels of the larger file**: taken to show the same 28 mm, in steps of 0.4375 mm.

The npz is unpacked once, beside itself, to a NIfTI file a nodule, uint8 as it was, with the assumed HU as its slope
and intercept. From there on it is read, checked and refused like anybody's NIfTI: a crop without any lung is refused
as no HU, a crop that is there twice as a repetition, each with its reason.
"""

from __future__ import annotations

import shutil
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ctlib.core import Map, display_path, in_order, read_json, tables, write_json
from ctlib.datasets.cohort import Cohort, CohortError, assemble, slice_rows
from ctlib.datasets.label_file import read_table
from ctlib.io import scan

NAME = "nodulemnist3d"
FILES = {28: "nodulemnist3d.npz", 64: "nodulemnist3d_64.npz"}
"""Name of the file by voxels a side, as MedMNIST has them."""
SPLITS = ("train", "val", "test")
FIELD_MM = 28.0
"""Side of a crop, mm: 28 voxels of 1 mm; of the larger file assumed."""
ASSUMED_HU = (-1024.0, 400.0)
"""HU of the values 0 and 255; an assumption, see the module."""
PATIENTS = "patients.csv"
UNPACKED = "volumes"


def read(root: Path, values: Mapping[str, Any], run: Map = in_order) -> Cohort:
    """Read the dataset; `load` says how. It has no parameters but its folder."""
    return load(root, run)


def load(root: Path, run: Map = in_order) -> Cohort:
    """Read the dataset.

    Args:
        root: folder of one of `FILES`, and of patients.csv where it is known.
        run: spreads the reading of headers.

    Returns:
        The cohort; label 1 is a malignancy of 4 or 5. Its `splits` are the official ones, unless patients.csv
        shows that they tear a patient.

    Raises:
        FileNotFoundError: there is no such npz.
        CohortError: there are two, it is damaged or of another layout, or patients.csv does not fit it.
    """
    root = Path(root)
    archive = _archive(root)
    folder = root / UNPACKED
    labels = _unpack(archive, folder)
    patients = _patients(root / PATIENTS, labels)
    series, problems = scan(folder, run=run)
    problems = problems.assign(path=[f"{UNPACKED}/{path}" for path in problems["path"]])
    names = [Path(files[0]).stem for files in series["files"]]
    series = series.assign(
        patient_id=[patients.get(name, name) for name in names],
        study_uid=[f"{NAME}-{name}" for name in names],
        label=pd.array([labels[name] for name in names], dtype="Int64"),
    )
    slices = slice_rows(series)
    label = slices["series_uid"].map(series.set_index("series_uid")["label"])
    slices = slices.assign(label=label.astype("Int64").mask(label == 1))  # which slices show it nobody says
    cohort = assemble(NAME, series, slices, problems, tables.empty("marks"), {}, root)
    given: dict[str, set[str]] = defaultdict(set)
    for name, patient in zip(names, series["patient_id"], strict=True):
        given[patient].add(name.split("-")[0])
    torn = any(len(splits) > 1 for splits in given.values())
    return (
        cohort
        if torn
        else replace(cohort, splits={patient: min(splits) for patient, splits in given.items()})
    )


def _archive(root: Path) -> Path:
    found = [root / name for name in FILES.values() if (root / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{display_path(root)} has neither {' nor '.join(FILES.values())}; `ctlib fetch {NAME}` gets it."
        )
    if len(found) > 1:
        raise CohortError(
            f"{display_path(root)} has {' and '.join(FILES.values())}; keep the one that is meant."
        )
    return found[0]


def arrays(archive: Path) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Crops and labels of each split of an npz.

    Args:
        archive: one of `FILES`.

    Returns:
        By split: uint8 `[N, side, side, side]` and int64 `[N]` of 0 and 1.

    Raises:
        CohortError: it is damaged, or of another layout; the sentence says which array.
    """
    again = f"fetch it again (`ctlib fetch {NAME}`)"
    try:
        with np.load(archive, allow_pickle=False) as held:
            missing = [
                f"{s}_{what}" for s in SPLITS for what in ("images", "labels") if f"{s}_{what}" not in held
            ]
            if missing:
                raise CohortError(
                    f"{archive.name} has no array {missing[0]}, so it is no NoduleMNIST3D; {again}."
                )
            found = {split: (held[f"{split}_images"], held[f"{split}_labels"]) for split in SPLITS}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, CohortError):
            raise
        raise CohortError(f"{archive.name} cannot be read ({type(error).__name__}); {again}.") from error
    side = next(side for side, name in FILES.items() if name == archive.name)
    checked = {}
    for split, (images, labels) in found.items():
        if images.dtype != np.uint8 or images.shape[1:] != (side,) * 3 or not len(images):
            shape = " x ".join(map(str, images.shape))
            raise CohortError(
                f"{archive.name}: {split}_images is {images.dtype} of {shape}, uint8 of N x {side} x {side} x {side} "
                f"is needed; {again}."
            )
        if labels.size != len(images) or not np.isin(labels, (0, 1)).all():
            raise CohortError(
                f"{archive.name}: {split}_labels is not a 0 or 1 for each of {len(images)} crops; {again}."
            )
        checked[split] = images, labels.reshape(-1).astype(np.int64)
    return checked


def _unpack(archive: Path, folder: Path) -> dict[str, int]:
    """Write a NIfTI a crop, once; the label of each by its name."""
    record, stamp = folder.with_name(f".{folder.name}.json"), archive.stat()
    source = [archive.name, stamp.st_size, stamp.st_mtime_ns]
    if folder.is_dir() and record.is_file() and (known := read_json(record))["source"] == source:
        return dict(known["labels"])
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    names = {}
    for split, (images, labels) in arrays(archive).items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            name = f"{split}-{number:04d}"
            (part / f"{name}.nii").write_bytes(_nifti(image))
            names[name] = int(label)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    write_json(record, {"source": source, "labels": names})
    return names


def _nifti(image: NDArray[np.uint8]) -> bytes:
    """A crop as NIfTI: its own values, and the assumed HU as slope and intercept."""
    step = FIELD_MM / len(image)
    stored = image.transpose(2, 1, 0)[::-1, ::-1]  # from (S, P, L) to (R, A, S)
    made = nibabel.Nifti1Image(stored, np.diag([step, step, step, 1.0]))
    made.set_sform(made.affine, 1)
    made.set_qform(made.affine, 1)
    header = made.header
    header["magic"], header["vox_offset"] = b"n+1", header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = (ASSUMED_HU[1] - ASSUMED_HU[0]) / 255, ASSUMED_HU[0]
    start = bytes(header.binaryblock)
    return start.ljust(header.single_vox_offset, b"\0") + stored.tobytes(order="F")


def _patients(path: Path, labels: Mapping[str, int]) -> dict[str, str]:
    """The patient of each crop by its name; none where there is no list."""
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for row in read_table(path, ("split", "index", "patient")):
        split, index, patient = row.cells.values()
        name = f"{split}-{int(index):04d}" if index.isdecimal() and len(index) < 7 else ""
        if name not in labels or not patient:
            raise CohortError(
                f"{path.name}, data row {row.number}: give the columns split ({', '.join(SPLITS)}), index (from 0, "
                "within the split) and patient."
            )
        if found.setdefault(name, patient) != patient:
            raise CohortError(
                f"{path.name}, data row {row.number}: this crop has another patient in an earlier row."
            )
    if len(found) < len(labels):
        raise CohortError(
            f"{path.name} names {len(found)} of {len(labels)} crops; give each a row, or no file."
        )
    return found
