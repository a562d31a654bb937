"""What the training loop takes beside its bare steps (forward, backward, optimizer), of a tiny network.

    python benchmarks/loop_overhead.py [--network resnet18] [--rounds 11]

An epoch of 10 batches of 8 clips [1, 16, 48, 48] that lie in memory, as a run's loop learns from them
(`ctlib.training.loop`: device, precision, loss, weights of batches, schedule), and the bare steps, in turn: CPU time,
one thread, the median of the rounds' ratios. Ends with 1 where the loop takes more than 3 % beside the steps.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from environment import begin_anew
from torch.nn import functional

from ctlib.models.network import Network
from ctlib.models.registry import spec
from ctlib.training import loop
from ctlib.training.device import Compute, choose
from ctlib.training.optimizer import SCHEDULES, FitSettings, optimizer_of

SETTINGS = FitSettings(epochs=1000, batch_size=8, lr=1e-4, weight_decay=1e-6, schedule="one_cycle")
CLIP, N_BATCHES, MOST = (1, 16, 48, 48), 10, 1.03


class Batches(list[dict[str, torch.Tensor]]):
    """As a loader gives them, without reading."""

    sampler = range(N_BATCHES * SETTINGS.batch_size)


def batches() -> Batches:
    """Clips of noise."""
    n, labels = SETTINGS.batch_size, torch.arange(SETTINGS.batch_size) % 2
    return Batches({"clip": torch.rand(n, *CLIP), "label": labels} for _ in range(N_BATCHES))


def looping(network: Network, compute: Compute, given: Batches) -> Callable[[], Any]:
    """An epoch of a run."""
    fabric, plain = compute.fabric(), optimizer_of(network.parameters(), SETTINGS)
    schedule = SCHEDULES[SETTINGS.schedule].make(plain, SETTINGS, N_BATCHES * SETTINGS.epochs)
    optimizer = fabric.setup_optimizers(plain)
    return lambda: loop._learn(fabric, network, given, optimizer, schedule, SETTINGS)  # type: ignore[arg-type]


def bare(network: Network, compute: Compute, given: Batches) -> Callable[[], Any]:
    """Its steps alone."""
    optimizer = optimizer_of(network.parameters(), SETTINGS)

    def steps() -> None:
        for batch in given:
            with compute.autocast():
                logits = network(batch["clip"])
                loss = functional.binary_cross_entropy_with_logits(logits.squeeze(1), batch["label"].float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def cpu_s(function: Callable[[], Any]) -> float:
    """CPU time of a call."""
    began = time.process_time()
    function()
    return time.process_time() - began


@click.command(help=__doc__)
@click.option("--network", "key", default="resnet18", help="key of the network")
@click.option("--rounds", default=11, help="epochs of each")
def main(key: str, rounds: int) -> None:
    """Measure, print, judge."""
    begin_anew(1)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    compute, given = choose("auto", spec(key)), batches()
    network = Network(spec(key).build("tiny", 1), 1, (0.45,), (0.225,)).train()
    compute.prepare(network.backbone)
    ways = [looping(network, compute, given), bare(copy.deepcopy(network), compute, given)]
    taken = []
    for i in range(rounds + 1):
        order = (0, 1) if i % 2 else (1, 0)
        seconds = {which: cpu_s(ways[which]) for which in order}
        taken.append((seconds[0], seconds[1]))
    ratio = statistics.median(looped / alone for looped, alone in taken[1:])
    step_ms = 1e3 * statistics.median(alone for _, alone in taken[1:]) / N_BATCHES
    print(
        f"{key}, {compute}: a step takes {step_ms:.1f} ms; with the loop {ratio:.3f} times that, at most {MOST}"
    )
    print("yes" if ratio <= MOST else "NO")
    sys.exit(ratio > MOST)


if __name__ == "__main__":
    main()
