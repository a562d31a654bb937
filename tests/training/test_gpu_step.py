"""A training step of every full-size network as a GPU would take it: on fake tensors, through the loop of a run."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from fake_gpu import Kept, Watch
from noise_cohort import SETTINGS

from ctlib.grid.step_timing import calibrate, kind
from ctlib.models.cost import fake_gpu, without_values
from ctlib.models.network import Network
from ctlib.models.registry import BACKBONES
from ctlib.training import loop
from ctlib.training.optimizer import FitSettings, optimizer_of
from ctlib.training.run import Run

pytestmark = pytest.mark.slow  # seconds each
SHAPE = {"size": "full", "matrix_px": 256, "clip_length": 32, "crop_px": 224, "batch_size": 8}


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize("key", BACKBONES)
def test_a_step_stays_on_the_gpu_waits_for_nothing_and_takes_what_is_planned(key, tmp_path):
    run = Run("rspect_pe", key, "random", 1.0, 0, lr=1e-3, data="", weights="", **SETTINGS | SHAPE)
    network = Network(without_values(key, "full"), 1, (0.45,), (0.225,))
    network.dropout, settings = 0.5, FitSettings(1, run.batch_size, 1e-3, 1e-6)
    watch, kept, precisions = Watch(), Kept(), set()
    network.register_forward_hook(lambda _, clips, logits: precisions.add(logits.dtype))

    def backward(loss):
        precisions.add(loss.dtype)
        kept.backward(loss)

    fabric = SimpleNamespace(
        to_device=lambda tensors: tuple(tensor.to("cuda:0", non_blocking=True) for tensor in tensors),
        autocast=nullcontext,
        backward=backward,
        world_size=1,
        global_rank=0,
    )
    with fake_gpu(network):
        clips = (run.batch_size, 1, run.clip_length, run.crop_px, run.crop_px)
        batch = {"clip": torch.empty(clips), "label": torch.empty(clips[:1])}
        batches = type("Batches", (list,), {"sampler": range(run.batch_size)})([batch])
        optimizer = optimizer_of(network.train().parameters(), settings)
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)
        with watch:  # Adam's moments are there from the first step on
            optimizer.step()
            optimizer.zero_grad()
        with watch, kept.hooks:
            loop._learn(fabric, network, batches, optimizer, SimpleNamespace(step=lambda: None), settings)
    if key != "mst_dinov3_s":  # timm counts its places on the CPU, some of them, each time
        assert not watch.on_cpu
    assert precisions == {torch.float32}
    assert watch.synchronisations == 1  # for the loss of the epoch
    assert watch.to_gpu <= 3 and watch.from_gpu == 0
    planned_mb = calibrate([run], tmp_path / "calibration.json", measuring=False)[kind(run)].peak_mb
    assert watch.peak / 1e6 == pytest.approx(planned_mb, rel=0.15)
