import io
import json
import signal
import subprocess
import sys
import time

import nifti_writer
import numpy as np
import pandas as pd
import psutil
import pytest
from sample_project import code, markdown, project

from ctlib.cli import __main__ as cli
from ctlib.core import parameters, progress
from ctlib.core.pseudonyms import DEFAULT_KEY, Identity
from ctlib.core.workspace import HOME, PROJECT, Workspace, write_json, write_text


def ctlib(*arguments):
    command = [sys.executable, "-m", "ctlib", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def started(places, *arguments):
    """`python -m ctlib` on other places, as a process of its own."""
    names = ", ".join(f"Path({str(p)!r})" for p in (places.notebooks, places.params, places.reports))
    source = (
        "from pathlib import Path; from ctlib.cli.__main__ import main; from ctlib.core.workspace import Places; "
        f"main({list(arguments)!r}, Places({names}, {places.names!r}))"
    )
    command = [sys.executable, "-c", source]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a test run in the background of a shell ignores Ctrl-C, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def called(places, *arguments):
    """Exit code of `main` in this process."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments), places)
    signal.signal(signal.SIGTERM, before)
    return left.value.code


# ---- what is refused ---------------------------------------------------------------------


BAD_LABELS = {
    "empty": (b"", "is empty (0 bytes)"),
    "workbook": (b"PK\x03\x04" + bytes(60), "is an Excel workbook"),
    "ragged": (b"study,label,patient\nb/000,0,A,x,y\n", "data row 1: 5 cells under a header of 3"),
    "Latin-1": (b"study,label,patient\nb/000,0,M\xfcller\n", "data row 1: patient is not in UTF-8"),
    "lost zeros": (
        b"study,label,patient\n0,0,A\n1,1,B\n",
        "data row 1: study is '0'; it names no volume, but '000'",
    ),
    "no match": (
        b"study,label,patient\nfoo/000,0,A\n",
        "has the study 'foo/000', a valid one is 'b/000.nii'; it begins with folders",
    ),
    "elsewhere": (b"study,label,patient\n/x/b/000,0,A\n", "its path is absolute, of another folder"),
    "label": (b"study,label,patient\nb/000,yes,A\n", "data row 1: label is 'yes'; it must be 0 or 1"),
    "no column": (b"scan,label,patient\nb/000,0,A\n", "has no column study; its columns are scan, label"),
    "missing": (None, "labels.csv is missing"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_of_a_folder_are_one_sentence_before_anything_runs(tmp_path, capsys, case):
    data, said = BAD_LABELS[case]
    root, labels = tmp_path / "data", tmp_path / "labels.csv"
    for i in range(2):
        (root / "b").mkdir(parents=True, exist_ok=True)
        nifti_writer.write(root / "b" / f"00{i}.nii", nifti_writer.volume(i))
    if data is not None:
        labels.write_bytes(data)
    places = {"folder_root": root, "folder_labels": labels, "work_dir": tmp_path / "work"}
    sets = [word for key, value in places.items() for word in ("--set", f"{key}={value}")]
    assert called(HOME, "run", "folder", *sets) == 2
    told = capsys.readouterr()
    assert said in told.err and told.out == "" and len(told.err.strip().splitlines()) == 1
    assert not (tmp_path / "work").exists()


def test_a_misspelt_parameter_is_refused_before_anything_heavy_is_imported():
    begun = time.monotonic()
    done = ctlib("run", "demo", "--only", "03", "--set", "04_analyze.seedz=1")
    assert time.monotonic() - begun < 5
    assert done.returncode == 2 and done.stdout == ""
    assert "04_analyze.seedz is no parameter" in done.stderr and "'bootstrap_seed'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_imports_nothing_heavy():
    heavy = "{'torch', 'pandas', 'numpy', 'papermill', 'nbconvert', 'nbformat', 'IPython'}"
    source = f"import sys, ctlib.cli.__main__; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", source], cwd=PROJECT, capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(
    "command",
    [
        "",
        "run",
        "scan",
        "predict",
        "runs",
        "report",
        "fetch",
        "prepare",
        "verify",
        "networks",
        "worker",
        "plan",
        "retry",
        "prune",
    ],
)
def test_every_command_has_a_help_page(command):
    done = ctlib(*[part for part in (command, "--help") if part])
    assert done.returncode == 0 and "Usage: python -m ctlib" in done.stdout
    assert "..." not in done.stdout.replace("]...", "")  # no sentence is cut off; ]... is an argument


@pytest.fixture
def places(tmp_path):
    return project(tmp_path, [], [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "smal"], "no profile 'smal'; the nearest name is 'small'"),
        (["run", "small", "--only", "02_stpe"], "no such notebook; the nearest name is '02_step'"),
        (["run", "small", "--only", "07"], "no such notebook"),
        (
            ["scan", "nowhere"],
            "nowhere is no folder; give a folder of DICOM, NIfTI, MetaImage or NRRD files.",
        ),
        (["predict", "0123", "nowhere", "--profile", "small"], "holds no run; `python -m ctlib runs"),
    ],
)
def test_wrong_arguments_are_one_sentence(places, capsys, arguments, said):
    assert called(places, *arguments) == 2
    assert said in capsys.readouterr().err


def test_runs_that_were_not_made_name_the_notebook_that_makes_them(places, capsys):
    assert called(places, "runs", "small") == 0
    assert "No run was started; notebook 03_finetune_grid does." in capsys.readouterr().out
    assert called(places, "runs", "small", "--failed") == 0
    assert "No run has failed." in capsys.readouterr().out


# ---- run ---------------------------------------------------------------------------------


def test_a_failure_is_reported_and_what_comes_after_does_not_run(tmp_path, capsys):
    well = [markdown("## Do it"), code("print('It is done.')", "finding")]
    bad = [markdown("## Break"), code("print('before')"), code("1 / 0")]
    places = project(tmp_path, well, bad, well)
    assert called(places, "run", "small") == 1
    told = capsys.readouterr()
    assert "02_step failed in cell [" in told.err and "ZeroDivisionError: division by zero" in told.err
    assert "Traceback" not in told.err and "[1 of 3] 01_step done" in told.out
    pages = {path.name for path in (places.reports / "small").iterdir()}
    assert pages == {"01_step.html", "02_step.html", "index.html"}
    index = (places.reports / "small" / "index.html").read_text()
    assert "Stale:" not in index  # what was just made is of what lies here
    assert "It is done." in index and index.count(">not run<") == 1 and index.count(">failed<") == 1
    page = (places.reports / "small" / "02_step.html").read_text()
    assert "This notebook failed." in page and "before" in page

    (places.reports / "small" / "01_step.html").unlink()
    assert called(places, "report", "small") == 0
    assert "01_step done" in capsys.readouterr().out and (places.reports / "small" / "01_step.html").is_file()

    assert called(places, "run", "small", "--only", "3", "--set", "seeds=[7]") == 0
    assert "[1 of 1] 03_step done" in capsys.readouterr().out
    assert "<code>[7]</code>" in (places.reports / "small" / "03_step.html").read_text()
    assert called(places, "report", "small") == 0
    assert "03_step done, stale: seeds differs from the parameter file: " in capsys.readouterr().out
    assert "It is done." in (places.reports / "index.html").read_text()


def test_a_second_run_executes_nothing_until_something_changes(tmp_path, capsys):
    places = project(tmp_path, [markdown("## Do it"), code("print('It is done.')", "finding")])
    work = Workspace.at(parameters.load_profile("small", (), places)["01_step"]["work_dir"])
    page = places.reports / "small" / "01_step.html"

    def executed(*more):
        page.unlink(missing_ok=True)
        assert called(places, "run", "small", *more) == 0
        told = capsys.readouterr().out
        assert page.is_file()
        assert ("[1 of 1] 01_step done" in told) != ("Nothing has changed" in told)
        return "01_step done" in told

    assert executed() and not executed()
    assert executed("--again") and executed("--only", "1") and executed() and not executed()
    assert executed("--set", "seeds=[7]") and not executed("--set", "seeds=[7]") and executed()
    table = work.table("runs")
    table.parent.mkdir(parents=True)
    table.write_bytes(b"new")
    assert executed() and not executed()
    params = next((places.params / "small").glob("0*.yaml"))
    params.write_text(params.read_text() + "\n# why\n")
    assert executed() and not executed()
    failed = work.runs / "0123456789ab"
    failed.mkdir(parents=True)
    (failed / "run.json").write_text("{}")
    (failed / "error.txt").write_text("ValueError: no")
    assert executed() and executed()  # a run that failed is tried again


WORK = """
import time
from ctlib.grid.engine import Engine
with Engine(1) as engine:
    engine.client()
    Path({ready!r}).write_text("ready")
    engine.run(time.sleep, [60])
"""


STOPPED = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "left_with"), STOPPED)
def test_nothing_outlives_a_command_that_is_stopped(tmp_path, number, left_with):
    ready = tmp_path / "ready"
    places = project(tmp_path, [markdown("## Work"), code(WORK.format(ready=str(ready)))])
    command = started(places, "run", "small")
    while not ready.exists():
        assert command.poll() is None, command.stderr.read()
        time.sleep(0.05)
    children = psutil.Process(command.pid).children(recursive=True)
    assert len(children) >= 3  # kernel, resource tracker, worker
    command.send_signal(number)
    _, told = command.communicate(timeout=60)
    assert command.returncode == left_with
    assert "Traceback" not in told and ("Stopped." in told) == (number == signal.SIGINT)
    deadline = time.monotonic() + 20
    while alive := [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


# ---- the bar -----------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_the_bar_tells_notebook_run_and_time_left(tmp_path, stream, monkeypatch):
    monkeypatch.setattr(progress, "POLL_S", 0.05)
    path = tmp_path / "progress.json"
    state = progress.State("finetuning runs", 3, 9, time.time() - 300)
    write_json(path, {"what": state.what, "done": 3, "total": 9, "started_s": state.started_s, "note": ""})
    with progress.Bar(4, stream, every_s=0.05).notebook("03_finetune_grid", 3, path) as on_section:
        on_section("The runs")
        time.sleep(0.4)
        path.unlink()
        time.sleep(0.4)
    shown = stream.getvalue()
    assert "[3 of 4] 03_finetune_grid: finetuning runs, 3 of 9, about 10 min left" in shown
    assert "[3 of 4] 03_finetune_grid: The runs" in shown
    assert ("\r" in shown) == stream.isatty()


# ---- scan and predict --------------------------------------------------------------------


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """One series of a phantom patient, and a file that is none."""
    from ctlib.datasets.synthetic.ct import write_patient

    root = tmp_path_factory.mktemp("dicom")
    write_patient("lidc", str(root), 0, 0)
    folder = next(root.rglob("*.dcm")).parent
    write_text(root / "notes.txt", "nothing")
    return folder


def test_scan_accounts_for_every_file(series, capsys, places):
    root = next(parent for parent in series.parents if (parent / "notes.txt").exists())
    assert called(places, "scan", str(root), "--json", "--paths", "--id-key", "public") == 0
    found = json.loads(capsys.readouterr().out)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert sum(row["n_files"] for part in found.values() for row in part) == len(files)
    assert [row["where"] for row in found["problems"]] == ["notes.txt"]
    assert found["series"][0]["where"] == str(series.relative_to(root))
    assert called(places, "scan", str(root), "--id-key", "public") == 0
    told = capsys.readouterr().out
    assert "Refused files: 1\n" in told and "notes" not in told
    assert found["series"][0]["series_uid"] in told  # the name that tables have for it


def test_a_long_reason_is_shown_whole(capsys):
    reason = "its slices are not where they should be " * 4 + "; export it again."
    cli.show(pd.DataFrame({"n_files": [1, 20], "reason": [reason, "it is short"], "where": [None, "b"]}))
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert reason in first and "None" not in first
    assert first.index("its") == second.index("it is")  # aligned, so that the eye finds them


@pytest.fixture
def finished(places):
    """A finished run of the profile `small`, with weights that were never trained."""
    from ctlib.core.parameters import load_profile
    from ctlib.core.workspace import Workspace
    from ctlib.models.weights.load import Init, build_network, save_weights
    from ctlib.training.run import Run

    run = Run(
        task="lidc_nodule", backbone="slow_r50", init="random", fraction=1.0, seed=0, lr=0.001, size="tiny",
        matrix_px=56, clip_length=16, crop_px=48, rotation_deg=10.0, epochs=1, steps_per_epoch=1,
        batch_size=8, weight_decay=0.0, optimizer="adamw", schedule="constant", patience=0,
        precision="fp32", study_label="exam", data="d", weights="",
    )  # fmt: skip
    workspace = Workspace.at(load_profile("small", (), places)["01_step"]["work_dir"])
    folder = workspace.runs / run.run_id
    made, _ = build_network("slow_r50", "tiny", Init("random", "s", "l", (0.3,), (0.2,)), seed=5)
    save_weights(made, folder / "weights.safetensors", {})
    write_json(folder / "run.json", {**run.__dict__, "run_id": run.run_id})
    write_json(folder / "result.json", {})
    return workspace, run, made


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder where a key may be made."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_predict_scores_every_clip_with_the_weights_of_the_run(series, finished, places, capsys):
    import torch

    from ctlib.datasets.clips import ClipSettings, cut
    from ctlib.datasets.store import shrink
    from ctlib.io.volume import read_series

    workspace, run, made = finished
    assert called(places, "predict", run.run_id, str(series), "--profile", "small") == 0
    told = capsys.readouterr().out
    assert "no diagnosis" in told
    volume = read_series(series)
    name = Identity.at(DEFAULT_KEY, workspace.root).series(volume.series_uid)
    folder = workspace.root / "predict" / f"{run.run_id}_{name}"
    table = pd.read_csv(folder / "scores.csv")
    assert table["start"].iloc[0] == 0 and table["stop"].iloc[-1] == len(volume.hu)
    assert (table["start"].iloc[1:].to_numpy() == table["stop"].iloc[:-1]).all()
    half = volume.spacing_mm[0] / 2
    assert table["low_mm"].iloc[0] == pytest.approx(volume.z_mm[0] - half)
    assert table["high_mm"].iloc[-1] == pytest.approx(volume.z_mm[-1] + half)

    last = table.iloc[-1]
    clip = cut(shrink(volume.hu, 56), int(last["start"]), int(last["stop"]), ClipSettings(16, 48, "lung"))
    with torch.inference_mode():
        wanted = torch.sigmoid(made.eval()(torch.from_numpy(clip)[None])).item()
    assert last["score"] == pytest.approx(wanted, abs=1e-5)
    assert np.ptp(table["score"]) > 1e-4  # clips differ, so another clip's score would be noticed
    assert (folder / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_predict_refuses_what_it_cannot_use(series, finished, places, capsys, tmp_path):
    workspace, run, _ = finished
    (tmp_path / "empty").mkdir()
    assert called(places, "predict", run.run_id, str(tmp_path / "empty"), "--profile", "small") == 2
    (workspace.runs / run.run_id / "result.json").unlink()
    assert called(places, "predict", run.run_id, str(series), "--profile", "small") == 2
    told = capsys.readouterr().err
    assert (
        "there are no DICOM files" in told
        and f"run {run.run_id} is not finished" in told
        and "Traceback" not in told
    )
