"""The rendering of a volume on a NiiVue canvas."""

from __future__ import annotations

from typing import Any

import cv2
import ipyniivue
import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from ctlib.core import HuWindow
from ctlib.io import Volume

MATRIX_PX = 192
"""Rows and columns of a slice in a rendering at most: 2 mm of a chest. Without a GPU each voxel of it takes the
page four times as long as one of a plane, and more are not seen on its canvas."""
CUT = (0.0, 180.0, 0.0)
"""At the middle of the volume, facing the patient's front, which is cut away: whole, a chest in the lung's HU
window is a grey block. Depth, azimuth and elevation, as NiiVue's `set_clip_plane` takes them; its key C takes
other cuts."""
SEEN_FROM = {"render_azimuth": 205.0, "render_elevation": 12.0}
"""From where it is seen first, degrees: the front, a little from the left and above."""


def drawable(volume: Volume) -> Volume:
    """A volume of the same extent whose slices have at most `MATRIX_PX` rows and columns."""
    rows, columns = volume.shape[1:]
    step = max(rows / MATRIX_PX, columns / MATRIX_PX, 1.0)
    if step == 1:
        return volume
    drawn_rows, drawn_columns = max(round(rows / step), 1), max(round(columns / step), 1)
    z, y, x = volume.spacing_mm
    spacing = (z, y * rows / drawn_rows, x * columns / drawn_columns)
    z0, y0, x0 = volume.origin_mm  # of a voxel's middle: that of a larger one lies further in
    origin = (z0, y0 + (spacing[1] - y) / 2, x0 + (spacing[2] - x) / 2)
    size = (drawn_columns, drawn_rows)
    hu = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in volume.hu])
    return Volume(hu, spacing, volume.series_uid, origin)


def nifti(volume: Volume, voxels: NDArray[np.generic]) -> bytes:
    """A single NIfTI-1 file of voxels on a volume's grid; nothing is resampled, turned or compressed.

    Our axes point to Superior, Posterior, Left and the last runs fastest. NIfTI's first runs fastest
    and its world points to Right, Anterior, Superior: the bytes stay as they are, and the affine says
    that the first index runs to Left (-x), the second to Posterior (-y), the third to Superior (+z).

    Args:
        volume: gives spacing and origin.
        voxels: `[D, H, W]`, int16, uint8 or float32.
    """
    z, y, x = volume.spacing_mm
    z0, y0, x0 = volume.origin_mm
    affine = np.array([[-x, 0, 0, -x0], [0, -y, 0, -y0], [0, 0, z, z0], [0, 0, 0, 1]], np.float64)
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape[::-1])
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = 1, 0
    ordered = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    return b"".join([header.binaryblock, b"\0" * 4, ordered.data])


class _Layer(ipyniivue.Volume):
    """A layer whose voxels are not kept a second time in the kernel, should the browser send them."""

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state({name: value for name, value in state.items() if not name.startswith("chunk_")})


class Rendering:
    """A rendering, turned by a drag and cut by a turn of the wheel; another volume needs another one.

    Args:
        volume: any volume.
        hu_window: HU window it opens with.
        height_px: height on the page, CSS pixels.
    """

    def __init__(self, volume: Volume, hu_window: HuWindow, height_px: int) -> None:
        drawn = drawable(volume)
        self.layer = _Layer(
            data=nifti(drawn, drawn.hu), name="ct.nii", colormap="gray", colorbar_visible=False,
            cal_min=hu_window.low, cal_max=hu_window.high,
        )  # fmt: skip
        self.widget = ipyniivue.NiiVue(
            height=height_px,
            slice_type=ipyniivue.SliceType.RENDER,
            is_radiological_convention=True,
            is_orient_cube=True,  # R, L, A, P, S, I on a cube that turns with it
            clip_plane_color=(0.0, 0.0, 0.0, 0.0),
            loading_text="the rendering is made ...",
            drag_and_drop_enabled=False,  # a file dropped here would be taken for this exam
            log_level="error",
        )
        self.widget.set_clip_plane(*CUT)
        for name, degrees in SEEN_FROM.items():
            setattr(self.widget.scene, name, degrees)
        self.widget.load_volumes([self.layer])

    def hu_window(self, hu_window: HuWindow) -> None:
        """Set the HU window."""
        with self.layer.hold_sync():
            self.layer.cal_min, self.layer.cal_max = hu_window.low, hu_window.high

    def snapshot(self) -> None:
        """Have the page save what it shows as a PNG."""
        self.widget.save_scene("ct-rendering.png")

    def close(self) -> None:
        """End its widgets."""
        self.layer.close()
        self.widget.close()
