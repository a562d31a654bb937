"""How a GPU computes a network is measured once and kept; all processes then compute alike."""

import threading
from dataclasses import replace

import pytest
import torch

from ctlib.training import step as steps
from ctlib.training.device import Compute
from ctlib.training.step import Step, compute_of

STEP = Step("slow_r50", "", "tiny", (2, 1, 8, 16, 16), "adam", "auto")
LAST = torch.channels_last_3d
USUAL, BF16_LAST = Compute("gpu", "bf16-mixed"), Compute("gpu", "bf16-mixed", LAST)
FP32, FP32_LAST = Compute("gpu", "32-true"), Compute("gpu", "32-true", LAST)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that takes so many seconds each way; `tried` are those that were timed."""
    seconds = {USUAL: 1.0, BF16_LAST: 0.5, FP32: 2.0, FP32_LAST: 2.0}
    tried, named = [], ["NVIDIA H200"]

    def taken(step, way):
        tried.append(way)
        if isinstance(seconds[way], Exception):
            raise seconds[way]
        return seconds[way], 0.1

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: named[0])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(steps, "step_seconds", taken)
    return type("Gpu", (), {"seconds": seconds, "tried": tried, "named": named})


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, BF16_LAST),
        ({BF16_LAST: 0.97}, USUAL),  # noise
        ({FP32: 0.2}, FP32),
        ({BF16_LAST: torch.OutOfMemoryError("none left")}, USUAL),
    ],
)
def test_the_fastest_way_is_taken_and_kept(gpu, tmp_path, seconds, expected):
    gpu.seconds.update(seconds)
    assert compute_of(tmp_path, STEP, measuring=False) == USUAL and not gpu.tried
    assert compute_of(tmp_path, STEP) == expected
    assert gpu.tried == [USUAL, BF16_LAST, FP32, FP32_LAST]
    gpu.seconds.update(dict.fromkeys(gpu.seconds, 1.0))  # whatever is measured later
    assert [compute_of(tmp_path, STEP, measuring) for measuring in (True, False)] == [expected] * 2
    assert len(gpu.tried) == 4


def test_another_device_batch_or_precision_is_measured_for_itself(gpu, tmp_path):
    compute_of(tmp_path, STEP)
    gpu.seconds.update({BF16_LAST: 2.0})
    assert compute_of(tmp_path, replace(STEP, clips=(4, 1, 8, 16, 16))) == USUAL
    assert compute_of(tmp_path, replace(STEP, precision="fp32")) == FP32  # bf16 was not asked for
    gpu.named[0] = "NVIDIA A100"
    assert compute_of(tmp_path, STEP) == USUAL and len(gpu.tried) == 4 + 4 + 2 + 4


def test_a_network_that_does_not_fit_the_usual_way_is_told(gpu, tmp_path):
    gpu.seconds[USUAL] = torch.OutOfMemoryError("none left")
    with pytest.raises(torch.OutOfMemoryError):
        compute_of(tmp_path, STEP)
    assert not list(tmp_path.rglob("choice.json"))


def test_many_that_need_it_at_once_measure_once(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "WAIT_S", 0.01)
    found, started = [], threading.Barrier(4)

    def ask():
        started.wait()
        found.append(compute_of(tmp_path, STEP))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BF16_LAST] * 4 and len(gpu.tried) == 4


def test_a_cpu_computes_as_recorded_whatever_is_faster(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "step_seconds", lambda *_: pytest.fail("it measures"))
    assert compute_of(tmp_path, STEP).accelerator == "cpu" and not list(tmp_path.iterdir())


def test_a_step_is_timed_as_a_run_computes_it(monkeypatch):
    set_up, before = [], torch.random.get_rng_state()
    monkeypatch.setattr(Compute, "set_up", lambda self: set_up.append(self))
    train_s, predict_s, share = steps.step_seconds(STEP, Compute("cpu", "bf16-mixed", LAST))
    assert train_s > predict_s > 0 and share == 1 and set_up == [Compute("cpu", "bf16-mixed", LAST)]
    assert torch.equal(torch.random.get_rng_state(), before)
