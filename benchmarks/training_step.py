"""A training step of the full-size networks on this CPU: plain fp32, and what `precision.choose` picks.

    python benchmarks/training_step.py [--networks slow_r50,penet] [--repeats 5] [--threads 2]

A step is forward, backward and AdamW on one clip of 1 x 32 x 224 x 224 (PENet: 24 slices). Both ways do
their steps in turn, on the same clips and from the same weights; wall time, medians, after one step each
that warms up. Memory is the highest of the process in a step of its own, MB. Ends with 1 unless the
geometric mean of the ratios is at least 2.5. About 20 minutes for all seven on two cores.

    python benchmarks/training_step.py --every-way [--networks penet]

measures both precisions in both memory formats and says whether the network's record in `ctlib.models.registry`
names the fastest; a difference under 10 % is a tie.

    python benchmarks/training_step.py --curves FOLDER [--clip 16,112,112] [--steps 50]

trains each network both ways on the same clips, which are smaller so that it takes minutes: phantoms of
two kinds, a brighter ball in every second. `curves.csv` gets the losses, `curves.svg` their picture.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import pandas as pd
import recipe
import torch
from environment import begin_anew
from torch.nn import functional

from ctlib.models.network import Network
from ctlib.models.registry import spec
from ctlib.training.device import Compute, choose
from ctlib.training.optimizer import FitSettings, optimizer_of

SEVEN = ("slow_r50", "slowfast_r50", "r2plus1d_r50", "csn_r101", "mvit_b", "swin3d_t", "penet")
PLAIN = Compute("cpu", "32-true")
SETTINGS = FitSettings(epochs=1, batch_size=1, lr=1e-4, weight_decay=1e-6, optimizer="adamw")
BATCH = 2
"""Clips a step of the curves: one of each kind."""


def clip_of(key: str) -> tuple[int, int, int]:
    """(D, H, W) that a network is trained with (docs/protocol.md)."""
    return (24 if key == "penet" else 32, 224, 224)


@dataclass
class Trained:
    """A full-size network in training, one way.

    Args:
        key: of the network.
        compute: how it computes.
    """

    key: str
    compute: Compute

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        network = Network(spec(self.key).build("full", 1), 1, (0.45,), (0.225,))
        self.compute.prepare(network.backbone)
        self.network = network.train().to(self.compute.device)
        self.optimizer = optimizer_of(self.network.parameters(), SETTINGS)

    def step(self, clips: torch.Tensor, labels: torch.Tensor) -> float:
        """One step; returns its loss."""
        with self.compute.autocast():
            logits = self.network(clips.to(self.compute.device, non_blocking=True))
        labels = labels.to(self.compute.device)
        loss = functional.binary_cross_entropy_with_logits(logits.float().squeeze(1), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def batch(shape: tuple[int, int, int], n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips `[n, 1, D, H, W]` in [0, 1] of noise, every second with a brighter ball somewhere, and labels."""
    generator = torch.Generator().manual_seed(seed)
    clips, labels = torch.rand(n, 1, *shape, generator=generator) * 0.5, torch.arange(n) % 2
    axes = [torch.linspace(-1, 1, size) for size in shape]
    for clip in clips[labels == 1]:
        z, y, x = (torch.rand(3, generator=generator) - 0.5).tolist()
        away = (axes[0] - z)[:, None, None] ** 2 + (axes[1] - y)[:, None] ** 2 + (axes[2] - x) ** 2
        clip[0] += 0.3 * (away < 0.1)
    return clips, labels.float()


def memory(key: str, compute: Compute) -> float:
    """Highest memory of a process that does one step, MB; in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (key, str(compute)))


def _memory(key: str, way: str) -> float:
    compute = next(c for c in (PLAIN, choose("auto", spec(key))) if str(c) == way)
    Trained(key, compute).step(*batch(clip_of(key), 1, seed=0))
    status = Path("/proc/self/status")
    if status.is_file():  # Linux counts in ru_maxrss what the parent had when it started this process
        highest = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(highest.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def seconds(key: str, ways: dict[str, Compute], repeats: int) -> dict[str, float]:
    """Median seconds of a step of each way, done in turn."""
    networks = {name: Trained(key, compute) for name, compute in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(repeats + 1):
        clips, labels = batch(clip_of(key), 1, seed=i)
        for name, trained in networks.items():
            began = time.perf_counter()
            trained.step(clips, labels)
            taken[name].append(time.perf_counter() - began)
    return {name: recipe.median(values[1:]) for name, values in taken.items()}


def measure(key: str, repeats: int) -> float:
    """Print one row of the table; returns the ratio."""
    chosen = choose("auto", spec(key))
    took = seconds(key, {"plain": PLAIN, "chosen": chosen}, repeats)
    ratio = took["plain"] / took["chosen"]
    mb = [memory(key, way) for way in (PLAIN, chosen)]
    row = f"{took['plain']:8.2f} {took['chosen']:9.2f} {ratio:6.2f} {mb[0]:8.0f} {mb[1]:10.0f}"
    print(f"  {key:14s} {chosen!s:34s} {row}", flush=True)
    return ratio


def every_way(key: str, repeats: int) -> None:
    """Print how long a step takes in each precision and memory format, and what the record should say."""
    layouts = (torch.contiguous_format, spec(key).channels_last)
    ways = [Compute("cpu", kind, layout) for kind in ("32-true", "bf16-mixed") for layout in layouts]  # type: ignore[arg-type]
    took = seconds(key, {str(way): way for way in ways}, repeats)
    fastest, recorded = min(took, key=lambda way: took[way]), str(choose("auto", spec(key)))
    is_tie = took[recorded] <= 1.1 * took[fastest]
    verdict = "the record stands" if is_tie else f"{recorded} is recorded"
    print(f"  {key:14s} " + "; ".join(f"{way} {s:.2f} s" for way, s in took.items()))
    print(f"  {'':14s} fastest: {fastest}; {verdict}", flush=True)


def curves(keys: list[str], folder: Path, shape: tuple[int, int, int], steps: int) -> None:
    """Write the losses of both ways of each network."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for key in keys:
        for name, compute in (("fp32", PLAIN), ("chosen", choose("auto", spec(key)))):
            trained = Trained(key, compute)
            losses = [trained.step(*batch(shape, BATCH, seed=i)) for i in range(steps)]
            rows += [(key, name, str(compute), i + 1, loss) for i, loss in enumerate(losses)]
            print(f"  {key:14s} {compute!s:32s} loss {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)
        table = pd.DataFrame(rows, columns=["network", "way", "compute", "step", "loss"])
        table.to_csv(folder / "curves.csv", index=False)  # after each network: the whole takes long
        draw(table, shape, folder / "curves.svg")


def draw(table: pd.DataFrame, shape: tuple[int, int, int], path: Path) -> None:
    """One panel a network, both losses in it, running means of five steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = table["network"].unique().tolist()
    rows = math.ceil(len(keys) / 4)
    figure, axes = pyplot.subplots(
        rows, min(len(keys), 4), squeeze=False, sharey=True, figsize=(10, 2.6 * rows)
    )
    for axis, key in zip(axes.flat, keys, strict=False):
        for name, style in (("fp32", "-"), ("chosen", "--")):
            part = table[(table["network"] == key) & (table["way"] == name)]
            smooth = part["loss"].rolling(5, min_periods=1).mean()
            axis.plot(part["step"], smooth, style, label=part["compute"].iloc[0])
        axis.set(title=spec(key).title, xlabel="step", ylabel="loss, mean of 5 steps")
        axis.legend(fontsize=7)
    for axis in axes.flat[len(keys) :]:
        axis.remove()
    size = " x ".join(map(str, shape))
    figure.suptitle(f"The same {BATCH} clips of {size} a step, from the same weights")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


@click.command(help=__doc__)
@click.option("--networks", default=",".join(SEVEN), help="keys, with commas")
@click.option("--repeats", default=5, help="steps of each way")
@click.option("--threads", default=os.cpu_count(), help="of torch")
@click.option("--every-way", "every", is_flag=True, help="compare all precisions and memory formats instead")
@click.option("--curves", "folder", type=click.Path(path_type=Path), help="write loss curves there instead")
@click.option("--clip", default="16,112,112", help="D,H,W of the curves")
@click.option("--steps", default=50, help="of the curves")
def main(
    networks: str, repeats: int, threads: int, every: bool, folder: Path | None, clip: str, steps: int
) -> None:
    """Measure, print, judge."""
    begin_anew(threads)
    torch.set_num_threads(threads)
    keys = networks.split(",")
    if folder is not None:
        depth, height, width = (int(size) for size in clip.split(","))
        curves(keys, folder, (depth, height, width), steps)
        return
    if every:
        for key in keys:
            every_way(key, repeats)
        return
    print(f"a training step of one clip, {threads} threads, wall time, median of {repeats}")
    heads = f"{'fp32 s':>8s} {'chosen s':>9s} {'ratio':>6s} {'fp32 MB':>8s} {'chosen MB':>10s}"
    print(f"{'':16s} {'chosen':34s} {heads}")
    ratios = [measure(key, repeats) for key in keys]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"geometric mean {mean:.2f}, at least 2.5: {'yes' if mean >= 2.5 else 'NO'}")
    sys.exit(mean < 2.5)


if __name__ == "__main__":
    main()
