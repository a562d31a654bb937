"""Volumes without any symmetry, written as DICOM in any axis-aligned orientation.

Shares no code with the package: each pixel is found by its patient coordinates.
"""

import itertools

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SHAPE = (5, 6, 7)
SPACING_MM = (2.5, 0.75, 0.5)
ORIGIN_MM = (-80.5, -20.25, 10.5)  # z, y, x of voxel [0, 0, 0]
AXES = [tuple(sign * int(i == axis) for i in range(3)) for axis in range(3) for sign in (1, -1)]
ORIENTATIONS = [(c, r) for c, r in itertools.product(AXES, AXES) if np.dot(c, r) == 0]
AXIAL = [(c, r) for c, r in ORIENTATIONS if c[2] == 0 and r[2] == 0]


def volume(seed=0):
    """Noise: no flip, turn, shift or transposition of it equals it."""
    return np.random.default_rng(seed).integers(-1024, 3072, SHAPE).astype(np.int16)


@pydicom.config.disable_value_validation()
def slices(hu, columns=(1, 0, 0), rows=(0, 1, 0), spacing_mm=SPACING_MM, origin_mm=ORIGIN_MM, uid="1.2.3"):
    """Data sets of a volume [S, P, L], in the order of the slice normal; `columns` and `rows` say in
    which direction (x, y, z) the column and the row index grow."""
    step = np.array(spacing_mm[::-1])
    origin = np.array(origin_mm[::-1])
    extent = np.array(hu.shape[::-1])
    normal = np.cross(columns, rows)
    start = origin + sum(np.where(np.array(d) < 0, (extent - 1) * step, 0) for d in (columns, rows, normal))
    n = [int(extent[np.flatnonzero(d)[0]]) for d in (normal, rows, columns)]
    width = [float(step[np.flatnonzero(d)[0]]) for d in (normal, rows, columns)]
    found = []
    for k in range(n[0]):
        position = start + k * width[0] * normal
        stored = np.empty(n[1:], np.int16)
        for row, col in np.ndindex(*n[1:]):
            point = position + row * width[1] * np.array(rows) + col * width[2] * np.array(columns)
            x, y, z = np.rint((point - origin) / step).astype(int)
            stored[row, col] = hu[z, y, x]
        found.append(data_set(stored, position, (*columns, *rows), width[1:], uid, k))
    return found


def data_set(stored, position, cosines, spacing, uid, k):
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{uid}.{k + 1}"
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.PatientID, ds.Modality = uid, "1.2", "P1", "CT"
    ds.Manufacturer, ds.ConvolutionKernel, ds.SliceThickness = "Maker", "B30f", 1.25
    ds.ImagePositionPatient = [round(float(p), 4) for p in position]
    ds.ImageOrientationPatient = [float(c) for c in cosines]
    ds.PixelSpacing = [float(s) for s in spacing]
    # Runs against z, and a location that is plainly wrong: neither may be looked at.
    ds.InstanceNumber, ds.SliceLocation = 100 - k, 7.0 * ((k * 3) % 5)
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    ds.PixelData = stored.astype("<i2").tobytes()
    return ds


def write(folder, found, names=None):
    """Write data sets; by default under names that do not sort like z."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(1).permutation(len(found))
    for ds, place in zip(found, order, strict=True):
        name = names[place] if names else f"{place:03d}.dcm"
        with pydicom.config.disable_value_validation():  # UIDs may be hashed
            ds.save_as(folder / name, enforce_file_format=True)
    return folder


def enhanced(hu, order=None, per_frame_rescale=False, **options):
    """One Enhanced CT data set of a volume: a frame a slice, in an order; slope 2 and an intercept of the
    frame's number where each frame has its own."""
    found = slices(hu, **options)
    ds, order = found[0], range(len(found)) if order is None else order
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, name)
    del ds.RescaleSlope, ds.RescaleIntercept, ds.ConvolutionKernel
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.NumberOfFrames = len(order)
    shared, frames = pydicom.Dataset(), []
    shared.PlaneOrientationSequence = [group(ImageOrientationPatient=found[1].ImageOrientationPatient)]
    shared.PixelMeasuresSequence = [group(PixelSpacing=found[1].PixelSpacing, SliceThickness="1.25")]
    shared.PixelValueTransformationSequence = [
        group(RescaleSlope="1", RescaleIntercept="0", RescaleType="HU")
    ]
    at = [options.get("origin_mm", ORIGIN_MM)[0] + k * SPACING_MM[0] for k in range(len(found))]
    xy = found[1].ImagePositionPatient[:2]
    for k in order:
        frame = pydicom.Dataset()
        frame.PlanePositionSequence = [group(ImagePositionPatient=[*xy, at[k]])]
        if per_frame_rescale:
            frame.PixelValueTransformationSequence = [group(RescaleSlope="2", RescaleIntercept=str(k))]
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.PixelData = b"".join(hu[k].astype("<i2").tobytes() for k in order)
    return ds


def group(**values):
    ds = pydicom.Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds
