"""Enhanced CT: the frames of one file as slices, where the file is certain about each of them.

Such a file (DICOM PS3.3 A.38) holds a whole volume. What a slice needs stands in the functional groups of each
frame, or once in those that all frames share (PS3.3 C.7.6.16): nowhere else is looked. Frames may have any
order. They are slices like others from there on, checked by `ctlib.io.dicom_header` and judged by
`ctlib.io.series`; only a file all of whose frames make one volume is read, and one that is not compressed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pydicom
from pydicom.multival import MultiValue

from ctlib.io.deidentify import SeriesError, quoted
from ctlib.io.dicom_bytes import DEFLATED, Bounded, hushed
from ctlib.io.dicom_header import NATIVE, Slice, fields_and_pixels, pixels_at, slice_of
from ctlib.io.series import judge

CONVERT = "convert it to single frames or to NIfTI, for instance with dcm2niix"
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
GROUPS = (
    # functional group, its attribute, the field of a slice
    ("PlanePositionSequence", "ImagePositionPatient", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing", "PixelSpacing"),
    ("PixelMeasuresSequence", "SliceThickness", "SliceThickness"),
    ("PixelValueTransformationSequence", "RescaleSlope", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept", "RescaleIntercept"),
    ("CTImageFrameTypeSequence", "FrameType", "ImageType"),
    ("CTReconstructionSequence", "ConvolutionKernel", "ConvolutionKernel"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameContentSequence", "FrameAcquisitionDateTime", "AcquisitionDateTime"),
)
"""Where the fields of a frame stand (PS3.3 C.7.6.16.2, C.8.15.3)."""
RESCALE_TYPES = ("HU", "US", "")
"""RescaleType of HU, or of nothing that is named (PS3.3 C.11.1.1.2)."""


def frames_of(found: Slice) -> list[Slice]:
    """The frames of a file as slices.

    Args:
        found: the header of a file whose n_frames is above 1.

    Returns:
        One slice per frame, in the order of the file, without a fault; all together are one volume. Or one
        slice for the whole file, set aside, with the fault why it is not read.
    """
    try:
        with Bounded(io.FileIO(found.path)) as file, hushed():
            frames = _frames(found, file)
        judged = judge(frames)
        for _, why in judged.refused:
            raise why
        if len(judged.volumes) != 1:
            raise SeriesError(f"its frames are {len(judged.volumes)} volumes")
        return frames
    except SeriesError as error:
        reason = error.reason.replace(" files ", " frames ").split("; ")[0]
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    except Exception as error:  # damaged files raise many kinds; each ends as a sentence
        reason = f"its functional groups cannot be read ({type(error).__name__})"
    return [
        replace(found, fault=f"it is a file of {found.n_frames} frames, and {reason}; {CONVERT}", n_frames=1)
    ]


def _frames(found: Slice, file: Bounded) -> list[Slice]:
    """The slices, with the places of their pixels.

    Raises:
        SeriesError: a frame lacks something, or the pixels are not as many as the frames need.
    """
    source, fields, syntax = fields_and_pixels(file)
    if syntax not in NATIVE - {DEFLATED}:
        raise SeriesError("its pixels are compressed")
    at = source.tell()
    file.seek(0)
    header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    shared, own = header.get(SHARED), header.get(PER_FRAME)
    if not own:
        raise SeriesError(f"it has no {PER_FRAME}, so nobody knows the place of each")
    if len(own) != found.n_frames or (shared and len(shared) != 1):
        raise SeriesError(f"{PER_FRAME} has {len(own)} items")
    if "ConcatenationUID" in header:
        raise SeriesError("it is a part of several that belong together (ConcatenationUID)")
    shared_groups = shared[0] if shared else pydicom.Dataset()
    frames = []
    for number, groups in enumerate(own):
        values = fields | {"NumberOfFrames": "1"} | dict(_values((groups, shared_groups)))
        frame = slice_of(values, found.path, syntax)
        if frame.fault:
            raise SeriesError(f"in frame {number + 1}, {frame.fault}")
        frames.append(replace(frame, sop_uid=f"{found.sop_uid}/{number}", stamp=found.stamp))
    file.seek(at)
    n_bytes = 2 * math.prod(frames[0].matrix)
    offset, fault = pixels_at(file, file, syntax, n_bytes * len(frames))
    if fault:
        raise SeriesError(fault)
    return [replace(frame, offset=offset + number * n_bytes) for number, frame in enumerate(frames)]


def _values(places: Sequence[pydicom.Dataset]) -> Iterator[tuple[str, str]]:
    """The fields of a frame as text.

    Args:
        places: the functional groups of the frame, and those that all share.

    Raises:
        SeriesError: they say that stored values become something else than HU.
    """
    for sequence, attribute, field in GROUPS:
        yield field, _text(_found(places, sequence, attribute))
    kind = _text(_found(places, "PixelValueTransformationSequence", "RescaleType"))
    if kind not in RESCALE_TYPES:
        raise SeriesError(f"RescaleType is {quoted(kind)}, not HU")


def _found(places: Sequence[pydicom.Dataset], sequence: str, attribute: str) -> Any:
    """The value of an attribute in the first place that has its sequence; None where none has it."""
    for groups in places:
        items = groups.get(sequence)
        if items:
            return items[0].get(attribute)
    return None


def _text(value: Any) -> str:
    """A value as it stands in a file; several are joined by a backslash."""
    if value is None:
        return ""
    return "\\".join(str(part) for part in value) if isinstance(value, MultiValue) else str(value)
