"""The geometry of a series: its files in order, on a straight grid, or why they make none.

Slices are ordered by their position along the slice normal. Planes must be straight and axial:
mirrored and turned ones are brought `upright`; tilted, sagittal and coronal ones are refused.
Distances come from positions, never from SliceThickness, and neither SliceLocation,
InstanceNumber nor file names are looked at. No pydicom here: what trains on volumes needs none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctlib.io.deidentify import SeriesError

if TYPE_CHECKING:
    from ctlib.io.dicom_header import Slice

MIN_SLICES = 3
"""Of two slices, nobody can tell whether one is missing between."""
AXIS_TOLERANCE = 1e-3
"""Largest off-axis direction cosine, 0.06 degrees: 0.3 mm of shear over a chest of 300 mm."""
SPACING_TOLERANCE = 0.1
"""Largest distance of a slice from the even grid, in slice distances. Of LIDC-IDRI's 1,018 scans
the four with a gap or a thinner step are off by 1.4 and more, all others by 0.0001 and less."""
SIDEWAYS_TOLERANCE_PX = 0.1
"""Largest sideways shift of a slice against the first, in pixels."""
SAME_POSITION_MM = 0.01
"""Slices closer than this lie at one position; the thinnest CT slices are 0.2 mm apart."""
RESAMPLE = "resample it to axial planes, for instance in 3D Slicer, and store it as NIfTI"
SPACING_DIFFERENCE = 1e-4
"""Largest relative difference of pixel spacings in a series: 0.05 px over 512."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT series as one array.

    Args:
        hu: int16 `[D, H, W]` in HU within [-1024, 3071]; axes point to Superior, Posterior, Left.
        spacing_mm: distance of voxels along (z, y, x), mm.
        series_uid: SeriesInstanceUID.
        origin_mm: patient coordinates (z, y, x) = (S, P, L) of voxel [0, 0, 0], mm.

    >>> volume = Volume(np.full((3, 4, 5), -1000, np.int16), (2.5, 0.7, 0.7), "1.2.3", (-80.0, 0.0, 0.0))
    >>> volume
    Volume 1.2.3: 3 x 4 x 5 voxels (z, y, x), 2.5 x 0.7 x 0.7 mm, -1000 to -1000 HU, 0.0 MB
    >>> volume.z_mm.tolist()
    [-80.0, -77.5, -75.0]
    """

    hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    series_uid: str
    origin_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or self.hu.dtype != np.int16 or not self.hu.size:
            raise ValueError(f"Volume: hu is {self.hu.dtype} {self.hu.shape}; give int16 [D, H, W].")
        if len(self.spacing_mm) != 3 or not all(0 < step < math.inf for step in self.spacing_mm):
            raise ValueError(f"Volume: spacing_mm is {self.spacing_mm}; give three distances above 0.")

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W)."""
        return self.hu.shape

    def planes(self) -> Iterator[NDArray[np.int16]]:
        """Slices, int16 `[H, W]`, HU, from the most inferior."""
        return iter(self.hu)

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """Patient coordinate along Superior of each slice, float64 `[D]`, mm, increasing."""
        return self.origin_mm[0] + self.spacing_mm[0] * np.arange(len(self.hu), dtype=np.float64)

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.hu.shape)
        spacing = " x ".join(f"{step:.3g}" for step in self.spacing_mm)
        return (
            f"Volume {self.series_uid}: {shape} voxels (z, y, x), {spacing} mm, "
            f"{self.hu.min()} to {self.hu.max()} HU, {self.hu.nbytes / 1e6:.1f} MB"
        )


def upright(planes: NDArray[Any], orientation: str) -> NDArray[Any]:
    """Planes `[..., rows, cols]` as acquired, turned so that rows go to Posterior, columns to Left.

    Args:
        planes: any dtype.
        orientation: where columns, then rows, go as acquired: two of the letters L R A P.

    Returns:
        A view of the planes.

    >>> upright(np.array([[1, 2], [3, 4]]), "LP").tolist()
    [[1, 2], [3, 4]]
    >>> upright(np.array([[1, 2], [3, 4]]), "RA").tolist()
    [[4, 3], [2, 1]]
    >>> upright(np.array([[1, 2], [3, 4]]), "PL").tolist()
    [[1, 3], [2, 4]]
    """
    if orientation[0] in "AP":
        planes = planes.swapaxes(-1, -2)
    planes = planes[..., ::-1, :] if "A" in orientation else planes
    return planes[..., ::-1] if "R" in orientation else planes


def upright_points(points: NDArray[Any], orientation: str, matrix: tuple[int, int]) -> NDArray[Any]:
    """Points (row, column) as acquired, moved as `upright` moves the pixels under them.

    Args:
        points: `[N, 2]`, px.
        orientation: see `upright`.
        matrix: rows and columns of the upright plane.

    Returns:
        `[N, 2]` (row, column) of the upright plane, px.

    >>> upright_points(np.array([[0, 1]]), "PL", (2, 2)).tolist()
    [[1, 0]]
    >>> upright_points(np.array([[0, 0]]), "RP", (4, 5)).tolist()
    [[0, 4]]
    """
    rows, cols = points.T if orientation[0] in "LR" else points.T[::-1]
    rows = matrix[0] - 1 - rows if "A" in orientation else rows
    cols = matrix[1] - 1 - cols if "R" in orientation else cols
    return np.stack([rows, cols], axis=1)


@dataclass(frozen=True)
class Grid:
    """A series whose slices make a straight volume.

    Args:
        slices: its files, inferior to superior.
        z_mm: their patient coordinates along Superior, mm.
        orientation: see `upright`.
        matrix: rows and columns of the upright planes.
        spacing_mm: (z, y, x), mm.
        origin_mm: patient coordinates (z, y, x) of the first voxel of the upright volume, mm.
        series_uid: SeriesInstanceUID.
    """

    slices: list[Slice]
    z_mm: list[float]
    orientation: str
    matrix: tuple[int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    series_uid: str


def one(slices: Sequence[Slice], what: str, values: Iterable[Any], told: bool = True) -> None:
    """Refuse a series whose files differ in something.

    Args:
        slices: its files.
        what: what they should share, in plural.
        values: of each file.
        told: whether the values may be told; those that name a patient may not.

    Raises:
        SeriesError: there is more than one value.
    """
    counts = Counter(values)
    if len(counts) > 1:
        parts = ", ".join(f"{value} ({n} files)" for value, n in counts.most_common(4))
        told_parts = f": {parts}" if told else ""
        raise SeriesError(
            f"its {len(slices)} files have {len(counts)} different {what}{told_parts}; give the files of one"
        )


def _orientation(slices: Sequence[Slice]) -> str:
    """Where columns and rows go, for `upright`; refuses mixed, tilted and non-axial planes."""
    one(slices, "orientations", (tuple(round(c, 2) + 0.0 for c in s.orientation) for s in slices))
    cosines = np.array(slices[0].orientation).reshape(2, 3)
    axes = np.abs(cosines).argmax(axis=1)
    straight = np.zeros((2, 3))
    straight[[0, 1], axes] = np.sign(cosines[[0, 1], axes])
    off = max(float(np.abs(np.array(s.orientation).reshape(2, 3) - straight).max()) for s in slices)
    if axes[0] == axes[1] or off > AXIS_TOLERANCE:
        degrees = math.degrees(math.asin(min(off, 1.0)))
        raise SeriesError(
            f"its planes are tilted or turned by about {degrees:.1f} degrees; only axial planes are read; {RESAMPLE}"
        )
    if 2 in axes:
        plane = "sagittal" if 0 not in axes else "coronal"
        raise SeriesError(
            f"its planes are {plane}; labels belong to axial planes, only those are read; give the axial series"
        )
    return "".join("LP"[a] if straight[i, a] > 0 else "RA"[a] for i, a in enumerate(axes))


def _names(slices: Sequence[Slice]) -> str:
    return " and ".join(s.path.name for s in slices)


def _heights(slices: Sequence[Slice]) -> tuple[list[float], float]:
    """Checked z positions of slices in order, and their distance, mm."""
    # Axial planes are within 0.06 degrees of the axes: their normal is Superior.
    z = np.array([s.position[2] for s in slices])
    gaps = np.diff(z)
    if (gaps < SAME_POSITION_MM).any():
        same = int((gaps < SAME_POSITION_MM).argmax())
        n = len(z) - int((gaps < SAME_POSITION_MM).sum())
        raise SeriesError(
            f"its {len(z)} files lie at {n} position{'s' if n > 1 else ''}, for instance two "
            f"both at z {z[same]:g} mm; give the files of one acquisition",
            file=_names(slices[same : same + 2]),
        )
    if len(z) < MIN_SLICES:
        raise SeriesError(
            f"it has {len(z)} slice{'s' if len(z) > 1 else ''}, at least {MIN_SLICES} are needed; "
            "export the whole series"
        )
    step = float(z[-1] - z[0]) / (len(z) - 1)
    if np.abs(z - (z[0] + step * np.arange(len(z)))).max() > SPACING_TOLERANCE * step:
        at = int(np.abs(gaps - np.median(gaps)).argmax())
        raise SeriesError(
            f"its slices are {gaps.min():.3f} to {gaps.max():.3f} mm apart (median {np.median(gaps):.3f}), "
            f"with the largest difference between z {z[at]:g} and {z[at + 1]:g} mm: slices are missing, or their "
            f"distance changes (more than {SPACING_TOLERANCE:g} of it); export the whole series",
            file=_names(slices[at : at + 2]),
        )
    return z.tolist(), step


def locate(slices: Sequence[Slice]) -> Grid:
    """Check that files of one series make a volume, and where its voxels lie.

    Args:
        slices: headers, in any order.

    Raises:
        SeriesError: they are no straight volume; the error lacks the series' name.
    """
    if not slices:
        raise SeriesError("there are no DICOM files")
    for found in slices:
        if found.fault:
            raise SeriesError(found.fault, file=found.path.name)
    one(slices, "SeriesInstanceUIDs", (s.series_uid for s in slices), told=False)
    one(slices, "PatientIDs or StudyInstanceUIDs", ((s.patient_id, s.study_uid) for s in slices), told=False)
    one(slices, "matrix sizes", ("{} x {}".format(*s.matrix) for s in slices))
    spacings = np.array([s.spacing for s in slices])
    if np.ptp(spacings, axis=0).max() > SPACING_DIFFERENCE * spacings.min():
        one(slices, "pixel spacings", ("{:.6g} x {:.6g} mm".format(*s.spacing) for s in slices))
    orientation = _orientation(slices)
    ordered = sorted(slices, key=lambda s: s.position[2])
    z_mm, step = _heights(ordered)
    first = ordered[0]
    xy = np.array([s.position[:2] for s in ordered])
    sideways = float(np.abs(xy - xy[0]).max()) / min(first.spacing)
    if sideways > SIDEWAYS_TOLERANCE_PX:
        raise SeriesError(
            f"its slices are shifted sideways by {sideways:.2f} px, which shears the volume; {RESAMPLE}"
        )
    (rows, cols), (dy, dx) = first.matrix, first.spacing
    ends = np.array([[0, 0], [cols - 1, 0], [0, rows - 1]]) * (dx, dy)
    corners = np.array(first.position) + ends @ np.array(first.orientation).reshape(2, 3)
    turned = orientation[0] in "AP"
    return Grid(
        slices=ordered,
        z_mm=z_mm,
        orientation=orientation,
        matrix=(cols, rows) if turned else (rows, cols),
        spacing_mm=(step, dx, dy) if turned else (step, dy, dx),
        origin_mm=(z_mm[0], float(corners[:, 1].min()), float(corners[:, 0].min())),
        series_uid=first.series_uid,
    )
