import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

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
    """`ctlib` on other places, as a process of its own."""
    folders = ", ".join(f"Path({str(p)!r})" for p in (places.notebooks, places.params, places.reports))
    source = (
        "from pathlib import Path; from ctlib.cli.__main__ import main; from ctlib.core.workspace import Places; "
        f"main({list(arguments)!r}, Places({folders}, {places.names!r}, Path({str(places.work)!r})))"
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


def work_of(places):
    return Workspace.at(parameters.load_profile("small", (), places)["01_step"]["work_dir"])


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


@pytest.mark.slow  # torch is imported, once
def test_a_network_that_does_not_exist_is_refused_before_the_notebooks_that_come_first(tmp_path, capsys):
    work = tmp_path / "work"
    assert called(HOME, "run", "smoke", "--set", f"work_dir={work}", "--set", "backbones=['resnext5']") == 2
    told = capsys.readouterr()
    assert "backbone is 'resnext5'; the nearest name is 'resnext101'" in told.err and told.out == ""
    other = "02_pretrain.pretrain_exceptions=['s3d.lr=0.1']"
    assert called(HOME, "run", "smoke", "--set", f"work_dir={work}", "--set", other) == 2
    assert "02_pretrain: exceptions has 's3d.lr=0.1'; give" in capsys.readouterr().err
    assert not work.exists()


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
    assert done.returncode == 0 and "Usage: ctlib" in done.stdout
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
        (["predict", "0123", "nowhere", "--profile", "small"], "holds no run; `ctlib runs"),
    ],
)
def test_wrong_arguments_are_one_sentence(places, capsys, arguments, said):
    assert called(places, *arguments) == 2
    assert capsys.readouterr().err.count(said) == 1


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
    pages = work_of(places).reports
    assert {path.name for path in pages.iterdir()} == {"01_step.html", "02_step.html", "index.html"}
    index = (pages / "index.html").read_text()
    assert "Outdated:" not in index  # what was just made is of what lies here
    assert "It is done." in index and index.count(">not run<") == 1 and index.count(">failed<") == 1
    page = (pages / "02_step.html").read_text()
    assert "This notebook failed." in page and "before" in page

    (pages / "01_step.html").unlink()
    assert called(places, "report", "small") == 0
    assert "01_step done" in capsys.readouterr().out and (pages / "01_step.html").is_file()


def test_what_was_made_with_set_is_current_and_its_advice_repeats_the_settings(tmp_path, capsys):
    places = project(tmp_path, [markdown("## A")], [markdown("## B")])
    page = work_of(places).reports / "02_step.html"
    setting = ("--set", "seeds=[7, 8]")
    assert called(places, "run", "small", "--only", "2", *setting) == 0
    assert "<code>[7, 8]</code>" in page.read_text()
    assert called(places, "report", "small") == 0
    assert "02_step done, with --set 'seeds=[7, 8]': " in capsys.readouterr().out
    assert "Outdated:" not in page.read_text()

    for name in ("01", "02"):  # which share the parameter
        path = places.params / "small" / f"{name}_step.yaml"
        path.write_text(path.read_text().replace("rate: 0.25", "rate: 0.75"))
    assert called(places, "report", "small") == 0
    assert "outdated: rate differs from the parameter file: " in capsys.readouterr().out
    command = "ctlib run small --only 02 --set 'seeds=[7, 8]'"
    assert (
        "Outdated: rate differs from the parameter file." in page.read_text() and command in page.read_text()
    )
    assert called(places, "retry", "small", "0123", *setting) == 2  # it has no grid
    assert called(places, "predict", "0123", "nowhere", "--profile", "small", *setting) == 2
    assert "`ctlib runs small --set 'seeds=[7, 8]'` lists" in capsys.readouterr().err


def test_a_trial_leaves_what_is_finished_and_the_committed_pages_alone(tmp_path, capsys):
    places = project(tmp_path, [markdown("## A"), code("print(f'Seeds {seeds}.')", "finding")])
    good = work_of(places)

    def contents():
        files = [
            path for folder in (places.reports, good.root) for path in folder.rglob("*") if path.is_file()
        ]
        return {path: path.read_bytes() for path in files}

    assert called(places, "run", "small") == 0
    assert f"Read {good.reports / 'index.html'}" in capsys.readouterr().out
    before = contents()
    trial = ("--set", f"work_dir={tmp_path / 'trial'}", "--set", "seeds=[7]")
    assert called(places, "run", "small", *trial) == 0
    assert (
        contents() == before and "Seeds [7]." in (tmp_path / "trial" / "reports" / "index.html").read_text()
    )
    listed = (tmp_path / "index.html").read_text()
    assert (
        'href="work%20%7Brate%7D/reports/index.html"' in listed
        and 'href="trial/reports/index.html"' in listed
    )
    assert "Seeds [0, 1]." in listed and "Seeds [7]." in listed
    assert 'href="../../index.html"' in (tmp_path / "trial" / "reports" / "01_step.html").read_text()
    elsewhere = tmp_path / "deep" / "er"
    assert called(places, "run", "small", "--set", f"work_dir={elsewhere}") == 0
    assert "All profiles" not in (elsewhere / "reports" / "index.html").read_text()

    shutil.copytree(places.params / "small", places.params / "mine")
    params = places.params / "mine" / "01_step.yaml"
    params.write_text(params.read_text().replace("profile: small", "profile: mine"))
    capsys.readouterr()
    assert called(places, "run", "mine") == 2 and contents() == before
    assert f"{good.root} holds notebooks and reports of profile 'small'" in capsys.readouterr().err

    assert called(places, "report", "small", "--publish") == 0
    published = places.reports / "small"
    assert f"Read {published / 'index.html'}" in capsys.readouterr().out
    assert {path.name for path in published.iterdir()} == {"01_step.html", "index.html"}
    assert 'href="small/index.html"' in (places.reports / "index.html").read_text()
    assert 'href="../index.html"' in (published / "01_step.html").read_text()
    assert {path: data for path, data in contents().items() if good.root in path.parents} == before


FAILED = r"""
import json
from ctlib.core import Workspace, tables
from ctlib.core.workspace import write_text
work = Workspace.at(work_dir)
rows = []
for i, status in enumerate(["finished", "failed", "failed"]):
    rows.append(dict.fromkeys([column.name for column in tables.SCHEMAS["runs"]]))
    rows[-1] |= dict(run_id=f"r{i}", task="t", backbone="net", init="ours" if i else "random", fraction=1.0)
    rows[-1] |= dict(seed=i, fold=0, lr=0.1, status=status)
    write_text(work.runs / f"r{i}" / "run.json", json.dumps(dict(rows[-1], epochs=i, size="tiny")))
    if i:
        told = 'Traceback\n  File "a.py", line 1, in f\n    raise E(\n    ^^^^^\nE: names do not fit;\n  a, b\n'
        write_text(work.runs / f"r{i}" / "error.txt", told)
tables.write(tables.pd.DataFrame(rows), "runs", work.table("runs"))
"""


def test_runs_that_failed_are_told_last_and_the_exit_status_says_so(tmp_path, capsys):
    places = project(tmp_path, [], [], [markdown("## Grid"), code(FAILED)])
    places = replace(places, names=(*places.names[:2], "03_finetune_grid"))
    for folder, ending in ((places.notebooks, "ipynb"), (places.params / "small", "yaml")):
        (folder / f"03_step.{ending}").rename(folder / f"03_finetune_grid.{ending}")
    book = places.notebooks / "03_finetune_grid.ipynb"
    book.write_text(book.read_text().replace("03_step", "03_finetune_grid"))
    trial = ("--set", "seeds=[7]")
    assert called(places, "run", "small", *trial) == 1
    told = capsys.readouterr()
    assert "[3 of 3] 03_finetune_grid done" in told.out and "Read " in told.out
    assert (
        "Error: 2 of 3 runs failed:\n  init ours, network net: 2 of 2: E: names do not fit; a, b\n"
        in told.err
    )
    assert "`ctlib runs small --failed --set 'seeds=[7]'` lists them." in told.err
    assert "`ctlib retry small --set 'seeds=[7]'`, then `ctlib run small --set 'seeds=[7]'`." in told.err
    assert called(places, "run", "small", "--only", "3", "--allow-failed", *trial) == 0
    assert "2 of 3 runs failed" in capsys.readouterr().err
    assert called(places, "run", "small", "--only", "1", *trial) == 0
    capsys.readouterr()

    assert called(places, "runs", "small", "--failed") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["r1", "r2"]
    assert all(row.endswith("E: names do not fit; a, b") for row in rows[1:])


def test_runs_that_look_alike_are_told_apart(tmp_path, capsys):
    places = project(tmp_path, [])
    shown = {"task": "t", "backbone": "n", "init": "i", "fraction": 1.0, "seed": 0, "size": "tiny"}
    for run_id, more in {"a": {"epochs": 4, "lr": 0.1}, "b": {"epochs": 8, "lr": 0.1}}.items():
        write_json(work_of(places).runs / run_id / "run.json", shown | more)
    assert called(places, "runs", "small") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "run_id",
        "task",
        "backbone",
        "init",
        "fraction",
        "seed",
        "epochs",
        "status",
        "val_auroc",
        "seconds",
    ]
    assert [row.split()[6] for row in rows] == ["4", "8"]
    write_json(work_of(places).runs / "b" / "run.json", shown | {"seed": 1, "epochs": 8, "lr": 0.1})
    assert called(places, "runs", "small") == 0
    assert "epochs" not in capsys.readouterr().out and called(places, "runs", "small", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["run_id"] == "a"
    figures = {"val_auroc": 0.7, "seconds": 3.0, "peak_memory_mb": 1500.5, "peak_gpu_mb": None}
    write_json(work_of(places).runs / "a" / "result.json", figures)  # on a CPU
    assert called(places, "runs", "small") == 0
    told = capsys.readouterr().out
    assert "1500.5" in told and told.split("\n")[0].endswith("seconds  peak_memory_mb")
    write_json(work_of(places).runs / "a" / "result.json", figures | {"peak_gpu_mb": 20480.0})
    assert called(places, "runs", "small") == 0 and "20480" in capsys.readouterr().out


def test_a_second_run_executes_nothing_until_something_changes(tmp_path, capsys):
    places = project(tmp_path, [markdown("## Do it"), code("print('It is done.')", "finding")])
    work = work_of(places)
    page = work.reports / "01_step.html"

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
    from ctlib.models.weights.load import Init, build_network, save_weights
    from ctlib.training.run import Run

    run = Run(
        task="lidc_nodule", backbone="slow_r50", init="random", fraction=1.0, seed=0, lr=0.001, size="tiny",
        matrix_px=56, clip_length=16, crop_px=48, rotation_deg=10.0, epochs=1, steps_per_epoch=1,
        batch_size=8, weight_decay=0.0, optimizer="adamw", schedule="constant", patience=0,
        precision="fp32", study_label="exam", data="d", weights="",
    )  # fmt: skip
    workspace = work_of(places)
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


def test_predict_and_report_as_json(series, finished, places, capsys):
    _, run, _ = finished
    assert called(places, "predict", run.run_id, str(series), "--profile", "small", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run_id"] == run.run_id and found["files"][1].endswith("scores.png")
    assert all(0 <= clip["score"] <= 1 for clip in found["clips"]) and "no diagnosis" in found["note"]
    assert called(places, "run", "small", "--only", "1", "--set", "seeds=[7]") == 0
    capsys.readouterr()
    assert called(places, "report", "small", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    page = str(work_of(places).reports / "01_step.html")
    assert first == dict(notebook="01_step", status="done", set=["seeds=[7]"], stale=[], page=page)
    assert second["status"] == "not run" and second["page"] is None


def test_a_log_has_times_levels_and_what_failed(tmp_path, capsys):
    places = project(tmp_path, [markdown("## Break"), code("1 / 0")])
    log = tmp_path / "ctlib.log"
    assert called(places, "--log-file", str(log), "run", "small") == 1
    assert called(places, "--log-file", str(log), "--log-level", "error", "run", "smal") == 2
    lines = log.read_text().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (INFO|ERROR) ctlib\.cli", line) for line in lines
    )
    assert "INFO ctlib.cli: 01_step begins" in log.read_text() and "DEBUG" not in log.read_text()
    assert "ERROR ctlib.cli: 01_step failed in cell [" in lines[-2] and "no profile 'smal'" in lines[-1]
    assert called(places, "--log-file", str(tmp_path), "run", "small") == 2
    assert called(places, "--log-file", str(log / "no"), "runs", "small") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert called(places, "--log-file", str(log), "--log-level", "debug", "run", "small") == 1
    assert "DEBUG ctlib.cli.notebooks: 01_step: cell 5 of section 'Break'" in log.read_text()


def test_the_tab_key_completes_commands_and_profiles():
    words_said = {
        "ctlib pre": "plain,predict\nplain,prepare",
        "ctlib run nod": "plain,nodulemnist3d\nplain,nodules",
    }
    for words, said in words_said.items():
        asked = {"_CTLIB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-m", "ctlib"],
            cwd=PROJECT,
            env=os.environ | asked,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == said
    (told,) = re.findall(r"eval \"\$\(.*\)\"", cli.cli.help)
    assert told == 'eval "$(_CTLIB_COMPLETE=bash_source ctlib)"'


def test_what_takes_long_says_what_it_does(capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.05)
    with progress.doing("Reading"):
        time.sleep(0.2)
    with progress.doing("Nothing"):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().err == "Reading ...\n"
