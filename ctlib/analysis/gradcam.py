"""Where a network looks: Grad-CAM of the logit of disease, in the voxels of the stored volume.

The map of a clip is `relu(sum of channels of (mean gradient of the logit by the channel) * channel)` of one
stage of the network (Selvaraju et al., Grad-CAM, ICCV 2017), computed by MONAI. It is not scaled: one
network's maps of all clips of all exams compare, those of two networks only in where they are high.

Which stage: the last whose map has at least `MIN_CELLS` cells along rows and along columns. At published
sizes that is the last one; 48 px end as 2 x 2 cells, which tell no more than the quarter. Of a transformer
tokens are put back on their grid. MViT decides by its class token alone, so nothing behind the last
attention has a gradient, and its last block is never taken. Of SlowFast it is the slow pathway, four fifths
of the features and more. A 2D network has a map for each slice by itself.

Where a cell is: a map has one value for every 2^k voxels, and the centre of what its first cell sees is
not half a cell from the edge. Kernels of an odd width, padded evenly, are centred on voxel 0; patches of an
even width, as Swin's, half a patch in; EfficientNet's padding puts it last of its cell. Between centres the
map is read linearly, beyond the outer ones it stays. `tests/analysis/test_gradcam.py` compares this with the
gradients of single cells. At 48 px the usual stretching would be off by up to 15 px.

Below, what the networks of finished runs see in test exams with disease.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.visualize.class_activation_maps import GradCAM, ModelWithHooks
from numpy.typing import NDArray
from torch import nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from ctlib.core import OURS, Workspace
from ctlib.datasets import MIN_READERS, ClipDataset, Store, centre, mask, task
from ctlib.models import (
    R3D,
    S3D,
    I3ResNet,
    MedicalNet,
    MViT,
    MViT2,
    Network,
    PENet,
    SegRes,
    SliceEfficientNet,
    SliceResNet,
    Slices,
    SlowFast,
    Trunk,
    build,
    spec,
)
from ctlib.training import (
    NONE,
    WEIGHTS,
    Run,
    choose,
    clip_settings,
    clips_of_run,
    drawn,
    read_run,
    read_table,
    store_of,
    trained,
)

MIN_CELLS = 3
"""Cells that a map has at least, along rows and along columns, where a stage of the network has them."""

S3D_LAST_POOLING = 13
"""Place of that pooling among torchvision's `S3D.features`."""

Centres = Callable[[int, int], NDArray[np.float64]]
"""(voxels, cells) along an axis to the centre of each cell, `[cells]`, in voxels."""
_NEXT_DRAW = 1000  # what is added to the seed for the next random weights: more seeds than anybody has


def stride_of(n_voxels: int, n_cells: int) -> int:
    """Voxels a cell: the smallest power of two with which so many cells are enough.

    >>> stride_of(48, 3), stride_of(48, 2), stride_of(16, 16)
    (16, 32, 1)
    """
    stride = 1
    while -(-n_voxels // stride) > n_cells:
        stride *= 2
    return stride


def _on_corner(n_voxels: int, n_cells: int) -> NDArray[np.float64]:
    return np.arange(n_cells, dtype=np.float64) * float(stride_of(n_voxels, n_cells))


def _on_patch(n_voxels: int, n_cells: int) -> NDArray[np.float64]:
    return _on_corner(n_voxels, n_cells) + (stride_of(n_voxels, n_cells) - 1) / 2


def _on_last(n_voxels: int, n_cells: int) -> NDArray[np.float64]:
    return _on_corner(n_voxels, n_cells) + stride_of(n_voxels, n_cells) - 1


def _spread(n_voxels: int, n_cells: int) -> NDArray[np.float64]:
    """As SlowFast's slow pathway picks its slices: from the first to the last."""
    return np.linspace(0.0, n_voxels - 1.0, n_cells).astype(np.float64)


def _plain(output: Any) -> torch.Tensor:
    return output


def _channels_last(output: Any) -> torch.Tensor:
    """`[N, D, H, W, C]` to `[N, C, D, H, W]`."""
    return output.movedim(-1, 1)


def _tokens(output: Any) -> torch.Tensor:
    """Tokens `[N, 1 + D * H * W, C]`, the class token first, with their grid, to `[N, C, D, H, W]`."""
    tokens, grid = output
    return tokens[:, 1:].transpose(1, 2).unflatten(2, tuple(grid))


@dataclass(frozen=True)
class Stages:
    """The stages of a network of which there can be a map.

    Args:
        layers: names of modules, from the first to the last.
        to_map: what such a module gives, to `[N, C, D, H, W]`, or `[N * D, C, H, W]` of a 2D network.
        along: centres of cells along the slices.
        plane: centres of cells along rows and columns.
        is_turned: whether rows and columns of the map are those of `I3ResNet`.
    """

    layers: tuple[str, ...]
    to_map: Callable[[Any], torch.Tensor] = _plain
    along: Centres = _on_corner
    plane: Centres = _on_corner
    is_turned: bool = False


def stages(backbone: nn.Module) -> Stages:
    """What is known of the stages of a backbone.

    Raises:
        ValueError: nothing is: it is a network of the user's own.
    """

    def blocks(name: str, keys: Sequence[object], behind: str = "") -> tuple[str, ...]:
        return tuple(f"backbone.{name}{key}{behind}" for key in keys)

    match backbone:
        case Trunk() | PENet():
            return Stages(blocks("blocks.", range(len(backbone.blocks))))
        case SlowFast():
            slow = blocks("blocks.", range(len(backbone.blocks)), ".multipathway_blocks.0")
            return Stages(slow, along=_spread)
        case R3D():
            return Stages(blocks("layer", range(1, backbone.n_stages + 1)))
        case I3ResNet():
            return Stages(blocks("layer", range(1, backbone.n_stages + 1)), is_turned=True)
        case MedicalNet():
            return Stages(blocks("net.layer", range(1, 5)))
        case SegRes():
            return Stages(blocks("net.layers.", range(len(backbone.net.layers)), ".blocks"))
        case S3D():  # up to its last pooling, whose kernel of two cells is centred on neither
            return Stages(blocks("features.", range(S3D_LAST_POOLING)))
        case MViT() | MViT2():
            return Stages(blocks("blocks.", list(backbone.blocks)[:-1]), _tokens)
        case SwinTransformer3d():
            layers = blocks("features.", range(len(backbone.features)))
            return Stages(layers, _channels_last, along=_on_patch, plane=_on_patch)
        case SliceResNet():
            return Stages(blocks("layer", range(1, backbone.n_stages + 1)))
        case SliceEfficientNet():
            names = [f"{i}.{j}" for i, stage in enumerate(backbone.net.blocks) for j in range(len(stage))]
            return Stages((*blocks("net.blocks.", names), "backbone.net.bn2"), plane=_on_last)
    raise ValueError(
        f"Grad-CAM: nothing is known of the stages of a {type(backbone).__name__}; ctlib.analysis.gradcam.stages has "
        "those of the networks of ctlib.models.registry, add yours there."
    )


@cache
def has_maps(key: str) -> bool:
    """Whether `stages` knows a network: not those of transformers, nor what joins slices of timm's."""
    with torch.random.fork_rng(devices=[]):
        try:
            return bool(stages(build(key, "tiny")))
        except ValueError:
            return False


CPU = torch.device("cpu")


class _Hooked(ModelWithHooks):
    """MONAI's hooks on one layer, whose output and gradient are put on the grid of cells first."""

    def __init__(self, network: Network, layer: str, to_map: Callable[[Any], torch.Tensor]) -> None:
        self.to_map = to_map
        self.grid: Any = ()
        super().__init__(network, layer, register_forward=True, register_backward=True)

    def forward_hook(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: Any, output: Any) -> None:
            values, self.grid = output if isinstance(output, tuple) else (output, ())
            values.requires_grad_(True)  # gradients are needed from here on, and nowhere before
            self.activations[name] = self.to_map(output)

        return hook

    def backward_hook(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: Any, gradients: Any) -> None:
            gradient = (gradients[0], self.grid) if self.grid else gradients[0]
            self.gradients[name] = self.to_map(gradient).contiguous()

        return hook


class ClassActivation:
    """Maps of a network's clips.

    Args:
        network: a backbone of `ctlib.models.registry` with a head of one logit; it is frozen, in evaluation mode.
        shape: (C, D, H, W) of the clips.
        device: where maps are computed.

    Raises:
        ValueError: see `stages`.
    """

    def __init__(self, network: Network, shape: Sequence[int], device: torch.device = CPU) -> None:
        network.is_frozen = True
        self.network, self.device = network.eval().to(device), device
        self.stages = stages(network.backbone)
        self.is_2d = isinstance(network.backbone, Slices)
        self.layer = self._layer(shape)
        hooked = _Hooked(network, self.layer, self.stages.to_map)
        self._cam = GradCAM(
            hooked,  # type: ignore[arg-type]
            self.layer,
            upsampler=self._upsampler,
            postprocessing=_plain,
        )

    def _layer(self, shape: Sequence[int]) -> str:
        """The last stage with `MIN_CELLS` cells along rows and columns; the last, where none has."""
        cells: dict[str, tuple[int, ...]] = {}

        def watch(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _given: Any, output: Any) -> None:
                cells[name] = tuple(self.stages.to_map(output).shape[-2:])

            return hook

        hooks = [self.network.get_submodule(n).register_forward_hook(watch(n)) for n in self.stages.layers]
        with torch.no_grad():
            self.network(torch.zeros(1, *shape, device=self.device))
        for hook in hooks:
            hook.remove()
        enough = [name for name in self.stages.layers if min(cells[name]) >= MIN_CELLS]
        return (enough or self.stages.layers)[-1]

    def _upsampler(self, size: Sequence[int]) -> Callable[[torch.Tensor], torch.Tensor]:
        def upsample(cells: torch.Tensor) -> torch.Tensor:
            if self.is_2d:
                cells = cells.unflatten(0, (-1, size[0])).movedim(1, 2)
            if self.stages.is_turned:
                cells = cells.transpose(3, 4)
            rules = (self.stages.along, self.stages.plane, self.stages.plane)
            weights = [
                torch.from_numpy(between(n, rule(n, cells.shape[axis + 2]))).to(cells)
                for axis, (n, rule) in enumerate(zip(size, rules, strict=True))
            ]
            if self.stages.is_turned:  # the network saw rows and columns from their ends
                weights = [weights[0], *(w.flip(0) for w in weights[1:])]
            return torch.einsum("ncdhw,Dd,Hh,Ww->ncDHW", cells, *weights)

        return upsample

    def maps(self, clips: torch.Tensor) -> NDArray[np.float32]:
        """Maps of clips.

        Args:
            clips: float32 `[N, C, D, H, W]` in [0, 1].

        Returns:
            Float32 `[N, D, H, W]`, 0 or more, in no unit; all 0 where the stage speaks against disease
            everywhere.
        """
        with warnings.catch_warnings():
            # what comes in needs no gradient: of the output is all that is asked for
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            found = self._cam(clips.to(self.device), class_idx=0)
        self.network.zero_grad(set_to_none=True)
        return found[:, 0].detach().cpu().numpy().astype(np.float32)


def between(n_voxels: int, centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights `[n_voxels, cells]` that read a map at every voxel: linear between centres, the same beyond.

    >>> between(4, np.array([0.0, 2.0])).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]
    """
    places = np.arange(n_voxels)
    return np.stack([np.interp(places, centres, cell) for cell in np.eye(len(centres))], axis=1)


def exam_map(
    activation: ClassActivation, clips: ClipDataset, n_slices: int, matrix_px: int, batch_size: int = 8
) -> NDArray[np.float32]:
    """The map of an exam in the voxels of its stored volume.

    Args:
        activation: of the network.
        clips: all clips of one series, cut for evaluation.
        n_slices: slices of the series.
        matrix_px: rows and columns of a stored slice.
        batch_size: clips at once.

    Returns:
        Float32 `[n_slices, matrix_px, matrix_px]`; NaN where no clip has the voxel: beyond the crop.

    Raises:
        ValueError: clips of several series, or whose slices are in a random order.
    """
    if clips.table["series_uid"].nunique() != 1:
        raise ValueError("Grad-CAM of an exam takes the clips of one series; select them first.")
    if clips.settings.shuffle_seed is not None:
        raise ValueError("Grad-CAM: slices in a random order have no place in the volume; take other runs.")
    whole = np.full((n_slices, matrix_px, matrix_px), np.nan, np.float32)
    source, target = centre(matrix_px, clips.settings.crop_px)
    for first in range(0, len(clips), batch_size):
        rows = range(first, min(first + batch_size, len(clips)))
        found = activation.maps(torch.stack([clips[row]["clip"] for row in rows]))
        for row, cells in zip(rows, found, strict=True):
            start, stop = (int(clips.table[name].iloc[row]) for name in ("start", "stop"))
            whole[start:stop, source, source] = cells[: stop - start, target, target]
    return whole


@dataclass(frozen=True)
class Exam:
    """A test exam with disease.

    Args:
        row: of table `series`.
        clips: its clips, as `runs.clips_of_run` gives them.
        labels: of its slices, `[D]`, 1 = disease.
        marks: its rows of table `marks`.
        store: of its cohort.
    """

    row: Any
    clips: pd.DataFrame
    labels: NDArray[np.int64]
    marks: pd.DataFrame
    store: Store

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the stored voxels (z, y, x), mm."""
        z, y, x = self.store.record(self.row.series_uid)["spacing_mm"]
        return z, y, x

    def inside(self, min_readers: int = MIN_READERS) -> NDArray[np.bool_] | None:
        """The stored voxels in a nodule `[D, M, M]`; None where nobody drew a contour."""
        if self.marks.empty:
            return None
        return mask(self.marks, self.row, self.store.matrix_px, min_readers)

    def map_of(self, activation: ClassActivation, run: Run) -> NDArray[np.float32]:
        """The map of a run's network in the stored voxels `[D, M, M]`; NaN beyond its crop."""
        clips = ClipDataset(self.store, self.clips, clip_settings(run), train=False)
        return exam_map(activation, clips, len(self.labels), self.store.matrix_px)


def exams_with_disease(workspace: Workspace, run: Run) -> list[Exam]:
    """The test exams with disease of a run's task, by patient and study.

    Raises:
        MissingInput: a table is missing.
    """
    cohort, store = task(run.task).cohort, store_of(workspace, run)
    rows = clips_of_run(workspace, run)
    rows = rows[(rows["split"] == "test") & (rows["study_label"] == 1)]
    series, slices, marks = (read_table(workspace, name, cohort) for name in ("series", "slices", "marks"))
    by_uid = {row.series_uid: row for row in series.itertuples(index=False)}
    exams = []
    for uid, clips in rows.groupby("series_uid", sort=False):
        labels = slices[slices["series_uid"] == uid].sort_values("slice")["label"].fillna(0)
        own = marks[marks["series_uid"] == uid]
        exams.append(Exam(by_uid[uid], clips, labels.to_numpy(np.int64), own, store))
    return exams


def activation_of(workspace: Workspace, run: Run, draw: int | None = None) -> ClassActivation:
    """What makes the maps of a finished run's clips.

    Args:
        workspace: where the run lies.
        run: a finished run.
        draw: of random weights in the place of the trained ones; 0 has the head that the run began with.

    Raises:
        FileNotFoundError: the run's weights were deleted.
    """
    cut = clip_settings(run)
    network = trained(workspace, run) if draw is None else drawn(workspace, run, run.seed + _NEXT_DRAW * draw)
    device = choose("fp32", spec(run.backbone)).device
    return ClassActivation(network, (cut.n_channels, cut.length, cut.crop_px, cut.crop_px), device)


def why_unseen(workspace: Workspace, row: Any) -> str:
    """Why there are no maps of a run, or ''."""
    if row.status != "finished":
        return f"run {row.run_id} is {row.status}"
    if not (workspace.runs / row.run_id / WEIGHTS).is_file():
        return f"run {row.run_id} has no weights any more"
    run = read_run(workspace, row.run_id)
    if not has_maps(run.backbone):
        return f"Grad-CAM knows no stages of {run.backbone}"
    if run.control != NONE:
        return f"run {row.run_id} is a negative control"
    if (asked := clip_settings(run).asked) and (asked.axes != OURS or asked.spacing_mm):
        return f"run {row.run_id} sees clips that are turned or resampled for its starting weights ({asked})"
    return ""
