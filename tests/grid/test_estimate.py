"""A plan counts what there is, adds up what it says, and needs neither data nor weights."""

import dataclasses
import io
import itertools
import json
import math
import time

import click
import pandas as pd
import pytest
import yaml
from made_up_results import made_up, plain
from noise_cohort import LENGTH, SIDE, write_cohort
from noise_cohort import SETTINGS as SHORT

from ctlib.cli import grid as gridcommands
from ctlib.core import parameters, tables
from ctlib.core.workspace import PROJECT, Places, Workspace
from ctlib.grid import estimate_profile as profile
from ctlib.grid import estimate_text as words
from ctlib.grid import maintenance, step_timing
from ctlib.grid.estimate import (
    CohortSize,
    Setting,
    against,
    batches,
    design_of,
    make,
    run_seconds,
    schedule,
    seconds,
)
from ctlib.grid.maintenance import BEGUN, FAILED, FINISHED, MISSING
from ctlib.grid.step_timing import Timing, kind
from ctlib.metrics.power import ASSUMED, smallest_difference
from ctlib.training.run import Run

SETTINGS = SHORT | {
    **{"matrix_px": 20, "clip_length": 8, "crop_px": 16, "rotation_deg": 5.0},
    **{"epochs": 10, "steps_per_epoch": 50, "data": "d", "weights": "w"},
}
SIZE = CohortSize(
    "rspect",
    {"train": 700, "val": 150, "test": 150},
    {"train": 210, "val": 45, "test": 45},
    {"train": 2100, "val": 450, "test": 451},
    n_slices=24_000,
)
TIMING = Timing(0.2, 0.05, 0.004, 0.001, 900.0, 10_000_000, 10**9, is_measured=True, device="CPU, a")


def run_of(**changes):
    arm = {"task": "rspect_pe", "backbone": "resnet18", "init": "random"}
    return Run(**arm | {"fraction": 1.0, "seed": 0, "lr": 1e-3} | SETTINGS | changes)


def grid(seeds=3):
    axes = itertools.product(range(seeds), (0.1, 1.0), ("resnet18", "slow_r50"), ("random", "video"))
    return [run_of(seed=s, fraction=f, backbone=b, init=i) for s, f, b, i in axes]


def setting(runs, timing=TIMING, **changes):
    return Setting("small", {"rspect": SIZE}, {kind(run): timing for run in runs}, **changes)


# the time of a run


def test_the_time_of_a_run_by_hand():
    train, forward = 0.2 + 4 * 0.004, 0.05 + 4 * 0.001
    epoch = 50 * train + 113 * forward + 16 * 1e7 / 500e6 + 0.15  # 450 clips in batches of 4: 113
    assert seconds(run_of(), SIZE, TIMING) == pytest.approx(0.5 + 10 * epoch + 113 * forward)


def test_clips_are_cut_beside_the_network_or_in_turn():
    slow = dataclasses.replace(TIMING, cut_train_s=0.5, cut_s=0.5)
    in_turn, beside, fast = (seconds(run_of(), SIZE, slow, n) for n in (0, 2, 1000))
    without = seconds(run_of(), SIZE, dataclasses.replace(TIMING, cut_train_s=0.0, cut_s=0.0))
    assert in_turn > 2 * beside > 2 * fast and fast == pytest.approx(without)


@pytest.mark.parametrize(
    ("change", "longer"),
    [
        ({"epochs": 11}, 1.1),
        ({"steps_per_epoch": 100}, 1.5),
        ({"init": "frozen:video"}, 0.5),
        ({"seed": 9}, 1.0),
    ],
)
def test_what_a_run_asks_for_changes_its_time(change, longer):
    found = seconds(run_of(**change), SIZE, TIMING) / seconds(run_of(), SIZE, TIMING)
    assert found == pytest.approx(longer, rel=0.25) and (found == 1) == (longer == 1)


def test_features_are_paid_for_once_and_heads_take_a_second():
    heads = [run_of(init=f"{head}:video", seed=seed) for seed in (1, 2) for head in ("linear", "knn")]
    first, *others = run_seconds(setting(heads), heads)
    assert first > 10 * others[0] and others == [1.5] * 3
    drawn = [run_of(init="linear:random", seed=seed) for seed in (1, 1, 2)]
    assert run_seconds(setting(drawn), drawn) == [first, 1.5, first]


def test_an_epoch_without_a_number_of_steps_is_the_fraction():
    for fraction, n in ((1.0, 525), (0.1, 53), (0.0001, 1)):
        assert batches(run_of(steps_per_epoch=0, fraction=fraction), SIZE) == n
    assert batches(run_of(fraction=0.1), SIZE) == 50
    released = {"fraction": 0.1, "flaws": ("fresh_fraction",)}  # there it is a cap on the batches of an epoch
    assert batches(run_of(**released), SIZE) == 5
    assert batches(run_of(steps_per_epoch=0, **released), SIZE) == 52  # a tenth of 525


def test_the_schedule_is_that_of_a_list():
    assert schedule([], 3) == 0
    assert schedule([1.0, 1.0, 1.0, 5.0], 2) == 5  # the longest first: last it would be 6
    assert schedule([1.0] * 10, 1) == 10 and schedule([1.0] * 10, 3) == 4
    durations = [math.sin(i) ** 2 + 0.1 for i in range(200)]
    for workers in (1, 7, 300):
        bound = max(sum(durations) / workers, max(durations))
        assert bound - 1e-9 <= schedule(durations, workers) <= 4 / 3 * bound  # Graham 1969


# the plan


def test_a_plan_adds_up():
    runs = grid()
    states = [(FINISHED, FAILED, BEGUN, MISSING)[i % 4] for i in range(len(runs))]
    made = make(setting(runs, workers=2), runs, states)
    assert made.count("runs") == 24 == made.count(FINISHED, FAILED, BEGUN, MISSING)
    assert [made.count(state) for state in (FINISHED, FAILED, BEGUN, MISSING)] == [6] * 4
    assert made.n_todo == 12 == made.costs["todo"].sum()
    one = seconds(runs[0], SIZE, TIMING)
    assert made.work_s == pytest.approx(12 * one) == pytest.approx(3600 * made.costs["hours"].sum())
    assert made.wall_s == pytest.approx(6 * one)
    assert len(made.runs) == 8 and (made.runs["runs"] == 3).all()
    assert len(made.costs) == 4  # two networks, two fractions


def test_runs_that_share_a_gpu_take_as_long_as_it_computes():
    runs = grid()
    light, full = (dataclasses.replace(TIMING, busy=busy) for busy in (0.2, 1.0))
    (alone, shared, crowded) = (
        make(setting(runs, timing, workers=4, runs_a_gpu=n), runs, [MISSING] * 24)
        for timing, n in ((light, 1), (light, 4), (full, 4))
    )
    assert shared.wall_s == alone.wall_s and shared.work_s == alone.work_s == crowded.work_s
    assert crowded.wall_s == pytest.approx(4 * 0.2 / (0.2 + 4 * 0.004) * alone.wall_s)  # it waits for clips
    assert "4 workers (4 on a GPU)" in words.total(shared) and words.as_object(shared)["runs_a_gpu"] == 4


def test_runs_that_search_a_learning_rate_are_counted_apart():
    runs = grid()
    search = [(run_of(lr=lr), MISSING) for lr in (1e-2, 1e-3)] + [(run_of(lr=1e-4), FINISHED)]
    plain, made = (make(setting(runs), runs, [MISSING] * 24, extra) for extra in ((), search))
    assert made.n_todo == plain.n_todo + 2 and made.count("runs") == 27
    assert made.work_s > plain.work_s
    assert made.runs.set_index("purpose").loc["search", "runs"] == 3
    assert "search" in words.as_text(made) and "search" not in words.as_text(plain)


def test_disk_by_hand():
    runs = grid()
    made = make(setting(runs, workers=5), runs, [MISSING] * 24)
    disk = made.disk.set_index("what")["n_bytes"]
    assert disk["stored volumes, rspect"] == 24_000 * (2 * 20**2 + 64)
    assert disk["weights of the runs"] == 24 * 4 * 10_000_000
    assert disk["checkpoints while they compute"] == 5 * 24 * 10_000_000
    assert disk["predictions and other tables"] == 24 * (30_000 + 40 * 901)
    done = make(setting(runs), runs, [FINISHED] * 24)
    assert done.disk.set_index("what")["n_bytes"]["checkpoints while they compute"] == 0
    packed = make(setting(runs, store_codec="blosc2"), runs, [MISSING] * 24)
    assert packed.disk["n_bytes"][0] < 0.6 * disk["stored volumes, rspect"]


def test_power_is_that_of_the_test_patients_of_all_folds():
    runs = grid()
    turned = [dataclasses.replace(run, fold=fold) for fold in range(5) for run in runs]
    one, five = (make(setting(some), some, [MISSING] * len(some)) for some in (runs, turned))
    assert one.power.loc[0, ["patients", "with disease"]].tolist() == [150, 45]
    assert five.power.loc[0, ["patients", "with disease"]].tolist() == [750, 225]
    assert (one.design.networks, one.design.seeds) == (1, 3)  # of resnet18 and slow_r50, the 3D one
    from ctlib.metrics.power import Scored

    assert five.power.loc[0, "mean, r=0.5"] == smallest_difference(Scored(225, 525, 5), one.design)


def test_the_spread_of_seeds_is_that_of_finished_runs_or_of_the_size(tmp_path):
    runs, work = grid(), Workspace(tmp_path)
    assert profile.of_seeds(work) is None
    assert make(setting(runs), runs, [MISSING] * 24).design.of_seeds == ASSUMED["tiny"]
    assert design_of([dataclasses.replace(run, size="full") for run in runs]).of_seeds == ASSUMED["full"]
    assert design_of([dataclasses.replace(runs[0], size="full"), *runs]).of_seeds == ASSUMED["tiny"]
    results = made_up(plain({}), seed_sd=0.1, n_patients=300)
    tables.write(results.runs, "runs", work.table("runs"))
    tables.write(results.predictions, "predictions", work.table("predictions"))
    found = profile.of_seeds(work)
    assert found.sd == pytest.approx(0.1, abs=0.03) and found.source == "96 finished runs of this profile"
    made = make(setting(runs, of_seeds=found), runs, [MISSING] * 24)
    assert made.design.of_seeds == found and made.power["SD of seeds"].tolist() == [found.sd]
    assert "(96 finished runs of this profile)" in words.as_text(made).replace("\n", " ")


def test_a_test_split_of_one_class_has_no_power_and_stops_no_plan():
    alone = dataclasses.replace(SIZE, positive={"train": 5, "val": 5, "test": 0})
    runs = grid()
    made = make(dataclasses.replace(setting(runs), sizes={"rspect": alone}), runs, [MISSING] * 24)
    assert made.power.empty and "Power" not in words.as_text(made)


def test_what_was_assumed_is_said():
    runs = [run_of(patience=5)]
    far = dataclasses.replace(TIMING, is_measured=False, device="GPU, assumed: A100")
    known = dataclasses.replace(SIZE, assumed="rspect: as published")
    made = make(dataclasses.replace(setting(runs, far), sizes={"rspect": known}), runs, [MISSING])
    notes = "\n".join(made.notes)
    for part in ("Assumed of rspect: as published.", "resnet18 were not measured", "A100", "stop early"):
        assert part in notes
    assert make(setting([run_of()]), [run_of()], [MISSING]).notes == ()


def test_more_workers_than_fit_into_memory_are_noticed():
    runs = grid()
    (note,) = make(setting(runs, workers=4, memory_mb=2000.0), runs, [MISSING] * 24).notes
    assert "4 workers may need 3.6 GB" in note and note.endswith("take 2.")


def test_people_and_machines_read_the_same():
    runs = grid()
    made = make(setting(runs, workers=3), runs, [FAILED, *[MISSING] * 23])
    read = json.loads(json.dumps(words.as_object(made)))
    assert (read["n_runs"], read["n_failed"], read["n_todo"]) == (24, 1, 23)
    assert sum(row["runs"] for row in read["runs"]) == 24
    assert read["power_assumed"]["auroc"] == 0.85
    text = words.as_text(made)
    told = " ".join(text.split("\n\n")[-1].split())
    assert told.startswith("24 runs: 0 finished, 1 failed (`ctlib retry small`")
    assert f"{words.duration(made.wall_s)} on 3 workers" in told
    assert max(map(len, text.splitlines())) < 120


def test_hours_are_stated_for_two_gpus_whatever_was_measured_here():
    runs = grid()
    fast = dataclasses.replace(TIMING, train_s=TIMING.train_s / 2, is_measured=False)
    there = {"A100": {kind(run): TIMING for run in runs}, "H200": {kind(run): fast for run in runs}}
    made = make(dataclasses.replace(setting(runs), on_gpus=there), runs, [FINISHED, *[MISSING] * 23])
    hours = made.gpus.groupby("gpu")["hours"].sum()
    assert hours["A100"] == pytest.approx(made.work_s / 3600) and hours["H200"] < hours["A100"]
    assert words.gpu_hours(made) in " ".join(words.as_text(made).split()) and "A100, ms" in words.as_text(
        made
    )
    assert {row["gpu"] for row in words.as_object(made)["gpus"]} == {"A100", "H200"}
    assert make(setting(runs), runs, [MISSING] * 24).gpus.empty


def test_what_was_taken_stands_beside_what_was_estimated():
    runs = grid()
    made = make(setting(runs), runs, [MISSING] * 24)
    table = pd.DataFrame([dataclasses.asdict(run) for run in runs]).assign(status="finished", seconds=7.0)
    table.loc[table["backbone"] == "slow_r50", "status"] = "failed"
    found = against(made, table)
    assert found["backbone"].tolist() == ["resnet18"] * 2 and found["runs"].tolist() == [6, 6]
    assert found["estimated_s"].tolist() == [seconds(runs[0], SIZE, TIMING)] * 2
    assert found["share"][0] == pytest.approx(7 / found["estimated_s"][0])


@pytest.mark.slow
def test_a_hundred_thousand_runs_are_planned_in_seconds(tmp_path):
    begun = time.process_time()
    runs = [
        run_of(seed=s, fraction=f / 100, backbone=b, init=i)
        for s in range(250)
        for f in range(1, 51)
        for b in ("resnet18", "slow_r50")
        for i in ("random", "video", "kinetics400", "ct_astra")
    ]
    states = maintenance.states(tmp_path / "runs", [run.run_id for run in runs])
    made = make(setting(runs, workers=64), runs, states)
    words.as_text(made)
    assert len(runs) == 100_000 == made.n_todo
    assert time.process_time() - begun < 10


# the commands


@pytest.fixture
def places(tmp_path):
    """A profile of tiny networks on cohorts of noise, with the parameters of the real notebooks."""
    changes = {
        **{
            "profile": "small",
            "work_dir": str(tmp_path / "work"),
            "cohorts": ["rspect"],
            "phantom_patients": 0,
        },
        **{"tasks": ["rspect_pe"], "backbones": ["resnet18"], "inits": ["random"], "fractions": [0.5, 1.0]},
        **{"seeds": [0, 1], "matrix_px": SIDE, "clip_length": LENGTH, "crop_px": SIDE - 2, "workers": 2},
        **{"split_shares": [0.7, 0.15, 0.15], "controls": []},
    }
    found = Places(params=tmp_path / "params")
    (found.params / "small").mkdir(parents=True)
    for name in (gridcommands.DATA, gridcommands.GRID):
        declared = parameters.declared_parameters(PROJECT / "notebooks" / f"{name}.ipynb")
        values = {key: changes.get(key, parameter.default) for key, parameter in declared.items()}
        (found.params / "small" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return found


@pytest.fixture
def workspace(places, tmp_path):
    made = Workspace(tmp_path / "work")
    write_cohort(made, "rspect")
    return made


def call(places, *arguments):
    """Run a command; what it refuses is raised."""
    group = click.Group(commands={command.name: command for command in gridcommands.COMMANDS})
    group.main([*arguments], standalone_mode=False, obj=places)


def planned(places, capsys, *arguments):
    call(places, "plan", "small", "--json", *arguments)
    return json.loads(capsys.readouterr().out)


def values_of(workspace, **changes):
    """Parameters of the profile's grid."""
    path = workspace.root.parent / "params" / "small" / f"{gridcommands.GRID}.yaml"
    return yaml.safe_load(path.read_text()) | changes


SEARCH = {"lr": "search", profile.LR_RATES: [1e-3, 1e-4, 1e-5], profile.LR_FRACTION: 0.5}


def ids(workspace):
    """Ids of the runs of the profile, as the plan finds them."""
    found = profile.expected(workspace, values_of(workspace))
    assert (found.unknown, found.search_unknown, found.search) == ("", "", [])
    return [run.run_id for run in found.runs]


def leave(workspace, run_id, *names):
    for name in ("run.json", *names):
        path = workspace.runs / run_id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if name.endswith("json") else "ValueError: no.")


def test_the_plan_of_a_profile_counts_what_is_there(places, workspace, capsys):
    first, second, third, _ = ids(workspace)
    leave(workspace, first, "result.json", "weights.safetensors")
    leave(workspace, second, "error.txt")
    leave(workspace, third, "last.ckpt")
    found = planned(places, capsys)
    assert [found[f"n_{s}"] for s in ("runs", "finished", "failed", "begun", "missing")] == [4, 1, 1, 1, 1]
    assert found["n_todo"] == 2 and found["workers"] == 2 and found["notes"] == []
    assert all(row["is_measured"] for row in found["costs"])
    assert found["power"][0]["patients"] == 6
    assert (workspace.root / "calibration.json").is_file()
    assert planned(places, capsys, "--workers", "1")["wall_s"] > found["wall_s"]
    call(places, "plan", "small")
    assert capsys.readouterr().out.split("\n\n")[-1].startswith("4 runs: 1 finished, 1 failed")


def test_a_plan_needs_no_data(places, tmp_path, capsys):
    found = planned(places, capsys, "--no-calibration", "--gpu", "h200")
    assert (found["n_runs"], found["n_missing"]) == (4, 4)
    assert found["power"][0]["patients"] == 1092
    notes = " ".join(found["notes"])
    assert "series.parquet is missing; notebook 01_explore_data writes it" in notes
    assert "7,279 labelled studies" in notes and "H200" in notes and found["gpus"] == []
    assert not (tmp_path / "work" / "tables").exists()


def test_a_search_is_planned_before_the_rates_are_known(workspace, places):
    values = values_of(workspace, **SEARCH)
    before = profile.expected(workspace, values)
    assert len(before.runs) == 4 and [run.lr for run in before.search] == [1e-3, 1e-4, 1e-5]
    assert {(run.fraction, run.seed) for run in before.search} == {(0.5, 0)}
    assert before.unknown == profile.NOT_SEARCHED and before.search_unknown == ""
    rows = [(run.run_id, run.task, run.backbone, run.init, run.lr, "finished", None) for run in before.search]
    columns = ["run_id", "task", "backbone", "init", "lr", "status", "error"]
    table = pd.DataFrame(rows, columns=columns).assign(val_auroc=[0.6, 0.8, 0.7], chosen=[False, True, False])
    table.to_parquet(workspace.table("search"))  # of before rates could be chosen by accuracy
    after = profile.expected(workspace, values)
    assert after.unknown == "" and {run.lr for run in after.runs} == {1e-4}
    assert after.search == before.search


def test_a_run_that_searches_and_belongs_to_the_grid_counts_once(places, workspace, capsys, monkeypatch):
    values = values_of(workspace, **SEARCH)
    values = {"01_explore_data": values, gridcommands.GRID: values}
    monkeypatch.setattr(gridcommands, "load", lambda *_: values)
    monkeypatch.setattr(step_timing, "measure", lambda *_: pytest.fail("it measures"))
    found = planned(places, capsys, "--no-calibration")
    assert not any(row["is_measured"] for row in found["costs"])
    assert found["n_runs"] == 4 + 3 - 1
    assert "learning rates have not been searched" in found["notes"][0]


def test_runs_with_a_negative_control_are_planned_too(workspace, places):
    values = values_of(workspace, controls=["permuted_labels"], control_backbones=["resnet18"])
    found = profile.expected(workspace, values)
    assert [(run.control, run.fraction) for run in found.runs[4:]] == [("permuted_labels", 1.0)] * 2
    with pytest.raises(ValueError, match="control_backbones has slow_r50, which the experiment"):
        profile.expected(workspace, values | {"control_backbones": ["slow_r50"]})


def test_wrong_settings_are_refused(places, workspace):
    for override, told in (("03.backbones=['resnet19']", "resnet19"), ("03.crop_px=0", "0 px")):
        with pytest.raises(click.ClickException, match=told) as refused:
            call(places, "plan", "small", "--set", override)
        assert refused.value.exit_code == 2


def test_a_validation_split_of_one_class_is_refused(places, workspace):
    path = workspace.table("series", "rspect")
    tables.write(pd.read_parquet(path).assign(label=0), "series", path)
    with pytest.raises(click.ClickException, match="no AUROC can choose the best epoch"):
        call(places, "plan", "small")


def test_retry_tells_what_it_lets_go_on(places, workspace, capsys):
    first, second, *_ = ids(workspace)
    leave(workspace, first, "error.txt")
    leave(workspace, second, "error.txt")
    call(places, "retry", "small", first)
    out = capsys.readouterr().out
    assert first in out and second not in out and "1 runs continue from their last epoch" in out
    with pytest.raises(click.ClickException, match=f"run {first} is begun, not failed"):
        call(places, "retry", "small", first)
    call(places, "retry", "small", "--from-start")
    assert "1 runs start again from the beginning" in capsys.readouterr().out
    call(places, "retry", "small")
    assert capsys.readouterr().out == "No run has failed.\n"


def test_prune_asks_first(places, workspace, capsys, monkeypatch):
    first, second, *_ = ids(workspace)
    leave(workspace, first, "result.json", "weights.safetensors", "predictions.parquet")
    leave(workspace, second, "last.ckpt")
    leave(workspace, "of another grid", "last.ckpt")
    weights = workspace.runs / first / "weights.safetensors"
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    with pytest.raises(click.Abort):
        call(places, "prune", "small")
    assert "weights of finished runs: 1 files" in capsys.readouterr().out and weights.exists()
    call(places, "prune", "small", "--keep-weights", "--yes")
    assert "holds nothing that can be deleted" in capsys.readouterr().out
    call(places, "prune", "small", "--yes", "--stale")
    assert not weights.exists() and (workspace.runs / first / "predictions.parquet").exists()
    assert (workspace.runs / second / "last.ckpt").exists()
    assert not (workspace.runs / "of another grid" / "last.ckpt").exists()


def test_what_is_stale_is_not_guessed(places, tmp_path):
    with pytest.raises(
        click.ClickException, match=r"--stale: the runs of the profile have no ids yet: .*series\.parquet"
    ):
        call(places, "prune", "small", "--stale", "--yes")
