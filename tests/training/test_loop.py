"""A fit that was interrupted equals one that was not; the best epoch is kept; odd input is refused."""

import math
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from ctlib.datasets.clips import BalancedSampler
from ctlib.models.network import Network
from ctlib.models.registry import spec
from ctlib.models.weights.load import Init, build_network
from ctlib.training import loaders
from ctlib.training.device import Compute, choose
from ctlib.training.loaders import held_out, loader, require_shared_memory, set_epoch
from ctlib.training.loop import CHECKPOINT, WEIGHTS, FitError, fit, predict
from ctlib.training.losses import LOSSES
from ctlib.training.optimizer import FitSettings

CPU = Compute("cpu", "32-true")
RANDOM = Init("random", "drawn", "none", (0.5,), (0.3,))


class Cubes:
    """Noise, brighter where the label is 1; in training noise of its own for each position and epoch."""

    def __init__(self, n: int, train: bool, side: int = 8) -> None:
        self.labels = [i % 2 for i in range(n)]
        self.train, self.side, self.epoch = train, side, 0
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.epochs.append(epoch)

    def __getitem__(self, index: int) -> dict[str, object]:
        position = getattr(index, "position", index)
        rng = np.random.default_rng([int(index), position, self.epoch] if self.train else [int(index), 77])
        clip = rng.random((1, 8, self.side, self.side), dtype=np.float32) + 0.1 * self.labels[index]
        return {"clip": torch.from_numpy(clip), "label": torch.tensor(float(self.labels[index]))}


class Mean(nn.Module):
    """A network small enough for a test of the loop: it has batch norm and dropout."""

    n_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.layers(clip).mean(dim=(2, 3, 4))


def small() -> Network:
    torch.manual_seed(5)
    return Network(Mean(), 1, (0.5,), (0.3,))


class Accuracy:
    """A metric, which can raise on its n-th call, as if the process had been killed there."""

    def __init__(self, labels: list[int], killed_at: int = 0) -> None:
        self.labels, self.killed_at, self.calls = np.array(labels), killed_at, 0

    def __call__(self, logits: np.ndarray) -> float:
        self.calls += 1
        if self.calls == self.killed_at:
            raise RuntimeError("killed")
        return float(((logits[:, 0] > 0) == self.labels).mean())


def run(
    net: Network,
    folder: Path,
    killed_at: int = 0,
    compute: Compute = CPU,
    side: int = 8,
    train: Cubes | None = None,
    metric=None,
    workers: int = 0,
    **changes,
):
    val, train = Cubes(10, train=False, side=side), train or Cubes(16, train=True, side=side)
    settings = {"epochs": 4, "batch_size": 4, "lr": 1e-2, "weight_decay": 1e-6, "patience": 0, **changes}
    metric, sampler = metric or Accuracy(val.labels, killed_at), BalancedSampler(train.labels, 12, seed=3)
    return fit(net, train, sampler, val, metric, FitSettings(**settings), compute, folder, 3, workers)


def resumed(made, folder: Path, killed_at: int, **how):
    """The network and the result of a fit that went on; they equal those of one that was not interrupted."""
    whole, net = made(), made()
    expected = run(whole, folder / "quiet", **how | {"workers": 0})
    with pytest.raises(RuntimeError, match="killed"):
        run(made(), folder / "killed", killed_at, **how)
    assert (folder / "killed" / CHECKPOINT).exists() == (killed_at > 1)
    result = run(net, folder / "killed", **how)
    pd.testing.assert_frame_equal(result.curves, expected.curves, check_exact=True)
    assert result.best_epoch == expected.best_epoch
    assert np.array_equal(result.val_logits, expected.val_logits)
    states = whole.state_dict(), net.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    return net, result


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("killed_at", "optimizer", "schedule"),
    [(3, "adamw", "one_cycle"), (1, "adamw", "one_cycle"), (4, "adam", "plateau"), (2, "sgd", "constant")],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_fit_equals_one_that_was_not_interrupted(
    tmp_path, killed_at, optimizer, schedule, accumulate
):
    resumed(small, tmp_path, killed_at, optimizer=optimizer, schedule=schedule, accumulate=accumulate)


def test_a_resumed_fit_of_slow_in_bf16_is_the_same_too(tmp_path):
    compute = choose("bf16", spec("slow_r50"))
    slow = lambda: build_network("slow_r50", "tiny", RANDOM, seed=0)[0]  # noqa: E731
    net, result = resumed(slow, tmp_path, 3, compute=compute, side=32, schedule="one_cycle")
    predicted = predict(net, Cubes(10, train=False, side=32), 4, compute)
    assert np.array_equal(predicted, result.val_logits)


@pytest.mark.parametrize("workers", [1, 2])
def test_readers_ahead_do_not_change_the_result_nor_after_a_resume(tmp_path, workers):
    resumed(small, tmp_path, 2, workers=workers, epochs=3)
    assert not multiprocessing.active_children()


def test_readers_end_with_an_interrupted_epoch(tmp_path):
    with pytest.raises(RuntimeError, match="killed") as kept:  # with its frames, as a notebook keeps them
        run(small(), tmp_path, killed_at=1, workers=1)
    assert kept and not multiprocessing.active_children()


def test_the_best_epoch_is_kept_and_the_later_one_wins_a_tie(tmp_path):
    val = Cubes(10, train=False)
    states = []

    def scripted(logits: np.ndarray) -> float:
        states.append(logits)
        return [0.6, 0.8, 0.8, 0.7][len(states) - 1]

    net = small()
    result = run(net, tmp_path, metric=scripted)
    assert result.best_epoch == 3
    assert result.curves["epoch"].tolist() == [1, 2, 3, 4]
    assert result.curves["val_metric"].tolist() == [0.6, 0.8, 0.8, 0.7]
    assert np.array_equal(result.val_logits, states[2])
    assert np.array_equal(predict(net, val, 4, CPU), states[2])
    assert not np.array_equal(states[2], states[3])
    assert (tmp_path / WEIGHTS).is_file()


def test_a_prediction_does_not_depend_on_dropout_or_on_the_batch():
    net, clips = small().train(), Cubes(10, train=False)
    alone = predict(net, clips, 1, CPU)
    np.testing.assert_allclose(predict(net.train(), clips, 4, CPU), alone, atol=1e-6)


def test_it_stops_after_patience_and_is_not_trained_further_when_called_again(tmp_path):
    values = iter([0.5, 0.7, 0.7, 0.6, 0.9, 0.9])
    result = run(small(), tmp_path, metric=lambda logits: next(values), epochs=6, patience=2)
    assert result.curves["val_metric"].tolist() == [0.5, 0.7, 0.7, 0.6]  # 0.7 again is not better
    assert result.best_epoch == 3
    again = run(small(), tmp_path, metric=lambda logits: pytest.fail("trained"), epochs=6, patience=2)
    pd.testing.assert_frame_equal(again.curves, result.curves, check_exact=True)
    assert again.seconds == result.seconds


@pytest.fixture
def rates(monkeypatch) -> list[float]:
    """Learning rate of each step of AdamW."""
    used: list[float] = []
    step = torch.optim.AdamW.step

    def recorded(self, closure=None):
        used.append(self.param_groups[0]["lr"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    return used


@pytest.mark.parametrize(("accumulate", "n_steps"), [(1, 12), (2, 8)])  # 4 epochs of 3 batches
def test_one_cycle_counts_steps_of_the_optimizer(tmp_path, rates, accumulate, n_steps):
    run(small(), tmp_path, schedule="one_cycle", optimizer="adamw", accumulate=accumulate)
    other = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule, wanted = torch.optim.lr_scheduler.OneCycleLR(other, 1e-2, n_steps), []
    for _ in range(n_steps):
        wanted.append(other.param_groups[0]["lr"])
        other.step()
        schedule.step()
    assert rates == pytest.approx(wanted, rel=1e-12)


def test_a_constant_rate_stays(tmp_path, rates):
    run(small(), tmp_path, schedule="constant", optimizer="adamw")
    assert rates == [1e-2] * 12


@pytest.mark.parametrize(
    ("val_losses", "halvings"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0, 0, 0, 1, 1, 2]),  # before each epoch
        ([1.0, 1.1, 0.9, 1.0, 0.8, 0.8], [0, 0, 0, 0, 0, 0]),
        ([0.7, 0.6, 0.6, 0.6, 0.5, 0.5], [0, 0, 0, 0, 1, 1]),
    ],
)
def test_a_plateau_is_more_than_one_epoch_without_a_lower_loss(
    tmp_path, rates, monkeypatch, val_losses, halvings
):
    given = iter(val_losses)
    monkeypatch.setitem(LOSSES, "bce", lambda logits, labels: own(logits, labels))
    bce = torch.nn.functional.binary_cross_entropy_with_logits

    def own(logits, labels):
        return bce(logits[:, 0], labels) if logits.requires_grad else torch.tensor(next(given))

    run(small(), tmp_path, schedule="plateau", optimizer="adamw", epochs=6)
    assert rates == [0.01 / 2**n for n in halvings for _ in range(3)]


def test_every_epoch_has_its_own_data_also_after_a_resume(tmp_path):
    train, again = Cubes(16, train=True), Cubes(16, train=True)
    with pytest.raises(RuntimeError):
        run(small(), tmp_path, killed_at=2, train=train, epochs=3)
    run(small(), tmp_path, train=again, epochs=3)
    assert set(train.epochs) == {0, 1}
    assert sorted(set(again.epochs)) == [1, 2] and again.epochs[0] == 1


class Readers(Cubes):
    """Says who reads: the process, its threads, its seed."""

    def __getitem__(self, index: int) -> dict[str, object]:
        threads = torch.get_num_threads(), cv2.getNumThreads()
        return {"process": os.getpid(), "threads": threads, "seed": torch.initial_seed(), "epoch": self.epoch}


def test_readers_have_one_thread_each_and_outlive_an_epoch_and_read_what_is_held_out():
    drawn, held = BalancedSampler([0, 1] * 4, 8, seed=0), Readers(5, train=False)
    batches = loader(Readers(8, train=True), 2, CPU, 2, drawn, (held, range(0, 5, 2)))
    seen = []
    for epoch in (0, 4):
        set_epoch(batches, epoch)
        seen.append(list(batches))
        assert {int(e) for batch in seen[-1] for e in batch["epoch"]} == {epoch}
        between = list(held_out(batches))
        assert [len(batch["epoch"]) for batch in between] == [2, 1] and len(batches.sampler) == 8
        assert {int(e) for batch in between for e in batch["epoch"]} == {held.epoch}
        assert {int(p) for b in between for p in b["process"]} <= {
            int(p) for b in seen[0] for p in b["process"]
        }
    processes, seeds = ({int(v) for b in seen[0] for v in b[name]} for name in ("process", "seed"))
    assert len(processes) == 2 and os.getpid() not in processes and len(seeds) == 2
    assert processes == {int(p) for batch in seen[1] for p in batch["process"]}
    assert {int(n) for batch in seen[0] for kind in batch["threads"] for n in kind} == {1}
    again = [list(loader(Readers(8, train=True), 2, CPU, 2)) for _ in range(2)]
    assert [b["seed"].tolist() for b in again[0]] == [b["seed"].tolist() for b in again[1]]


KILLED = """
import sys, time
import torch
from test_loop import CPU, Cubes
from ctlib.training.loaders import loader

class Stalls(Cubes):
    def __getitem__(self, index):
        if index > 3:
            time.sleep(600)
        return super().__getitem__(index)

if __name__ == "__main__":
    torch.multiprocessing.set_start_method(sys.argv[1])
    batches = iter(loader(Stalls(64, train=False), 2, CPU, 2))
    next(batches)
    print(*(reader.pid for reader in batches._workers), flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere readers share no pipes that keep them alive")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_end_with_a_process_that_is_killed(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, str(script), method],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": paths}},
    )
    readers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    assert len(readers) == 2 and all(reader.ppid() == process.pid for reader in readers)
    process.kill()
    process.wait()
    psutil.wait_procs(readers, timeout=30)
    zombies = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)  # in a container nobody may wait for them
    assert not [one for one in readers if one.is_running() and one.status() not in zombies]


def test_readers_without_shared_memory_are_refused(monkeypatch):
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: SimpleNamespace(free=64e6))
    require_shared_memory(25.0, 0, 4)
    require_shared_memory(12.0, 2, 1)
    told = r"loader_workers is 2, for 4 runs at once: their batches need 240 MB of /dev/shm, which has 64 MB free"
    with pytest.raises(ValueError, match=told):
        require_shared_memory(12.0, 2, 4)


def test_memory_is_pinned_for_a_gpu_only():
    clips = Cubes(4, train=False)
    assert not loader(clips, 2, CPU).pin_memory
    # spawned, as in a worker they would be by default, each imports torch
    assert (
        loader(clips, 2, CPU, 1).multiprocessing_context.get_start_method() == "fork"
        or sys.platform != "linux"
    )
    assert loader(clips, 2, Compute("gpu", "bf16-mixed")).pin_memory


class Plain(Mean):
    """No batch norm and no dropout: a batch of eight clips is two of four."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU())


def plain() -> Network:
    torch.manual_seed(5)
    return Network(Plain(), 1, (0.5,), (0.3,))


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (3, 2), (5, 2), (2, 3), (1, 6), (4, 5)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_accumulated_batches_are_one_batch(tmp_path, batch_size, accumulate, optimizer):
    """12 clips an epoch: steps of full, of shorter and of fewer batches."""
    nets, results = (plain(), plain()), []
    for net, sizes in zip(nets, ((batch_size, accumulate), (batch_size * accumulate, 1)), strict=True):
        settings = dict(zip(("batch_size", "accumulate"), sizes, strict=True), optimizer=optimizer)
        results.append(run(net, tmp_path / f"{sizes}", schedule="one_cycle", epochs=3, **settings))
    for name in ("train_loss", "val_loss"):
        np.testing.assert_allclose(results[0].curves[name], results[1].curves[name], rtol=1e-5)
    begun, states = plain().state_dict(), [net.state_dict() for net in nets]
    for name, begin in begun.items():
        moved = (states[1][name] - begin).abs().max()
        assert moved > 0 and (states[0][name] - states[1][name]).abs().max() < 1e-3 * moved


@pytest.mark.parametrize("n_clips", [1, 11, 12, 13, 24])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 1), (4, 2), (5, 3), (1, 6)])
def test_a_step_is_the_mean_over_its_clips(n_clips, batch_size, accumulate):
    settings = FitSettings(1, batch_size, 0.1, 0.0, accumulate=accumulate)
    batches = [min(batch_size, n_clips - first) for first in range(0, n_clips, batch_size)]
    weights = [settings.weight(i, n, n_clips) for i, n in enumerate(batches)]
    for first in range(0, len(batches), accumulate):
        in_step = batches[first : first + accumulate]
        shares = [weight / accumulate for weight in weights[first : first + accumulate]]
        assert shares == pytest.approx([n / sum(in_step) for n in in_step])


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_do(tmp_path):
    net = small()
    with torch.no_grad():
        net.head.weight.fill_(math.nan)
    with pytest.raises(FitError, match=r"loss of epoch 1 is nan in training .* lower lr, which is 0\.01"):
        run(net, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04 half")
    with pytest.raises(FitError, match=r"last\.ckpt is no checkpoint of a fit .* delete it to begin again"):
        run(small(), tmp_path)


def test_it_is_silent(tmp_path, capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(small(), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "optimizer is 'lion'; known are adam, adamw, sgd"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; known are one_cycle, plateau, plateau_5, constant"),
        ({"epochs": 0}, "epochs is 0; give at least 1"),
        ({"patience": -1}, "patience is -1; give at least 0"),
        ({"accumulate": 0}, "accumulate is 0; give at least 1"),
        ({"lr": 0.0}, "lr is 0.0; give a learning rate above 0"),
    ],
)
def test_senseless_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FitSettings(**{"epochs": 1, "batch_size": 1, "lr": 0.1, "weight_decay": 0.0, **change})


def test_cross_entropy_learns_classes(tmp_path):
    torch.manual_seed(5)
    net, truth = Network(Mean(), 2, (0.5,), (0.3,)), np.array(Cubes(10, train=False).labels)
    metric = lambda logits: float((logits.argmax(1) == truth).mean())  # noqa: E731
    result = run(net, tmp_path, metric=metric, epochs=1, loss="cross_entropy")
    assert result.val_logits.shape == (10, 2)
    expected = nn.functional.cross_entropy(torch.tensor(result.val_logits), torch.tensor(truth))
    assert result.curves["val_loss"].iloc[0] == pytest.approx(float(expected), rel=1e-6)


def test_memory_format_and_autocast_reach_the_network(tmp_path):
    seen = []

    class Seen(Mean):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            if clip.shape[2:] == (8, 8, 8):  # of the data; the ledger sends a clip of its own
                seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            return super().forward(clip)

    net = Network(Seen(), 1, (0.5,), (0.3,))
    compute = Compute("cpu", "bf16-mixed", torch.channels_last_3d)
    conv = net.backbone.layers[0]
    run(net, tmp_path, compute=compute, epochs=1)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    with compute.autocast():  # two slices are too few for a kernel of three in bf16
        assert conv(torch.rand(1, 1, 2, 8, 8)).dtype == torch.float32
    other = Network(Seen(), 1, (0.5,), (0.3,))
    predict(other, Cubes(4, train=False), 4, compute)
    assert other.backbone.layers[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert set(seen) == {(True, torch.bfloat16)}
