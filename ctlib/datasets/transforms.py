"""One clip cut out of a volume: HU mapped to [0, 1], cropped, turned, in the channels a network sees.

Padding is air (`HU_MIN`), mapped as the voxels are, so it has the value that air has, wherever it comes
from: a short clip, a crop beyond the edge, a corner that a rotation uncovers, a slice beyond the ends of
the volume; in training and in evaluation, and also where intensities are jittered.

Crop, rotation and flip are one affine map, the same for every slice, interpolated once (bilinear), after
the HU window. Two things make it fast (`benchmarks/training_clips.py`), and change no bit of the result:

- The mapping is looked up in a table of all values of int16, which holds HU window and jitter alike.
- Four slices are warped at once, as the channels of one picture: OpenCV then finds the four neighbours of
  a pixel once for all of them, and the warp takes a third of its time. More than four are less exact.

Scratch pictures are of four slices, not of a clip: they stay in the cache of the processor.

A further augmentation is a field of `Augmented`, and the parameter of the same name in the notebooks that
offer it: settings, ids of runs, checks and clips take it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ctlib.core import CHANNELS, Contract, HuWindow, hu, read_contract

CHANNEL_HU_WINDOWS = ("lung", "pe", "mediastinum")
"""Of `hu_windows`: those of the 2D baselines of Ke et al. 2023, released code (docs/protocol.md)."""

_WARP = {
    "flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    "borderMode": cv2.BORDER_CONSTANT,
    "hint": cv2.ALGO_HINT_ACCURATE,
}
_AT_ONCE = 4
"""Slices warped together, as channels of one picture: five and more OpenCV warps less exactly."""
_N_LEVELS = 2**16
"""Values of int16."""


@dataclass
class Change:
    """What is done to one training clip.

    Args:
        crop_px: height and width of the clip.
        matrix: float64 `[2, 3]`, maps (x, y, 1) of the clip to (x, y) of the slice, px.
        offset_hu: added to each voxel after `scale`, HU.
        scale: of each voxel, about 0 HU.
        on_clip: called in order with the mapped and warped slices, float32 `[channels, n, H, W]` in [0, 1],
            to be changed in place; n leaves out the slices that the clip lacks.
        air: value of padding in each channel, in [0, 1]; known once the clip is cut.
    """

    crop_px: int
    matrix: NDArray[np.float64]
    offset_hu: float = 0.0
    scale: float = 1.0
    on_clip: list[Callable[[NDArray[np.float32]], None]] = field(default_factory=list)
    air: tuple[float, ...] = (0.0,)


Apply = Callable[[Change, Any, np.random.Generator], None]
"""Adds to a change what a setting asks for, at random. It draws equally often whatever the setting, so that
leaving one augmentation out moves no draw of another."""


@dataclass(frozen=True)
class Augmentation:
    """A random change of training clips.

    Args:
        off: value of its setting that changes nothing.
        apply: what it does.
        help: what the setting means, with its unit, as the parameters of `03_finetune_grid` say it.
        wanted: the values that are allowed, in words.
        is_allowed: whether a value is one of them.
        is_always_told: whether ids of runs and checksums of weights count the setting where it is off: true
            of those that the first results had.
    """

    off: Any
    apply: Apply
    help: str
    wanted: str = ""
    is_allowed: Callable[[Any], bool] = lambda value: True
    is_always_told: bool = False


def rotate(change: Change, degrees: float, rng: np.random.Generator) -> None:
    """Turn the clip about its centre by up to so many degrees, either way."""
    angle = np.deg2rad(rng.uniform(-degrees, degrees))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear, shift = change.matrix[:, :2], change.matrix[:, 2]
    centre = np.full(2, (change.crop_px - 1) / 2)
    change.matrix = np.column_stack([linear @ turn, linear @ centre + shift - linear @ turn @ centre])


def exchange_sides(change: Change, is_on: bool, rng: np.random.Generator) -> None:
    """Exchange left and right of every second clip."""
    if rng.uniform(-1, 1) < 0 and is_on:
        change.matrix = mirrored(change.matrix, change.crop_px)


def shift_hu(change: Change, most: float, rng: np.random.Generator) -> None:
    """Make the clip brighter or darker by up to so many HU."""
    change.offset_hu += most * rng.uniform(-1, 1)


def scale_hu(change: Change, most: float, rng: np.random.Generator) -> None:
    """Make the contrast of the clip higher or lower by up to this share."""
    change.scale *= 1 + most * rng.uniform(-1, 1)


def imagenet_policy(change: Change, is_on: bool, rng: np.random.Generator) -> None:
    """Change the clip by the policy that AutoAugment learned on ImageNet, all of its slices alike.

    Cubuk et al., AutoAugment, CVPR 2019, as torchvision has it for pictures of 8 bits. What looks at a picture
    (equalize, autocontrast, contrast) looks at each slice by itself.
    """
    seed = int(rng.integers(2**31))
    if is_on:
        change.on_clip.append(lambda clip: _apply_policy(clip, change.air, seed))


def _apply_policy(clip: NDArray[np.float32], air: tuple[float, ...], seed: int) -> None:
    import torch
    from torchvision.transforms import v2  # here: only clips that want it pay for the import

    fill = [255 * value for value in air]
    policy = v2.AutoAugment(interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
    slices = torch.from_numpy(clip).mul(255).round().clamp(0, 255).to(torch.uint8).transpose(0, 1)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
        torch.manual_seed(seed)
        clip[:] = policy(slices).transpose(0, 1).numpy() / np.float32(255)


def augmentation(off: Any, apply: Apply, help: str, **more: Any) -> Any:
    """A field of `Augmented`; the arguments are those of `Augmentation`."""
    return field(default=off, metadata={"augmentation": Augmentation(off, apply, help, **more)})


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """Settings of all augmentations: a field each, in the order in which they are drawn; all are off by default.

    Args:
        rotation_deg: training clips turn by up to this, either way.
        flip: every second training clip has left and right exchanged. Not by default: the heart and the
            arch of the aorta lie to the left and the liver to the right, and a mirrored chest is
            found in about one person in ten thousand. There are no other flips: the patient lies on a table,
            fluid sinks to the back, and the order of the slices is what a 3D network is asked about.
        jitter_hu: training clips are brighter or darker by up to this, HU.
        jitter_scale: contrast of training clips is higher or lower by up to this share, about 0 HU:
            water, which every scanner is calibrated to.
        autoaugment: training clips are changed by AutoAugment's policy for ImageNet, with 8 bits a voxel, as
            Ke et al. 2023 write (p. 771). Learned on photographs: it inverts and solarizes, too.

    Raises:
        ValueError: a value is not allowed.
    """

    rotation_deg: float = augmentation(
        0.0,
        rotate,
        "largest rotation in training, degrees",
        wanted="0 to 180 degrees",
        is_allowed=lambda value: 0 <= value <= 180,
        is_always_told=True,
    )
    flip: bool = augmentation(
        False, exchange_sides, "exchange left and right in training", is_always_told=True
    )
    jitter_hu: float = augmentation(
        0.0,
        shift_hu,
        "largest shift in training, HU",
        wanted="0 HU or more",
        is_allowed=lambda value: 0 <= value < float("inf"),
        is_always_told=True,
    )
    jitter_scale: float = augmentation(
        0.0,
        scale_hu,
        "largest change of contrast in training, share",
        wanted="a share from 0 to below 1",
        is_allowed=lambda value: 0 <= value < 1,
        is_always_told=True,
    )
    autoaugment: bool = augmentation(
        False, imagenet_policy, "AutoAugment's policy for ImageNet in training, the same for all slices"
    )

    def __post_init__(self) -> None:
        for name, entry in AUGMENTATIONS.items():
            if not entry.is_allowed(value := getattr(self, name)):
                raise ValueError(f"{name} is {value}; give {entry.wanted}.")

    def augmentations(self) -> dict[str, Any]:
        """The settings of all augmentations, by name.

        >>> ClipSettings(16, 48, "pe", flip=True).augmentations()
        {'rotation_deg': 0.0, 'flip': True, 'jitter_hu': 0.0, 'jitter_scale': 0.0, 'autoaugment': False}
        """
        return {name: getattr(self, name) for name in AUGMENTATIONS}


AUGMENTATIONS: dict[str, Augmentation] = {
    entry.name: entry.metadata["augmentation"] for entry in fields(Augmented)
}
"""All augmentations of training clips, by the name of their setting."""
UNTOLD = {name: entry.off for name, entry in AUGMENTATIONS.items() if not entry.is_always_told}
"""Settings, with their value, that ids of runs and checksums of weights leave out: those of the augmentations
that came after the first results, where they are off."""


@dataclass(frozen=True)
class ClipSettings(Augmented):
    """How a clip is cut. What is done to training clips alone: see `Augmented`.

    Args:
        length: slices, D.
        crop_px: height and width, H and W.
        hu_window: name of the HU window that is mapped to [0, 1]; of `hu_windows`, not used.
        channels: one of `CHANNELS`. `repeat`: one channel. `hu_windows`: the clip under the HU windows
            `CHANNEL_HU_WINDOWS`. `neighbours`: of each slice the one before it, itself, the one after it.
        fill: what a rotation or a crop beyond the edge uncovers in training, after the mapping; None is air,
            as everywhere else. Another value repeats a fault (`ctlib.training.protocol`).
        shuffle_seed: where given, `ctlib.datasets.clips` shows the slices of each clip in a random order, drawn from
            it and the clip (`ctlib.training.negative_controls`); not with `neighbours`.
        contract: what the starting weights ask of a clip, as `ctlib.core.Contract.text` writes it; empty: nothing.

    >>> ClipSettings(16, 48, "pe").n_channels, ClipSettings(16, 48, "pe", channels="neighbours").n_channels
    (1, 3)
    """

    length: int
    crop_px: int
    hu_window: str
    channels: str = "repeat"
    fill: float | None = None
    shuffle_seed: int | None = None
    contract: str = ""

    def __post_init__(self) -> None:
        HuWindow.named(self.hu_window)
        if self.length < 1 or self.crop_px < 1:
            raise ValueError(f"clips of {self.length} slices and {self.crop_px} px: both must be at least 1.")
        if self.channels not in CHANNELS:
            raise ValueError(f"channels is {self.channels!r}; known are {', '.join(CHANNELS)}.")
        super().__post_init__()
        if asked := self.asked:
            told = f"channels is {self.channels!r}, but the input contract of the starting weights asks for"
            if asked.channels and self.channels not in asked.channels:
                raise ValueError(f"{told} {' or '.join(asked.channels)}; set channels.")
            if asked.hu and self.channels == "hu_windows":
                raise ValueError(f"{told} one range of HU ({asked}); set channels to repeat or neighbours.")

    @property
    def asked(self) -> Contract | None:
        """The contract, or None."""
        return read_contract(self.contract)

    @property
    def n_channels(self) -> int:
        """C of a clip."""
        return 1 if self.channels == "repeat" else 3

    @property
    def ranges(self) -> tuple[HuWindow, ...]:
        """The HU windows that are applied: the contract's range, or those of the names."""
        if (asked := self.asked) and asked.hu:
            return (HuWindow(sum(asked.hu) / 2, asked.hu[1] - asked.hu[0]),)
        return tuple(map(HuWindow.named, self.hu_windows))

    @property
    def hu_windows(self) -> tuple[str, ...]:
        """Names of the HU windows that are applied where no contract gives a range.

        >>> [ClipSettings(16, 48, "pe", channels=name).hu_windows for name in ("repeat", "hu_windows")]
        [('pe',), ('lung', 'pe', 'mediastinum')]
        """
        return CHANNEL_HU_WINDOWS if self.channels == "hu_windows" else (self.hu_window,)

    @property
    def beside(self) -> int:
        """Slices before and after a clip that are cut with it."""
        return int(self.channels == "neighbours")

    @property
    def air(self) -> float:
        """The value of padding under `hu_window`: what `HU_MIN` maps to.

        >>> ClipSettings(16, 48, "pe").air, round(ClipSettings(16, 48, "lung").air, 4)
        (0.0, 0.2173)
        """
        window = HuWindow.named(self.hu_window) if self.channels == "hu_windows" else self.ranges[0]
        return float(hu.to_unit(np.array([hu.HU_MIN]), window)[0])


def change_of(matrix_px: int, settings: ClipSettings, rng: np.random.Generator) -> Change:
    """What is done to one training clip: a random crop, then the augmentations, in their order.

    The crop lies at whole pixels, anywhere in the slice; where the slice is the smaller, the slice lies
    anywhere in the crop.

    >>> change_of(56, ClipSettings(16, 48, "pe"), np.random.default_rng(0)).matrix[:, 2].tolist()
    [7.0, 5.0]
    """
    spare = matrix_px - settings.crop_px
    corner = rng.integers(min(spare, 0), max(spare, 0), size=2, endpoint=True)
    change = Change(settings.crop_px, np.column_stack([np.eye(2), corner]))
    for name, entry in AUGMENTATIONS.items():
        entry.apply(change, getattr(settings, name), rng)
    return change


def mirrored(matrix: NDArray[np.float64], crop_px: int) -> NDArray[np.float64]:
    """The map `[2, 3]` of a crop with left and right exchanged.

    >>> mirrored(np.array([[1.0, 0.0, 5.0], [0.5, 1.0, 7.0]]), 48).tolist()
    [[-1.0, 0.0, 52.0], [-0.5, 1.0, 30.5]]
    """
    column, *others = matrix.T
    return np.column_stack([-column, others[0], others[1] + (crop_px - 1) * column])


def levels(hu_window: str | HuWindow, offset_hu: float = 0.0, scale: float = 1.0) -> NDArray[np.float32]:
    """What each value of int16 maps to in [0, 1].

    Args:
        hu_window: the HU window, or its name.
        offset_hu: added to each value after `scale`, HU.
        scale: of each value, about 0 HU.

    Returns:
        float32 `[65536]`: of 0 to 32767 HU, then of -32768 to -1 HU, as unsigned numbers count. Read-only
        where neither offset nor scale changes anything.

    >>> [float(levels("pe")[hu]) for hu in (-1024, 400)], float(levels("pe", 10.0, 1.1)[400])
    ([0.0, 0.5], 0.550000011920929)
    """
    window = HuWindow.named(hu_window) if isinstance(hu_window, str) else hu_window
    return _plain_levels(window) if (offset_hu, scale) == (0, 1) else _levels(window, offset_hu, scale)


def _levels(hu_window: HuWindow, offset_hu: float, scale: float) -> NDArray[np.float32]:
    values = np.arange(_N_LEVELS, dtype=np.uint16).view(np.int16)
    if (offset_hu, scale) != (0, 1):
        values = values * np.float32(scale) + np.float32(offset_hu)  # type: ignore[assignment]
    return hu.to_unit(values, hu_window)


@cache
def _plain_levels(hu_window: HuWindow) -> NDArray[np.float32]:
    """Kept, 256 kB a HU window: a clip of the demo takes no longer than making it."""
    plain = _levels(hu_window, 0.0, 1.0)
    plain.flags.writeable = False
    return plain


def cut(
    volume: NDArray[np.int16],
    start: int,
    stop: int,
    settings: ClipSettings,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float32]:
    """One clip of a volume.

    Args:
        volume: HU `[D, M, M]`.
        start: first slice.
        stop: slice after the last; at most `settings.length` after the first. A clip that is shorter
            ends where the volume is taken to end.
        settings: how it is cut.
        rng: for a random crop and the augmentations; without it, the plain centre crop. All of them are
            drawn, in their order, also those that the settings leave out: none moves another's draw.

    Returns:
        float32 `[n_channels, length, crop_px, crop_px]` in [0, 1]; slices from `stop` on are air. The
        channels of `neighbours` share their memory: to change one in place changes the others.

    Raises:
        ValueError: the volume is not int16.

    >>> air = np.full((3, 6, 6), -1024, np.int16)
    >>> cut(air, 0, 3, ClipSettings(4, 4, "pe")).max()
    np.float32(0.0)
    >>> cut(air, 0, 3, ClipSettings(4, 4, "pe", channels="hu_windows"))[:, 0, 0, 0].round(3).tolist()
    [0.21699999272823334, 0.0, 0.0]
    """
    volume = np.asarray(volume)
    if volume.dtype != np.int16:
        raise ValueError(f"a clip is cut out of HU of int16; this volume is {volume.dtype}: convert it.")
    beside, size, matrix_px = settings.beside, settings.crop_px, volume.shape[1]
    first = max(start - beside, 0)
    last = min(stop + beside, len(volume)) if stop - start == settings.length else stop
    change = None if rng is None else change_of(matrix_px, settings, rng)
    jitter = (change.offset_hu, change.scale) if change else ()
    maps = [levels(window, *jitter) for window in settings.ranges]
    clip = np.empty((len(maps), settings.length + 2 * beside, size, size), np.float32)
    begin = first - start + beside
    end = begin + last - first
    for planes, table in zip(clip, maps, strict=True):
        planes[:begin] = planes[end:] = table[hu.HU_MIN]
    if change is None:
        _crop(volume[first:last], maps, clip[:, begin:end])
    else:
        _warp(volume[first:last], maps, change.matrix, clip[:, begin:end], settings.fill)
        change.air = tuple(float(table[hu.HU_MIN]) for table in maps)
        for alter in change.on_clip:
            alter(clip[:, begin:end])
    return _neighbours(clip[0], settings.length) if beside else clip


def resampled(
    run: NDArray[np.int16],
    first: float,
    n_slices: int,
    spacing_mm: Sequence[float],
    wanted_mm: Sequence[float],
) -> NDArray[np.int16]:
    """Slices of another spacing: each voxel the mean of what it covers, or between its neighbours where it is finer.

    Args:
        run: HU `[n, M, M]`.
        first: where the first wanted slice lies, in slices of the run.
        n_slices: wanted slices.
        spacing_mm: of the run (z, y, x), mm.
        wanted_mm: of the result.

    Returns:
        HU `[n_slices, M', M']`; beyond the run it is air, and so is what a shorter side lacks of M'.

    >>> run = np.array([0, 100, 200, 300], np.int16).reshape(4, 1, 1)
    >>> resampled(run, 0.5, 2, (1, 1, 1), (2, 1, 1)).ravel().tolist()
    [50, 250]
    >>> resampled(run, 0.0, 3, (1, 1, 1), (0.5, 1, 1)).ravel().tolist()
    [0, 50, 100]
    """
    step = wanted_mm[0] / spacing_mm[0]
    half, at = max(step, 1.0) / 2, first + step * np.arange(n_slices)[:, None]
    cells = np.arange(len(run))
    low, high = np.maximum(at - half, cells - 0.5), np.minimum(at + half, cells + 0.5)
    weights = (np.clip(high - low, 0, None) / (2 * half)).astype(np.float32)
    mixed = weights @ (run.reshape(len(run), -1).astype(np.float32) - hu.HU_MIN) + hu.HU_MIN
    px = [
        max(1, round(n * s / w)) for n, s, w in zip(run.shape[1:], spacing_mm[1:], wanted_mm[1:], strict=True)
    ]
    how = cv2.INTER_AREA if px[0] <= run.shape[1] else cv2.INTER_LINEAR
    planes = mixed.reshape(n_slices, *run.shape[1:])
    made = np.full((n_slices, max(px), max(px)), hu.HU_MIN, np.int16)
    top, left = ((max(px) - n) // 2 for n in px)
    for plane, target in zip(planes, made, strict=True):
        target[top : top + px[0], left : left + px[1]] = np.rint(
            cv2.resize(plane, px[::-1], interpolation=how)
        )
    return made


def _neighbours(planes: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Slices `[length + 2, H, W]` as `[3, length, H, W]`: the one before, itself, the one after; a view."""
    runs = np.lib.stride_tricks.sliding_window_view(planes, length, axis=0, writeable=True)
    return np.moveaxis(runs, -1, 1)


def centre(matrix_px: int, crop_px: int) -> tuple[slice, slice]:
    """Where a centre crop begins and ends: in the slice, and in the crop.

    >>> centre(56, 48), centre(40, 48)
    ((slice(4, 52, None), slice(0, 48, None)), (slice(0, 40, None), slice(4, 44, None)))
    """
    spare = matrix_px - crop_px
    size = min(matrix_px, crop_px)
    source, target = max(spare // 2, 0), max(-spare // 2, 0)
    return slice(source, source + size), slice(target, target + size)


def _crop(run: NDArray[np.int16], maps: list[NDArray[np.float32]], clip: NDArray[np.float32]) -> None:
    """Write the centre crop of slices `[n, M, M]` into `clip [len(maps), n, H, W]`, air around it."""
    source, target = centre(run.shape[1], clip.shape[-1])
    for planes, table in zip(clip, maps, strict=True):
        if run.shape[1] < clip.shape[-1]:
            planes[:] = table[hu.HU_MIN]
        for hu_plane, plane in zip(run[:, source, source].view(np.uint16), planes, strict=True):
            cv2.LUT(hu_plane, table, dst=plane[target, target])


def _warp(
    run: NDArray[np.int16],
    maps: list[NDArray[np.float32]],
    matrix: NDArray[np.float64],
    clip: NDArray[np.float32],
    fill: float | None,
) -> None:
    """Write slices `[n, M, M]`, mapped and warped, into `clip [len(maps), n, H, W]`, in `fill` or air."""
    sizes = run.shape[1:], clip.shape[2:]
    voxels = np.empty((*sizes[0], _AT_ONCE), np.int16)
    mapped, warped = (np.empty((*size, _AT_ONCE), np.float32) for size in sizes)
    spare = np.empty(sizes[1], np.float32)
    for i in range(0, len(run), _AT_ONCE):
        group = list(run[i : i + _AT_ONCE])
        n_lacking = _AT_ONCE - len(group)
        cv2.merge(group + group[:1] * n_lacking, dst=voxels)
        for planes, table in zip(clip, maps, strict=True):
            cv2.LUT(voxels.view(np.uint16), table, dst=mapped)
            beyond = (float(table[hu.HU_MIN]) if fill is None else fill,) * _AT_ONCE
            cv2.warpAffine(mapped, matrix, sizes[1], dst=warped, borderValue=beyond, **_WARP)
            cv2.split(warped, [*planes[i : i + _AT_ONCE], *[spare] * n_lacking])
