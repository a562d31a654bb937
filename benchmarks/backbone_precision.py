"""How long a training step takes, by precision and memory format: where `Backbone.cpu_*` come from.

    python benchmarks/backbone_precision.py

prints one line a network: milliseconds of CPU time (other processes do not count) of forward and
backward of 8 clips [1, 16, 48, 48] at tiny size on one thread, the median of 15 steps. The fastest
is the network's entry.
"""

from __future__ import annotations

import statistics
import time

import torch

from ctlib.models.registry import BACKBONES, Backbone

CLIPS = (8, 1, 16, 48, 48)
"""A batch of the demo profile, N C D H W."""


def step_ms(backbone: Backbone, precision: str, channels_last: bool, n_steps: int = 15) -> float:
    """Median milliseconds of a step, after two that warm up."""
    torch.manual_seed(0)
    network = backbone.build("tiny", CLIPS[1])
    if channels_last:
        network = network.to(memory_format=backbone.channels_last)
    clips = torch.rand(CLIPS)
    taken = []
    for _ in range(n_steps + 2):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(clips).square().mean()
        network.zero_grad()
        loss.backward()
        taken.append((time.process_time() - start) * 1000)
    return statistics.median(taken[2:])


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    ways = [(precision, last) for precision in ("fp32", "bf16") for last in (False, True)]
    print("network        M param  " + "".join(f"{p} {'last' if c else 'first':>5}  " for p, c in ways))
    for backbone in BACKBONES.values():
        n_parameters = sum(p.numel() for p in backbone.build("tiny", CLIPS[1]).parameters())
        line = "".join(f"{step_ms(backbone, p, c):8.1f}    " for p, c in ways)
        print(f"{backbone.key:14} {n_parameters / 1e6:6.2f} {line}", flush=True)


if __name__ == "__main__":
    main()
