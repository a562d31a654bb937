"""What a run takes of the machine and of the GPU: its own, that of its readers, and nothing twice."""

import multiprocessing

import numpy as np
import pytest
import torch

from ctlib.training import memory
from ctlib.training.device import Compute
from ctlib.training.memory import PeakMemory, children_mb

MB = 2**20


def hold(n_mb, ready, go):
    held = np.ones(n_mb * MB, np.uint8)
    ready.set()
    go.wait()
    del held


def test_readers_count_with_what_is_theirs_alone():
    context = multiprocessing.get_context("fork")  # as readers are started on Linux
    shared = np.ones(300 * MB, np.uint8)
    watch = PeakMemory(Compute("cpu", "32-true"))
    before = watch.peaks()
    for n_mb, least, most in ((0, 0, 150), (200, 200, 350)):
        ready, go = context.Event(), context.Event()
        child = context.Process(target=hold, args=(n_mb, ready, go))
        child.start()
        assert ready.wait(60)
        assert watch.watched(lambda logits: 0.5)(np.zeros(1)) == 0.5
        assert least <= watch.readers_mb < most
        go.set()
        child.join()
    assert shared.size and children_mb() < 100  # of tests before, perhaps
    after = watch.peaks()
    assert after["peak_memory_mb"] >= before["peak_memory_mb"] + 200  # also when they have ended
    assert before["peak_memory_mb"] > 300 and after["peak_gpu_mb"] is None


def test_the_peak_of_a_gpu_is_that_of_this_run(monkeypatch):
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: reset.append(True))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * MB * len(reset))
    monkeypatch.setattr(memory, "children_mb", lambda: pytest.fail("no epoch ended"))
    assert PeakMemory(Compute("gpu", "bf16-mixed")).peaks()["peak_gpu_mb"] == 3.0
