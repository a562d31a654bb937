"""Two processes over gloo pretrain as one does: the same gradients, resumed, and ended together."""

import dataclasses
import os
import signal
import stat
from pathlib import Path

import psutil
import pytest
import torch
from noise_cohort import SIDE, write_cohort
from test_pretraining import SETTINGS, assert_same, plan, videos, wanted, weights, workspace  # noqa: F401

from ctlib.training import loop, multi_device, pretraining
from ctlib.training.device import Compute
from ctlib.training.loop import CHECKPOINT
from ctlib.training.multi_device import DevicesError, Share, share_statistics, together
from ctlib.training.pretrain_ct import CtSource
from ctlib.training.pretraining import Plan, pretrain

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]  # each process imports torch anew

STEPS = {"optimizer": "sgd", "schedule": "constant", "weight_decay": 0.0, "keep": "last"}
"""Weights move by lr times the gradient, so that equal weights are equal gradients."""


def made(workspace, how, init, devices):  # noqa: F811
    """Trained on so many devices, from nothing: the record, and the weights."""
    workspace.weights(init, "resnet18").unlink(missing_ok=True)
    record = pretrain(str(workspace.root), wanted(workspace, how, init), how, devices=devices)
    return record, weights(workspace, init)


@pytest.mark.parametrize(
    ("init", "accumulate", "lr"), [("video", 2, 1e-3), ("video_ssl", 1, 1e-5), ("ct_lidc", 1, 1e-3)]
)
def test_two_devices_give_the_gradients_of_one(workspace, init, accumulate, lr):  # noqa: F811
    """In fp32, of steps so small that rounding does not grow: VICReg's gradients are hundreds of times larger."""
    if init.startswith("ct"):
        write_cohort(workspace, "lidc")
    settings = dataclasses.replace(SETTINGS, **STEPS, accumulate=accumulate, lr=lr)
    how = Plan(settings, videos(workspace), CtSource(matrix_px=SIDE, rotation_deg=10.0))
    (one, alone), (two, shared) = (made(workspace, how, init, devices) for devices in (1, 2))
    assert alone.keys() == shared.keys() and one["made_from"] == two["made_from"]
    start = made(
        workspace, dataclasses.replace(how, settings=dataclasses.replace(settings, lr=1e-30)), init, 1
    )[1]
    for name in alone:
        moved = (alone[name].double() - start[name]).abs().max()
        assert (shared[name].double() - alone[name]).abs().max() <= 2e-3 * moved, name
    for row, other in zip(one["curves"], two["curves"], strict=True):
        assert other == pytest.approx(row, rel=1e-3)
    assert two["compute"] == one["compute"] + ", 2 devices"


def killed_once(rank, *args):
    """A member that is killed after its first epoch, if none was before."""
    folder = args[-1].folder
    fit = pretraining.fit

    def killed(network, train, sampler, heldout, metric, *rest):
        def asked(logits):
            if (folder / CHECKPOINT).is_file() and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return metric(logits)

        return fit(network, train, sampler, heldout, asked, *rest)

    pretraining.fit = killed
    pretraining._member(rank, *args)


def test_killed_and_resumed_is_as_uninterrupted(workspace, monkeypatch):  # noqa: F811
    how = plan(workspace, epochs=3)
    expected, tensors = made(workspace, how, "video", 2)
    work, pretraining_together = pretraining._member, pretraining.together
    monkeypatch.setattr(pretraining, "together", lambda _, *args: pretraining_together(killed_once, *args))
    with pytest.raises(
        DevicesError, match=r"process 2 of 2 was killed by SIGKILL .* the others were ended with"
    ):
        made(workspace, how, "video", 2)
    [left] = [path for path in (workspace.root / "weights" / "video").iterdir() if path.is_dir()]
    assert (left / CHECKPOINT).is_file()
    monkeypatch.setattr(pretraining, "together", lambda _, *args: pretraining_together(work, *args))
    found, resumed = made(workspace, how, "video", 2)
    assert_same(resumed, tensors)
    assert found["curves"] == expected["curves"] and not left.exists()


def listening(rank: int) -> None:
    """Fails where it can be reached from elsewhere, or its meeting file by others."""
    torch.distributed.barrier()
    there = [c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    store = torch.distributed.distributed_c10d._get_default_store()
    while isinstance(store, torch.distributed.PrefixStore):
        store = store.underlying_store
    meeting = Path(store.path)
    assert there and set(there) <= {"127.0.0.1"}, there
    assert stat.S_IMODE(meeting.parent.stat().st_mode) == 0o700
    torch.distributed.barrier()


def test_nobody_else_reaches_the_processes():
    together(listening, (), 2)


def failing(rank: int) -> None:
    """The second fails; the first waits for it."""
    if rank == 1:
        raise ValueError("no such clip.")
    torch.distributed.barrier()


def test_one_that_fails_ends_all_with_its_own_reason():
    with pytest.raises(
        DevicesError, match=r"^process 2 of 2 failed: ValueError: no such clip; the others were"
    ):
        together(failing, (), 2)


def test_what_cannot_be_shared_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="devices is 0; give at least 1"):
        multi_device.require_devices(0, 8)
    with pytest.raises(
        ValueError, match=r"devices is 3 and pretrain_batch_size 8, which .* give a multiple of 3"
    ):
        multi_device.require_devices(3, 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ValueError, match="devices is 2, and GPUs in sight of this process are 1; give at most 1"
    ):
        together(failing, (), 2)


def test_shares_are_the_batches_and_a_gpu_has_torchs_batch_norm():
    draws = list(range(12))
    shares = [list(Share(draws, 6, rank, 3)) for rank in range(3)]
    assert shares == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2))
    names = list(network.state_dict())
    network = share_statistics(network, "gpu")
    assert isinstance(network[1], torch.nn.SyncBatchNorm) and list(network.state_dict()) == names
    assert str(Compute("gpu", "bf16-mixed", devices=4)) == "gpu, bf16-mixed, 4 devices"
    assert loop._epoch_seed(1, 2) == loop._epoch_seed(1, 2, 0) != loop._epoch_seed(1, 2, 1)
