"""What a step takes is measured as a run computes it, kept, and assumed only where it must be."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from noise_cohort import SETTINGS as SHORT
from torch import nn

from ctlib.core.workspace import read_json
from ctlib.grid import step_timing
from ctlib.grid.roofline import GPUS, Gpu
from ctlib.grid.step_timing import CalibrationError, assume, calibrate, is_measurable, kind, on_gpus
from ctlib.models import cost
from ctlib.models.cost import Cost, GpuWork
from ctlib.training.device import Compute
from ctlib.training.run import Run
from ctlib.training.step import Step

pytestmark = pytest.mark.slow  # processes and seconds: not among the tests of two minutes

SETTINGS = SHORT | {"matrix_px": 20, "clip_length": 8, "crop_px": 16, "rotation_deg": 5.0}
RUN = Run("rspect_pe", "resnet18", "random", 1.0, 0, lr=1e-3, data="", weights="", **SETTINGS)
CPU = Compute("cpu", "32-true")
SMALL = Cost(parameters=1_000_000, multiply_adds=2_000_000_000, saved_mb=100.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work" / "calibration.json"


@pytest.fixture
def counted(monkeypatch):
    """Networks that were measured, in order."""
    seen = []
    measure = step_timing.measure
    monkeypatch.setattr(
        step_timing, "measure", lambda run, *how: seen.append(run.backbone) or measure(run, *how)
    )
    return seen


def test_each_kind_of_run_is_measured_once(path, counted):
    video = dataclasses.replace(RUN, backbone="slow_r50", clip_length=16, crop_px=32, matrix_px=32)
    runs = [dataclasses.replace(run, seed=seed, fraction=0.1) for seed in range(50) for run in (RUN, video)]
    lines = []
    before = torch.random.get_rng_state()
    found = calibrate(runs, path, tell=lines.append)
    assert counted == ["resnet18", "slow_r50"] and len(lines) == 2
    assert found.keys() == {kind(RUN), kind(video)}
    assert torch.equal(torch.random.get_rng_state(), before)  # a calibration changes no later run
    for timing in found.values():
        assert timing.is_measured and timing.device.startswith("CPU")
        assert timing.train_s > timing.predict_s > 0 and timing.cut_train_s > 0 and timing.cut_s > 0
        assert 50 < timing.peak_mb < 30_000
    assert found[kind(video)].multiply_adds > found[kind(RUN)].multiply_adds


def test_what_was_measured_is_kept(path, counted, monkeypatch):
    first = calibrate([RUN], path)
    written = path.read_text()
    assert calibrate([RUN], path) == first and counted == ["resnet18"]
    assert path.read_text() == written
    calibrate([dataclasses.replace(RUN, batch_size=2)], path)
    assert counted == ["resnet18"] * 2  # another batch is another kind
    monkeypatch.setattr(step_timing, "device_name", lambda compute: "CPU, another")
    assert calibrate([RUN], path)[kind(RUN)] != first[kind(RUN)]
    assert counted == ["resnet18"] * 3  # and so is another device
    known = read_json(path)
    assert known.keys() == {"costs", "timings", "gpu_work"} and len(known["timings"]) == 3
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize(
    ("field", "value"), [("lr", 0.5), ("seed", 3), ("init", "video"), ("epochs", 9), ("task", "lidc_nodule")]
)
def test_what_changes_no_step_is_of_the_same_kind(field, value):
    assert kind(dataclasses.replace(RUN, **{field: value})) == kind(RUN)


LARGE = dataclasses.replace(RUN, crop_px=64, matrix_px=72, clip_length=16, batch_size=8)


def tell_memory(path):
    """Print the most memory of a small and of a large step, MB."""
    print(*(calibrate([run], path)[kind(run)].peak_mb for run in (RUN, LARGE)))


def test_a_step_is_that_of_its_batch(path):
    """Four times the clips take longer, and need more memory: the most that a process had, so one is asked anew."""
    code = "import sys, pathlib, test_step_timing as t; t.tell_memory(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ask = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(ask, env=environment, capture_output=True, text=True, check=True)
    small_mb, big_mb = map(float, done.stdout.split())
    assert big_mb > small_mb
    for attempt in range(3):  # other tests run beside this one and may slow one of two measurements
        there = path.with_name(f"{attempt}-{path.name}")
        small, big = (calibrate([run], there)[kind(run)] for run in (RUN, LARGE))
        longer = big.train_s > 4 * small.train_s and big.cut_train_s > small.cut_train_s
        if longer and big.train_s > 1.8 * big.predict_s:  # the way back takes about twice the way there
            return
    pytest.fail(f"in three attempts a step was not as its batch: {small}, {big}")


def test_nothing_is_measured_unless_asked(path, counted):
    slower, faster = (calibrate([RUN], path, False, gpu)[kind(RUN)] for gpu in GPUS.values())
    assert counted == [] and not slower.is_measured and slower.device == "GPU, assumed: A100"
    assert slower.train_s >= faster.train_s > 0
    assert on_gpus([RUN], path) == {"A100": {kind(RUN): slower}, "H200": {kind(RUN): faster}}
    measured = calibrate([RUN], path)[kind(RUN)]
    assert calibrate([RUN], path, measuring=False)[kind(RUN)] == measured  # what is known is used
    assert on_gpus([RUN], path)["A100"][kind(RUN)] == slower  # but no CPU's for a GPU's


def test_what_is_assumed_is_by_the_peaks_of_a_gpu():
    work = GpuWork(saved_mb=100.0, flops=2e12, n_bytes=1e9, kernels=100)
    found = assume(RUN, SMALL, work, Gpu("X", flops=1e13, bytes_s=1e12))
    assert found.predict_s == pytest.approx(4 * (2e12 / (0.4 * 1e13) + 1e9 / (0.8 * 1e12)))
    assert found.train_s == pytest.approx(3 * found.predict_s)
    small = dataclasses.replace(work, flops=0.0, n_bytes=1e3)  # launches take longer
    assert assume(RUN, SMALL, small).predict_s == pytest.approx(100 * 10e-6)
    assert found.peak_mb == pytest.approx(4 * 100 + 16)  # of four clips, and Adam's
    assert found.cut_s == pytest.approx(0.12e-3 * (8 * 16 * 16) / (16 * 48 * 48))


def test_a_gpus_work_is_counted_by_what_limits_it():
    """A product of 4096 channels is arithmetic, its ReLU traffic: read and written in bf16."""

    class Wide(nn.Module):
        n_features = 4096

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(4096, 4096, 1, bias=False)

        def forward(self, clip):
            return self.conv(clip.expand(-1, 4096, -1, -1, -1)).relu()

    with mock.patch.object(cost, "build", lambda *_: Wide()):
        found = cost.gpu_work("resnet18", "full", (8, 32, 32))
    voxels, cast = 8 * 32 * 32, 6 * 4096 * 8 * 32 * 32  # the clip comes in fp32, and is cast
    assert found.flops == 2 * 4096 * 4096 * voxels
    assert found.n_bytes == 2 * 2 * 4096 * voxels + cast
    assert found.saved_mb == pytest.approx(2 * 2 * 4096 * voxels / 1e6)  # what goes in and what comes out
    assert 3 <= found.kernels <= 4


@pytest.mark.parametrize("change", [{"multiply_adds": 10**12}, {"saved_mb": 1e9}, {"parameters": 10**12}])
def test_what_is_too_large_is_not_tried(change):
    assert is_measurable(SMALL, 1, CPU) and not is_measurable(dataclasses.replace(SMALL, **change), 1, CPU)


def test_a_gpu_is_asked_and_measured_in_a_process_of_its_own(path, monkeypatch):
    with step_timing._apart(True) as apart:
        assert apart(os.getpid) != os.getpid()
    asked, fast = [], Compute("gpu", "bf16-mixed", torch.channels_last)
    timing = step_timing.Timing(1.0, 0.3, 0.1, 0.1, 500.0, 1, 1, True, "NVIDIA H200")
    answers = {"device_name": "NVIDIA H200", "is_measurable": True, "compute_of": fast, "measure": timing}

    @contextlib.contextmanager
    def elsewhere(is_needed):
        assert is_needed
        yield lambda function, *given: asked.append((function.__name__, given)) or answers[function.__name__]

    monkeypatch.setattr(step_timing, "_apart", elsewhere)
    monkeypatch.setattr(step_timing, "choose", lambda *_: Compute("gpu", "bf16-mixed"))
    assert calibrate([RUN], path)[kind(RUN)] == timing
    assert [name for name, _ in asked] == list(answers) and not torch.cuda.is_initialized()
    assert asked[2][1] == (path.parent, Step.of(RUN), True) and asked[3][1][2] == fast  # as runs will compute


def test_a_network_too_large_for_this_machine_is_assumed(path, counted):
    full = dataclasses.replace(
        RUN, backbone="slow_r50", size="full", clip_length=32, crop_px=224, batch_size=8
    )
    found = calibrate([full], path)[kind(full)]
    assert counted == [] and not found.is_measured
    assert 31e6 < found.parameters < 33e6


def test_a_network_that_does_not_compute_is_named(path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Kernel size can't be greater than actual input size\nand more")

    monkeypatch.setattr("ctlib.training.step.build", refuse)
    told = (
        r"^resnet18 \(tiny\) does not compute 4 clips \[1, 8, 16, 16\]: Kernel size .* size; change crop_px"
    )
    with pytest.raises(CalibrationError, match=told):
        calibrate([RUN], path)
    assert not path.exists()
