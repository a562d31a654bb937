"""The checks of a GPU: what a CPU can, in a process that lacks what a borrowed machine lacks; the rest by mocks."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from fake_gpu import Kept, Watch

from ctlib.cli import gpu_check, gpu_checks
from ctlib.cli.__main__ import cli
from ctlib.cli.gpu_check import Check, Finding, Site, checked, without_names
from ctlib.core.parameters import load_profile
from ctlib.core.workspace import PROJECT
from ctlib.models import cost
from ctlib.models.cost import without_values
from ctlib.models.network import Network
from ctlib.training.device import Compute

LACKING = (
    "papermill",
    "dask",
    "distributed",
    "av",
    "pydicom",
    "blosc2",
    "nibabel",
    "SimpleITK",
    "monai",
)
"""What the machine that is lent for a GPU does not have."""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "data").mkdir()
    return Site(tmp_path, tmp_path / "data", "tiny", (8, 42))


@pytest.mark.slow
def test_a_cpu_passes_what_it_can_without_what_such_a_machine_lacks(tmp_path):
    """All eleven, each in its process, where the imports fail of what is not needed."""
    for name in LACKING:
        (tmp_path / f"{name}.py").write_text("raise ImportError(__name__)")
    file, names = tmp_path / "check.json", {"LOGNAME": "marie.curie", "CUDA_VISIBLE_DEVICES": ""}
    paths = {"PYTHONPATH": f"{tmp_path}:{PROJECT}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "ctlib", "gpu-check", "--seconds", "1500", "--json", str(file)]
    done = subprocess.run(
        command, env=os.environ | names | paths, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told, text = json.loads(file.read_text()), file.read_text()
    verdicts = [check["verdict"] for check in told["checks"]]
    assert verdicts == ["yes"] * 5 + ["not here (no GPU)"] * 2 + ["yes", "not here (no GPU)", "yes", "yes"]
    assert done.stdout.splitlines()[-1] == "8 yes, 3 not here (no GPU)"
    assert told["device"]["accelerator"] == "cpu" and told["device"]["Python, torch"].endswith(
        torch.__version__
    )
    numbers = told["checks"][1]["seen"][0]["details"]
    assert len(numbers) >= 19 and max(numbers.values()) < 1e-3
    assert all(name not in text for name in ("marie", str(tmp_path), "/home", "/root", socket.gethostname()))
    assert [path.name for path in tmp_path.glob("ctlib-gpu-check-*")] == []


def passes(site):
    yield Finding("site", site.clip[0], "8", site.clip[0] == 8)


def hangs(site):
    yield Finding("begun", 1)
    time.sleep(600)


def dies(site):
    yield Finding("begun", 1)
    os.kill(os.getpid(), signal.SIGSEGV)


def fails(site):
    raise OSError(f"no room in {site.folder}/deep/file.bin")
    yield


def test_a_check_that_hangs_dies_or_fails_is_told_and_the_next_one_runs(site, monkeypatch):
    checks = [Check(each.__name__, f"{__name__}:{each.__name__}", 0) for each in (hangs, dies, fails, passes)]
    monkeypatch.setattr(
        gpu_check, "CHECKS", (*checks, Check("of a GPU", f"{__name__}:passes", 0, needs_gpu=True))
    )
    monkeypatch.setattr(gpu_check, "LEAST_S", 60)
    outcomes = list(checked(site))
    assert [one.verdict for one in outcomes] == ["NO", "NO", "NO", "yes", "not here (no GPU)"]
    told = [one.seen[-1].value for one in outcomes[:3]]
    assert told[0] == "not done in 60 s" and told[1] == f"ended with status {-signal.SIGSEGV}"
    assert told[2].startswith("OSError: no room") and "test_gpu_check.py" in told[2]
    assert without_names(told[2]).startswith("OSError: no room in file.bin (gpu_check.py:")


def test_what_is_not_reached_is_told_and_one_no_ends_with_1(tmp_path, monkeypatch):
    checks = [Check(each.__name__, f"{__name__}:{each.__name__}", 0) for each in (fails, hangs, fails)]
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    monkeypatch.setattr(gpu_check, "LEAST_S", 2000)
    done = CliRunner().invoke(cli, ["gpu-check", "--seconds", "25", "--json", "-", "--data", str(tmp_path)])
    told = json.loads(done.stdout)
    assert [check["verdict"] for check in told["checks"]] == ["NO", "not reached", "not reached"]
    assert done.exit_code == 1 and "1 NO, 2 not reached" in done.stderr and str(tmp_path) not in done.stdout
    assert list(tmp_path.iterdir()) == []
    refused = CliRunner().invoke(cli, ["gpu-check", "--json", str(tmp_path / "no" / "file.json")])
    assert refused.exit_code == 2 and "its folder is missing; make it" in refused.stderr


def test_names_and_paths_are_left_out(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "curie")
    monkeypatch.setattr(socket, "gethostname", lambda: "node7.lab.example")
    text = "/home/curie/work/last.ckpt, ~/x/y.py and ../a/b of curie on node7: 12 clips/s, curies, 3/4"
    assert without_names(text) == "last.ckpt, y.py and b of ... on ...: 12 clips/s, curies, 3/4"


# ---- what needs a GPU ---------------------------------------------------------------------------


@pytest.fixture
def fake_gpu(monkeypatch):
    """One GPU, as torch and nvidia-smi tell of it; what they say may be changed."""
    said = SimpleNamespace(count=1, cudnn=91900, mode="Default", apps="", shm=8e9)
    found = SimpleNamespace(name="NVIDIA H200", total_memory=150e9, major=9, minor=0)

    def nvidia_smi(query):
        lines = {"--query-gpu": f"580.1, {said.mode}, Disabled", "--query-compute-apps": said.apps}
        return [part.strip() for part in lines[query.split("=")[0]].split(",") if part]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setattr(gpu_checks, "_nvidia_smi", nvidia_smi)
    monkeypatch.setattr(gpu_checks, "visible_gpus", lambda: ("GPU-1",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: said.count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: said.cudnn)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=said.shm))
    return said


@pytest.mark.parametrize(
    ("field", "value", "failing"),
    [
        ("count", 1, []),
        ("count", 0, ["GPUs that torch and ctlib count"]),
        ("cudnn", 91002, ["cuDNN"]),
        ("mode", "Exclusive_Process", []),
        ("apps", "4711", []),
        ("shm", 64e6, ["/dev/shm, GB free"]),
    ],
)
def test_what_is_in_the_way_of_a_gpu_is_told(fake_gpu, site, field, value, failing):
    setattr(fake_gpu, field, value)
    seen = list(gpu_checks.machine(site))
    assert [line.what for line in seen if line.good is False] == failing
    told = {line.what: line.value for line in seen}
    assert (told["GPU"], told["SLURM"]) == ("NVIDIA H200, 150.0 GB, sm_90", "NTASKS 8")


def test_an_exclusive_gpu_that_another_process_holds_is_told(fake_gpu, site):
    fake_gpu.mode, fake_gpu.apps = "Exclusive_Process", "4711"
    assert [s.what for s in gpu_checks.machine(site) if s.good is False] == ["compute mode"]


def test_batches_and_readers_are_those_of_the_profiles():
    values = load_profile("lidc")["03_finetune_grid"]
    assert values["loader_workers"] == gpu_checks.LOADER_WORKERS and values["batch_size"] == gpu_checks.BATCH
    assert set(values["backbones"]) == set(gpu_checks.FULL[:7])
    assert values["exceptions"] == [f"{key}.batch_size={n}" for key, n in gpu_checks.BATCHES.items()]
    assert (values["clip_length"], values["crop_px"]) == Site(None, None).clip


def test_a_step_is_held_against_the_plan_and_the_fastest_way(site, monkeypatch):
    monkeypatch.setattr(gpu_checks, "FULL", ("slow_r50", "slowfast_r50", "r3d_18"))
    runs = [gpu_checks.full_run(site, key) for key in gpu_checks.FULL]
    plan = gpu_checks.calibrate(runs, site.folder / "plan.json", measuring=False)
    slow, fast, _ = (timing.peak_mb for timing in plan.values())
    held, filled = iter([1.1e6 * slow, 1.2e6 * fast]), []

    def seconds(step, compute):
        compute.set_up()
        filled.append(torch.utils.deterministic.fill_uninitialized_memory)
        if step.backbone == "r3d_18":
            raise torch.OutOfMemoryError
        return 2.0 + filled[-1], 1.0, 0.9

    for name, value in {
        "reset_peak_memory_stats": lambda: None, "max_memory_allocated": lambda: next(held),
        "get_device_name": lambda: "NVIDIA H200", "mem_get_info": lambda: (1e12, 1e12),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    for place, name, value in (
        (torch, "use_deterministic_algorithms", lambda *_, **__: None),
        (torch.utils.deterministic, "fill_uninitialized_memory", True),
        (torch.backends.cudnn, "allow_tf32", True),
        (gpu_checks, "step_seconds", seconds),
    ):
        monkeypatch.setattr(place, name, value)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(gpu_checks, "compute_of", lambda *_: Compute("gpu", "bf16-mixed"))
    one, two, large = gpu_checks.full_size(site)
    assert (
        one.good and one.details["ms_filled"] == 3000 and "gpu, bf16-mixed: 2000 ms, 4 clips/s" in one.value
    )
    assert not two.good and not large.good and "does not fit" in large.value
    assert (
        filled == [False, True, False, True, False]
        and not torch.utils.deterministic.fill_uninitialized_memory
    )


@pytest.mark.parametrize("key", gpu_checks.BACKBONES)
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_a_pass_of_checks_2_and_3_stays_on_a_gpu_that_is_not_there(key):
    one, watch, kept = gpu_checks.Trained.__new__(gpu_checks.Trained), Watch(), Kept()
    one.network = Network(without_values(key, "tiny"), 1, (0.45,), (0.225,)).eval()
    to_gpu = partial(map, lambda tensor: tensor.to("cuda:0"))
    one.fabric = SimpleNamespace(to_device=to_gpu, autocast=nullcontext, backward=kept.backward)
    with cost.fake_gpu(one.network):
        clips, labels = torch.empty(2, 1, 16, 48, 48), torch.empty(2)
        with watch, kept.hooks:
            logits, loss = one.pass_through(clips, labels)
    assert (logits.dtype, loss.dtype, loss.device.type) == (torch.float32, torch.float32, "cuda")
    if key != "mst_dinov3_s":  # timm counts its places on the CPU, some of them, each time
        assert not watch.on_cpu
    assert not watch.synchronisations
    gradients = [p.grad for p in one.network.parameters() if p.grad is not None]  # of a GRU not all are faked
    assert gradients and all(gradient.device.type == "cuda" for gradient in gradients)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_waiting_and_sharing_are_measured(site, monkeypatch):
    """Of tiny networks on this CPU: readers and three processes are begun, as on a GPU; their speed is of no matter."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (waits,) = gpu_checks.waiting(site)
    assert "6 readers" in waits.value and waits.good is not None
    rates, best = gpu_checks.sharing(site)
    assert len(rates.details["clips_a_second"]) == 3 and min(rates.details["clips_a_second"]) > 0
    assert "runs_a_gpu" in best.value
