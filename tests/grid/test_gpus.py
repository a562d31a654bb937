"""Which GPUs are used, whether they answer, how many runs share one, and what becomes of runs whose GPU is lost.

No GPU is here: processes that look at one import a stand-in for torch, which a file tells what there is.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dask_site import Site

from ctlib.core import GPU_SHARE, GpuError
from ctlib.grid import gpus
from ctlib.grid import worker as worker_process
from ctlib.grid.engine import Engine, EngineError, _Dispatch
from ctlib.grid.gpus import Gpu, Load, probe, runs_a_gpu, visible_gpus

TORCH = """
import json, os
from pathlib import Path

here, name = Path(__file__).parent, os.environ["CUDA_VISIBLE_DEVICES"]
gpu = json.loads((here / "gpus.json").read_text()).get(name, {"error": "No CUDA GPUs are available"})

def zeros(*shape, device):
    if "error" in gpu:
        raise RuntimeError(gpu["error"] + "\\nCompile with more words.")
    if gpu.get("exclusive") and (here / name).exists():
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")
    (here / name).touch()

class cuda:
    mem_get_info = staticmethod(lambda: (int(1e9 * gpu.get("free_gb", 80)), int(80e9)))
    get_device_name = staticmethod(lambda: "NVIDIA Pretended")
"""


@pytest.fixture
def pretend(tmp_path_factory, monkeypatch):
    """Say which GPUs there are, by name: `free_gb`, whether `exclusive`, or the `error` it gives."""
    folder = tmp_path_factory.mktemp("gpus")
    (folder / "torch.py").write_text(TORCH)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    )

    def told(**found):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(name.replace("_", "-") for name in found))
        there = {name.replace("_", "-"): one for name, one in found.items()}
        (folder / "gpus.json").write_text(json.dumps(there))
        return folder / "gpus.json"

    return told


def surroundings(_: int) -> tuple[str, str, int, bool]:
    time.sleep(0.3)
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ[GPU_SHARE], os.getpid(), "torch" in sys.modules


# ---- which there are ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        *(("0,2", ("0", "2")), ("", ()), ("-1", ()), ("1,-1,2", ("1",)), ("NoDevFiles", ())),
        ("GPU-a, MIG-b", ("GPU-a", "MIG-b")),
    ],
)
def test_gpus_are_what_is_in_sight(monkeypatch, listed, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == seen


def test_names_of_nothing_are_one_sentence(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,gpu1")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES is '0,gpu1'; 'gpu1' is no number and no UUID"):
        Engine(2, gpu=True)


def test_gpus_of_the_machine_are_those_of_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ()
    tool = tmp_path / "nvidia-smi"
    told = tmp_path / "told"
    tool.write_text(f'#!/bin/sh\nwhile read line; do echo "$line"; done < {told}\n')
    tool.chmod(0o755)
    told.write_text(
        "GPU 0: NVIDIA H200 (UUID: GPU-1-a)\n  MIG 1g.18gb Device  0: (UUID: MIG-b-1)\n"
        "  MIG 1g.18gb Device  1: (UUID: MIG-b-2)\nGPU 1: NVIDIA H200 (UUID: GPU-2-c)\n"
    )
    assert visible_gpus() == ("MIG-b-1", "MIG-b-2", "GPU-2-c")
    tool.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert visible_gpus() == ()


def test_gpus_without_nvidia_smi_are_counted_by_torch_elsewhere(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=counted)

    monkeypatch.setattr(gpus.subprocess, "run", run)
    assert visible_gpus() == () and not asked  # no GPU, and no seconds for torch
    (tmp_path / "nvidia0").touch()
    counted = "3\n"
    assert visible_gpus() == ("0", "1", "2") and asked[0][0] == sys.executable
    counted = "0\n"  # the driver is broken: that must not look like a machine without a GPU
    with pytest.raises(ValueError, match=r"has files of GPUs, and neither nvidia-smi nor torch can use one"):
        visible_gpus()
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'Unable to determine the device handle for GPU0000:3B:00.0: Unknown Error'\nexit 15\n"
    )
    tool.chmod(0o755)
    monkeypatch.setattr(gpus, "_of_torch", lambda: ("0", "1"))
    assert visible_gpus() == ("0", "1")  # those that are left


@pytest.mark.parametrize(
    ("listed", "told", "seen"),
    [
        (
            "0,1,2,3",
            {"JOB_GPUS": "0,1,2,3", "NTASKS": "8"},
            ("0", "1", "2", "3"),
        ),  # sbatch --ntasks=8, no srun
        ("0,1,2,3", {"STEP_TASKS_PER_NODE": "1", "STEP_GPUS": "0,1,2,3"}, ("0", "1", "2", "3")),
        ("0,1,2,3", {"STEP_TASKS_PER_NODE": "2", "LOCALID": "1", "STEP_GPUS": "4,5,6,7"}, ("1", "3")),
        ("0,1,2,3", {"STEP_TASKS_PER_NODE": "1,4", "NODEID": "1", "LOCALID": "2"}, ("2",)),
        (
            "0",
            {"STEP_TASKS_PER_NODE": "4(x2)", "LOCALID": "3", "STEP_GPUS": "0,1,2,3"},
            ("0",),
        ),  # --gpus-per-task
        ("3", {"ARRAY_TASK_ID": "7", "JOB_GPUS": "3", "NTASKS": "1"}, ("3",)),  # an array: jobs of their own
    ],
)
def test_tasks_of_slurm_take_turns_in_the_gpus_that_they_all_see(monkeypatch, listed, told, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert visible_gpus() == seen


def test_a_task_of_slurm_too_many_is_one_sentence(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_LOCALID", "2")
    with pytest.raises(
        ValueError, match="started 4 tasks here, 2 GPUs are in sight, and task 2 has none: start"
    ):
        visible_gpus()


# ---- whether they answer -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040).",
            "GPU GPU-b cannot be used: The NVIDIA driver on your system is too old (found version 11040). What to "
            "do: update NVIDIA's driver, or install a torch",
        ),
        (
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            "What to do: another process has it for itself",
        ),
        (
            "No CUDA GPUs are available",
            "No CUDA GPUs are available. What to do: `nvidia-smi -L` lists the GPUs",
        ),
    ],
)
def test_a_gpu_that_does_not_answer_is_one_sentence_before_the_first_run(pretend, error, said):
    pretend(GPU_a={}, GPU_b={"error": error})
    with Engine(4, gpu=True) as engine, pytest.raises(ValueError, match=re.escape(said)):
        engine.run(surroundings, [0])
    with pytest.raises(ValueError, match=re.escape(said)):
        worker_process.worker_options(None, 1, 1, None, None)


def test_a_gpu_that_hangs_is_one_sentence(pretend, monkeypatch):
    pretend(GPU_a={})
    monkeypatch.setattr(gpus, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(gpus, "PROBE_S", 0.5)
    with pytest.raises(GpuError, match="GPU GPU-a cannot be used: it did not answer"):
        probe(["GPU-a"])


# ---- how many runs share one -------------------------------------------------------------

H200 = Gpu("GPU-a", "NVIDIA H200", 150_000, 149_000)
SMALL = Gpu("GPU-b", "NVIDIA T4", 16_000, 15_000)


@pytest.mark.parametrize(
    ("found", "loads", "most", "chosen"),
    [
        ([H200], [Load("a", 12_000, busy=1.0)], 8, 1),  # it is full
        ([H200], [Load("a", 12_000, busy=0.5)], 8, 2),  # it waits half of the time for launches or clips
        ([H200], [Load("a", 12_000, busy=0.1)], 8, 4),  # no more than these
        ([H200], [Load("a", 12_000, busy=0.1)], 2, 2),  # than workers or cores
        ([H200], [Load("a", 12_000, busy=0.1), Load("b", 60_000, busy=0.1)], 8, 2),  # than fit
        ([H200], [Load("a", 1_000, 1.0, seconds=9.0), Load("b", 1_000, 0.1, seconds=1.0)], 8, 1),
        ([H200, SMALL], [Load("a", 6_000, busy=0.1)], 8, 1),
        ([Gpu("c", "", 80_000, 80_000, shared=False)], [Load("a", 1_000, busy=0.1)], 8, 1),  # exclusive
        ([H200], [], 8, 1),
    ],
)
def test_as_many_runs_share_a_gpu_as_fit_and_keep_it_busy(found, loads, most, chosen):
    assert runs_a_gpu(0, found, loads, most) == chosen


def test_what_does_not_fit_on_a_gpu_is_one_sentence():
    with pytest.raises(
        ValueError, match=r"mvit needs 27\.0 GB of NVIDIA T4 \(GPU-b\), of which 15\.0 GB are free: "
    ):
        runs_a_gpu(0, [H200, SMALL], [Load("mvit", 27_000)])
    said = r"runs_a_gpu is 3, and mvit needs 54\.7 GB, more than its part of NVIDIA H200 .*: give 2, or 0 to have"
    with pytest.raises(ValueError, match=said):
        runs_a_gpu(3, [H200], [Load("slow", 5_000), Load("mvit", 50_000)])
    with pytest.raises(ValueError, match=r"runs_a_gpu is 2, and .* takes one process at a time: give 1 or 0"):
        runs_a_gpu(2, [Gpu("c", "", 80_000, 80_000, shared=False)], [])
    with pytest.raises(ValueError, match="runs_a_gpu is -1; give 0"):
        Engine(1, runs_a_gpu=-1)


def test_three_runs_a_gpu_are_pinned_and_refused_where_they_cannot_fit(pretend):
    pretend(GPU_a={}, GPU_b={})
    with Engine(8, gpu=True, runs_a_gpu=3) as engine:
        assert str(engine) == "Engine(6 worker processes, 3 on a GPU, 1 thread each)"
        with pytest.raises(ValueError, match=r"runs_a_gpu is 3, and slow_r50 needs .* give 2"):
            engine.share([Load("slow_r50", 30_000)])
        assert engine._client is None
        assert (
            engine.share([Load("slow_r50", 12_000)])
            == "GPUs: 2 of NVIDIA Pretended; runs at once on each: 3."
        )
        engine.client().wait_for_workers(6, timeout=300)
        names = [one["name"] for one in engine.client().scheduler_info(n_workers=-1)["workers"].values()]
        seen = engine.map(surroundings, range(12))
    assert sorted(names) == ["0: GPU-a", "1: GPU-b", "2: GPU-a", "3: GPU-b", "4: GPU-a", "5: GPU-b"]
    share = str(round(1 / 3 - gpus.CONTEXT_MB / 80_000, 4))
    assert {one[:2] for one in seen} == {("GPU-a", share), ("GPU-b", share)} and not any(
        one[3] for one in seen
    )
    pids = {name: {one[2] for one in seen if one[0] == name} for name in ("GPU-a", "GPU-b")}
    assert [len(of) for of in pids.values()] == [3, 3]


def test_a_worker_takes_several_gpus(pretend):
    pretend(**{f"GPU_{name}": {} for name in "abcde"})
    engine = Engine(8, gpu=True, devices=2)
    assert engine.workers == 2 and Engine(1, gpu=True, devices=2).workers == 1
    asked = worker_process.worker_options(4, 1, 1, None, "here", 1, 2)
    assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in asked] == ["GPU-a,GPU-b", "GPU-c,GPU-d"]
    with engine:
        assert {one[0] for one in engine.map(surroundings, range(4))} == {"GPU-a,GPU-b", "GPU-c,GPU-d"}
    with pytest.raises(ValueError, match="devices is 6, and GPUs here are 5; give at most that"):
        Engine(1, gpu=True, devices=6)
    with pytest.raises(ValueError, match="--devices is 2, and GPUs to use here are 1"):
        worker_process.worker_options(1, 1, 1, None, None, 1, 2)


def test_a_number_that_is_chosen_is_that_of_the_workers(pretend):
    pretend(GPU_a={}, GPU_b={"free_gb": 30})
    engine = Engine(8, gpu=True, runs_a_gpu=0)
    assert (engine.workers, engine.runs_a_gpu) == (2, 1)
    engine.share([Load("a", 12_000, busy=0.1)])
    assert (
        engine.runs_a_gpu == min(2, max(1, os.cpu_count() // 2)) and engine.workers == 2 * engine.runs_a_gpu
    )
    assert Engine(8).workers == 8 and not Engine(8).on_gpus  # work that wants none may have all processes


def test_the_workers_of_a_machine(pretend, monkeypatch):
    pretend(GPU_a={}, GPU_b={})
    one, two = worker_process.worker_options(None, 1, 2, "10GB", "here")
    assert [one["name"], two["name"]] == ["here-0", "here-1"]
    assert one["env"] == {
        **dict.fromkeys(worker_process.THREAD_VARIABLES, "2"),
        **{"CUDA_VISIBLE_DEVICES": "GPU-a", GPU_SHARE: ""},
    }
    assert one["limit_mb"] == pytest.approx(0.95 * 1e10 / 2**20) and one["nthreads"] == 1
    assert one["resources"] == {"GPU": 1, "GPU_MB": 80_000}
    four = worker_process.worker_options(None, 1, 1, None, "here", 2)
    assert [each["name"] for each in four] == [f"here-{i}" for i in range(4)]
    used = [(each["env"]["CUDA_VISIBLE_DEVICES"], each["env"][GPU_SHARE]) for each in four]
    assert used == [("GPU-a", "0.485"), ("GPU-b", "0.485")] * 2
    hidden = worker_process.worker_options(0, 3, 1, None, None)
    assert len(hidden) == 3 and len({options["name"] for options in hidden}) == 3
    assert all(o["env"]["CUDA_VISIBLE_DEVICES"] == "" and o["resources"] is None for o in hidden)
    with pytest.raises(ValueError, match="--gpus is 3, and 2 are in sight here"):
        worker_process.worker_options(3, 1, 1, None, None)
    with pytest.raises(ValueError, match="--memory is 'much'; give a size"):
        worker_process.worker_options(None, 1, 1, "much", None)
    pretend(GPU_c={"exclusive": True})
    with pytest.raises(ValueError, match=r"runs_a_gpu is 2, and .* takes one process at a time"):
        worker_process.worker_options(None, 1, 1, None, None, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    [only] = worker_process.worker_options(None, 1, 1, None, "here")
    assert only["name"] == "here" and "CUDA_VISIBLE_DEVICES" not in only["env"]


# ---- a GPU that is lost ------------------------------------------------------------------


def needs_its_gpu(file: str) -> str:
    """Fails as a run does whose GPU is gone."""
    time.sleep(0.2)
    name = os.environ["CUDA_VISIBLE_DEVICES"]
    if "error" in json.loads(Path(file).read_text())[name]:
        raise GpuError(f"GPU {name} does not answer any more: it fell off the bus.")
    return name


def breaks_its_process(file: str) -> str:
    """As a kernel that CUDA never forgives, the first time."""
    if not Path(file).exists():
        Path(file).touch()
        raise GpuError("GPU GPU-a does not answer any more: an illegal memory access was encountered.")
    return "well"


def breaks_every_process(_: int) -> None:
    raise GpuError("GPU GPU-a does not answer any more: an illegal memory access was encountered.")


def test_a_run_whose_gpu_vanished_is_computed_on_another(pretend):
    told = pretend(GPU_a={}, GPU_b={})
    with Engine(2, gpu=True) as engine:
        engine.client().wait_for_workers(2, timeout=300)
        told.write_text(json.dumps({"GPU-a": {}, "GPU-b": {"error": "unknown error"}}))
        outcomes = engine.run(needs_its_gpu, [str(told)] * 6)
        assert [(outcome.value, outcome.error) for outcome in outcomes] == [("GPU-a", None)] * 6
        told.write_text(json.dumps({name: {"error": "unknown error"} for name in ("GPU-a", "GPU-b")}))
        ended = []
        with pytest.raises(
            EngineError, match=r"no GPU is left: .*fell off the bus\. What is finished is kept"
        ):
            engine.run(needs_its_gpu, [str(told)] * 3, on_done=ended.append)
        assert not ended  # and so none is recorded as failed
    with pytest.raises(EngineError, match="an illegal memory access"):
        Engine(0).run(breaks_every_process, [0])


def test_a_process_that_cuda_refuses_is_replaced(pretend, tmp_path):
    pretend(GPU_a={})
    with Engine(1, gpu=True) as engine:
        assert engine.map(breaks_its_process, [str(tmp_path / "been here")]) == ["well"]
        [outcome] = engine.run(breaks_every_process, [0])
    assert outcome.reason == (
        "GpuError: GPU GPU-a does not answer any more: an illegal memory access was encountered, and again when it had "
        "the machine for itself."
    )


# ---- workers elsewhere -------------------------------------------------------------------


@pytest.mark.slow
def test_workers_elsewhere_share_their_gpus_and_what_is_too_small_gets_no_runs(pretend, tmp_path):
    pretend(GPU_a={}, GPU_b={})
    with Site(tmp_path / "site") as site:
        site.scheduler()
        site.worker("node", "--runs-a-gpu", "2")
        with Engine(8, **site.arguments, gpu=True) as engine:
            engine.client().wait_for_workers(4, timeout=300)
            engine.share([Load("slow_r50", 20_000)])
            seen = engine.map(surroundings, range(16))
            engine.share([Load("mvit_b", 50_000)])
            dispatch = _Dispatch(engine, surroundings, [0], print)
            dispatch.client = engine.client()
            assert not list(dispatch._look()) and not dispatch.present and len(dispatch.lost) == 4
        assert {one[:2] for one in seen} == {("GPU-a", "0.485"), ("GPU-b", "0.485")}
        assert len({one[2] for one in seen}) == 4
        why = next(iter(dispatch.lost.values()))
        assert re.match(r"node-\d gets no runs: 36\.3 GB of a GPU are its part, and mvit_b needs 50\.0", why)
