"""What was done otherwise than planned is found, and listed."""

import dataclasses
import functools
import json

import pytest
from made_up_results import made_up, plain
from test_claims import PLAN, study_of

from ctlib.analysis import findings, preregistration
from ctlib.analysis.deviations import plan_table
from ctlib.core.workspace import Workspace


@functools.cache
def followed():
    return study_of(made_up(plain({}), n_patients=8))


def listed(study, met=()):
    table = findings.deviations(study, met)
    return {row.what: (row.kind, row.planned, row.done) for row in table.itertuples()}


def test_a_plan_that_was_followed_has_no_deviation():
    assert listed(followed()) == {}
    assert findings.say_deviations(PLAN, findings.deviations(followed())).endswith(
        "followed, without a deviation."
    )


@pytest.mark.parametrize(
    ("change", "what", "planned", "done"),
    [
        ({"baseline": "imagenet"}, "baseline_init of 04_analyze", "random", "imagenet"),
        ({"compared": "random"}, "compared_init of 04_analyze", "video", "random"),
        (
            {"averaged": ["slow_r50"]},
            "averaged of 04_analyze",
            "slow_r50, r2plus1d_r50, swin3d_t",
            "slow_r50",
        ),
        ({"rule": "noisy_or"}, "study_score_rule of 04_analyze", "max", "noisy_or"),
    ],
)
def test_other_parameters_of_the_analysis_are_changes(change, what, planned, done):
    assert listed(dataclasses.replace(followed(), **change))[what] == ("changed", planned, done)


def test_another_level_is_a_change():
    study = followed()
    other = dataclasses.replace(study, how=dataclasses.replace(study.how, level=0.9))
    assert listed(other) == {"level of 04_analyze": ("changed", "0.95", "0.9")}


@pytest.mark.parametrize(
    ("grid", "what", "kind", "done"),
    [
        ({"seeds": [0, 1]}, "seeds of the grid", "incomplete", "without 2"),
        ({"seeds": [0, 1, 2, 3]}, "seeds of the grid", "added", "also 3"),
        ({"fractions": [1.0]}, "fractions of the grid", "incomplete", "without 0.25"),
        ({"tasks": ["rspect_pe"]}, "tasks of the grid", "incomplete", "without lidc_nodule"),
        (
            {"backbones": ["slow_r50", "swin3d_t", "resnet18"]},
            "networks of the grid", "incomplete", "without r2plus1d_r50",
        ),
        (
            {"inits": ("random", "video", "shuffled:video")},
            "starting weights of the grid", "added", "also shuffled:video",
        ),
        ({"inits": ("random",)}, "starting weights of the grid", "incomplete", "without video"),
        (
            {"lost": lambda row: "failed" if row["seed"] == 0 and row["task"] == "rspect_pe" else ""},
            "runs with a test AUROC", "incomplete", "16 failed",
        ),
        ({"label": 1}, "runs with a test AUROC", "incomplete", "96 finished without an AUROC"),
    ],
)  # fmt: skip
def test_another_grid_is_listed(grid, what, kind, done):
    found = listed(study_of(made_up(plain({}), n_patients=8, **grid)))
    assert found[what][0] == kind and found[what][2] == done


def test_inits_from_ct_belong_to_the_plan():
    assert listed(study_of(made_up(plain({}), ("random", "video", "ct_lidc"), n_patients=8))) == {}


def test_a_plan_that_came_after_results_is_a_change():
    first = [{"hash": PLAN.hash, "first_met": "2026-11-27", "n_finished": 0}]
    assert listed(followed(), first) == {}
    late = [{"hash": PLAN.hash, "first_met": "2026-11-28", "n_finished": 12}]
    kind, planned, done = listed(followed(), late)["when the plan was fixed"]
    assert (kind, planned) == ("changed", "before the first result")
    assert done == f"{PLAN.hash} on 2026-11-28, when 12 runs had a result"
    changed = [{"hash": "aaaa", "first_met": "2026-11-27", "n_finished": 0}, *late]
    assert listed(followed(), changed)["when the plan was fixed"][1] == "aaaa, not to be changed"


def test_without_a_plan_all_is_exploratory(tmp_path, capsys):
    study = dataclasses.replace(followed(), plan=None)
    assert listed(study)["the plan"][0] == "changed"
    findings.show_checks(study, Workspace(tmp_path))
    assert "nothing here is confirmatory" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_section_shows_the_plan_its_hash_and_the_deviations(tmp_path, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "ctlib.visualization.figures.table",
        lambda table, caption, folded=False: shown.append((caption, len(table))),
    )
    findings.show_checks(dataclasses.replace(followed(), rule="noisy_or"), Workspace(tmp_path))
    told = capsys.readouterr().out
    assert f"Checks passed: all {len(followed().runs)} runs have a test AUROC." in told
    assert f"Checks not passed: Plan {PLAN.hash}, fixed on" in told and "1 deviation (1 changed)." in told
    assert shown == [("Deviations from the plan", 1), (f"Plan {PLAN.hash}", len(plan_table(PLAN)))]
    assert [entry["hash"] for entry in preregistration.remember(Workspace(tmp_path), PLAN)] == [PLAN.hash]


def test_the_sentence_counts_what_the_table_lists():
    study = dataclasses.replace(followed(), rule="noisy_or", averaged=["slow_r50"])
    table = findings.deviations(study)
    assert findings.say_deviations(PLAN, table).endswith(": 2 deviations (2 changed).")
    assert findings.say_deviations(PLAN, table[:1]).endswith(": 1 deviation (1 changed).")


def test_a_plan_that_was_changed_is_named_field_by_field():
    other = dataclasses.replace(PLAN, margin=0.02, seeds=[0, 1])
    met = [
        {"hash": other.hash, "first_met": "2026-11-27", "n_finished": 0, "said": other.said()},
        {"hash": PLAN.hash, "first_met": "2026-11-28", "n_finished": 12, "said": PLAN.said()},
    ]
    found = listed(followed(), met)
    assert found["margin of the plan"] == ("changed", "0.02", "0.05")
    assert found["seeds of the plan"] == ("changed", "0, 1", "0, 1, 2")
    assert [what for what in found if what.endswith("of the plan")] == [
        "seeds of the plan",
        "margin of the plan",
    ]


def test_a_fixed_parameter_with_another_value_is_a_change(tmp_path):
    work = Workspace(tmp_path)
    work.notebooks.mkdir()
    for name, given in (("01_explore_data", {"phantom_seed": 7}), ("03_finetune_grid", {"epochs": 4})):
        copy = {"metadata": {"papermill": {"parameters": given}}}
        (work.notebooks / f"{name}.ipynb").write_text(json.dumps(copy))
    plan = dataclasses.replace(PLAN, fixed=["phantom_seed=400", "epochs=4", "lr='0.1'"])
    found = listed(dataclasses.replace(followed(), plan=plan, work=work))
    assert found == {"phantom_seed of 01_explore_data": ("changed", "400", "7")}
