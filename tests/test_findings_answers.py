"""The questions: what is said comes from the table, and what is missing is said."""

import dataclasses
import functools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from made_up_results import made_up, plain
from test_findings_claims import study_of

from ctlib import findings, stats
from ctlib.figures.display import figure_html
from ctlib.findings import calibrated, speed
from ctlib.workspace import Workspace

CONTROLS = ["shuffled:video", "first_2:video", "flat:video", "reversed:video", "frozen:video"]
GAINS = {"video": 0.14, "ct_lidc": 0.04, "video+ct_lidc": 0.16, "flat:video": 0.05, "reversed:video": 0.13}


@functools.cache
def whole():
    """A study that answers everything."""
    return study_of(
        made_up(plain(GAINS), ("random", *GAINS, "shuffled:video", "first_2:video", "frozen:video"))
    )


@functools.cache
def answered(key):
    return findings.answer(key, whole())


ANSWERED = [key for key in findings.QUESTIONS if key not in ("looks", "groups")]
"""Questions that need no exam, so that made-up tables are enough."""


def numbers(text):
    return re.findall(r"[+−]?\d[\d,]*(?:\.\d+)?", text)


@pytest.mark.slow
@pytest.mark.parametrize("key", ANSWERED)
def test_a_question_has_a_sentence_a_table_and_a_figure(key):
    found = answered(key)
    assert len(found.table) and found.sentence and not found.sentence.startswith("No answer")
    asked = found.question
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = figure_html(asked.draw(found.study, found.table), asked.alt, asked.caption(found.table))
    assert "image/svg+xml" in html and len(html) < 170_000
    assert set(asked.columns) <= set(found.table.columns)


@pytest.mark.parametrize("key", ANSWERED)
def test_another_table_gives_another_sentence(key):
    """Each column that is said is changed in turn; the sentence follows, and says what the table holds."""
    asked, table = findings.QUESTIONS[key], answered(key).table
    before, followed = asked.say(table), []
    for name in table.select_dtypes("number").columns:
        changed = table.copy()
        changed[name] = changed[name].astype(float) + (1 if name.startswith("n_") else 0.111)
        if asked.say(changed) != before:
            followed.append(name)
    assert SAID[key] <= set(followed), followed


SAID = {
    "help": {"effect", "low", "high", "p_next", "p_holm"},
    "unlearned": {"n_unlearned", "n_runs"},
    "fractions": {"effect", "low", "high", "fraction", "equal_exams", "ratio"},
    "two_d": {"effect", "low", "high", "fraction", "p_holm"},
    "domain": {"effect", "low", "high", "fraction"},
    "ladder": {"effect", "low", "high", "fraction", "kept"},
    "why": {"effect", "low", "high", "fraction"},
    "speed": {"epoch", "target", "n_reached", "n_runs"},
    "cost": {"auroc", "low", "high", "multiply_adds_g", "seconds", "fraction"},
    "calibration": {"ece", "low_ece", "high_ece", "slope", "brier", "n_runs"},
    "nothing": {"auroc", "low", "high", "n_runs"},
    "injected": {"shift", "seen", "all_seeds", "n_half", "n_seeds"},
}
"""Columns of which each sentence speaks."""


LOOKED = {
    **{
        "task": "lidc_nodule",
        "backbone": "slow_r50",
        "init": "video",
        "measure": "slice_auroc",
        "value": 0.8,
    },
    **{"low": 0.7, "high": 0.9, "untrained": 0.5, "gain": 0.3, "gain_low": 0.1, "gain_high": 0.5},
    **{"n_patients": 44, "n_exams": 44, "n_seeds": 3, "reason": ""},
}
GROUP = {"task": "lidc_nodule", "by": "kernel", "group": "B30f", "p_holm": 0.5}


@pytest.mark.parametrize(
    ("key", "row", "changes"),
    [
        ("looks", LOOKED, ["value", "untrained", "gain", "gain_low", "gain_high", "n_patients"]),
        ("looks", LOOKED | {"value": np.nan, "gain": np.nan, "reason": "nobody drew a contour"}, []),
        ("groups", GROUP, []),
    ],
)
def test_what_is_said_of_exams_is_in_the_table(key, row, changes):
    said = findings.QUESTIONS[key].say(pd.DataFrame([row]))
    assert row["task"] in said and row["reason" if key == "looks" else "task"] in said
    for name in changes:
        assert findings.QUESTIONS[key].say(pd.DataFrame([row | {name: row[name] + 1}])) != said, name
    if key == "groups":
        assert findings.QUESTIONS[key].say(pd.DataFrame([row | {"p_holm": 0.01}])) != said


def test_controls_that_were_not_run_are_named():
    said = answered("nothing").sentence
    assert "no run of permuted_labels or shuffled_slices; name it in `controls` of 03_finetune_grid" in said
    assert "metadata alone" in said and "chance gives" in said


def test_controls_that_were_run_are_read_from_their_own_tables(tmp_path):
    from ctlib import tables

    work = Workspace(tmp_path)
    study = dataclasses.replace(whole(), work=work)
    runs = study.runs[(study.runs["fraction"] == 1) & (study.runs["backbone"] == "slow_r50")]
    runs = runs[runs["init"].isin(["random", "video"])]
    renamed = runs.assign(run_id="c" + runs["run_id"], control="permuted_labels")
    scores = study.predictions[study.predictions["run_id"].isin(runs["run_id"])]
    tables.write(renamed, "controls", work.table("controls"))
    scores = scores.assign(run_id="c" + scores["run_id"])
    tables.write(scores, "predictions", work.table("control_predictions"))
    found = findings.answer("nothing", study)
    own = found.table[found.table["kind"] == "runs"]
    assert set(own["init"]) == {"random", "video"} and own["change"].abs().max() < 1e-12
    assert "permuted labels, from video: AUROC 0." in found.sentence
    assert "no run of shuffled_slices; name it" in found.sentence


@pytest.mark.parametrize("key", ["help", "two_d", "domain", "ladder", "why"])
def test_every_difference_that_is_said_is_in_the_table(key):
    table = answered(key).table
    held = {f"{v:+.3f}".replace("-", "−") for c in ("effect", "low", "high") for v in table[c].dropna()}
    said = [n for n in numbers(answered(key).sentence) if n[0] in "+−"]
    assert said and set(said) <= held


def test_a_gain_that_does_not_outlive_the_correction_is_not_counted():
    row = {"low": 0.01, "high": 0.2, "p_holm": 0.2, "margin": 0.05, "level": 0.95}
    assert findings.words.conclusions(pd.DataFrame([row])) == "of 1 comparison, 1 not decided"
    assert findings.words.conclusions(pd.DataFrame([row | {"p_holm": 0.01}])) == "of 1 comparison, 1 gain"
    lost = row | {"low": -0.2, "high": -0.1, "p_holm": 0.01}
    nothing = row | {"low": -0.01, "high": 0.01, "p_holm": 1.0}
    empty = row | {"low": np.nan, "high": np.nan, "p_holm": np.nan}
    assert findings.words.conclusions(pd.DataFrame([lost, lost, nothing, empty])) == (
        "of 4 comparisons, 2 losses, 1 without a difference and 1 without an answer"
    )


# ---- what the grid does not hold ---------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("domain", "make one with `pretrained` of 02_pretrain"),
        (
            "ladder",
            "meanvar:video, shuffled:video, first_2:video, flat:video, reversed:video or frozen:video to",
        ),
        (
            "why",
            "neither reversed:video nor flat:video beside video; add them to `inits` of 03_finetune_grid",
        ),
        ("two_d", "add one, resnet18 say, to `backbones` of 03_finetune_grid"),
    ],
)
def test_what_the_grid_lacks_is_one_sentence_and_no_error(key, said, tmp_path, capsys):
    study = study_of(made_up(plain({}), n_patients=16, backbones=["slow_r50", "r2plus1d_r50", "swin3d_t"]))
    found, work = findings.answer(key, study), Workspace(tmp_path)
    old = tmp_path / "answers" / f"{key}.csv"
    old.parent.mkdir()
    old.write_text("of an earlier grid")
    found.show(work)
    printed = capsys.readouterr().out
    assert found.sentence.startswith("No answer: ") and said in found.sentence
    assert found.sentence.split("`")[0] in printed and "<figure" not in printed
    assert found.table.empty and not old.exists()


@pytest.mark.slow
@pytest.mark.parametrize("key", findings.QUESTIONS)
@pytest.mark.parametrize("why", ["nothing finished", "one class", "no run of the init"])
def test_no_question_ends_in_an_error(key, why, tmp_path, capsys):
    results = {
        "nothing finished": lambda: made_up(plain({}), n_patients=8, lost=lambda row: "failed"),
        "one class": lambda: made_up(plain({}), n_patients=8, label=0),
        "no run of the init": lambda: made_up(plain({}), ("random",), n_patients=8),
    }[why]()
    findings.answer(key, study_of(results)).show(Workspace(tmp_path))
    assert capsys.readouterr().out


def test_a_question_that_is_unknown_is_named():
    with pytest.raises(ValueError, match="no question is called 'hlep'; known are help, fractions"):
        findings.answer("hlep", whole())


# ---- files -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["help", "cost"])
def test_an_answer_leaves_its_table_as_csv(key, tmp_path, capsys):
    answered(key).show(Workspace(tmp_path))
    read = pd.read_csv(tmp_path / "answers" / f"{key}.csv")
    assert list(read.columns) == list(answered(key).table.columns) and len(read) == len(answered(key).table)
    assert [path.name for path in (tmp_path / "answers").iterdir()] == [f"{key}.csv"]


# ---- single computations -----------------------------------------------------------------


def test_runs_that_never_reach_the_target_are_later_than_all():
    study = whole()
    first = speed.first_epochs(study.curves, study.runs, 2.0)
    assert first["epoch"].isna().all() and len(first) == len(study.runs)
    table = pd.DataFrame(answered("speed").table)
    for row in table.itertuples():
        assert (np.isnan(row.epoch)) == (row.n_reached * 2 < row.n_runs)


def test_exams_to_a_target_are_those_of_the_fitted_curve():
    fit = pd.Series({"a": 2.0, "b": 0.4, "c": 0.05, "reason": ""})
    exams, why = speed.exams_to(0.8, fit)
    assert 1 - (2.0 * exams**-0.4 + 0.05) == pytest.approx(0.8) and why == ""
    assert np.isnan(speed.exams_to(0.96, fit)[0]) and "never" in speed.exams_to(0.96, fit)[1]
    assert speed.exams_to(0.8, pd.Series({"a": np.nan, "b": np.nan, "c": 0.0, "reason": ""}))[1]


def test_the_decision_curve_is_the_mean_of_those_of_the_runs():
    from ctlib import metrics

    exams = calibrated._exams(whole())
    table = calibrated.decision(exams)
    for (task, init), part in exams.groupby(["task", "init"]):
        single = [
            metrics.decision_curve(run["label"], run["score"])["net_benefit"].to_numpy()
            for _, run in part.groupby("run_id")
        ]
        found = table[(table["task"] == task) & (table["init"] == init)]
        assert found["net_benefit"].to_numpy() == pytest.approx(np.mean(single, axis=0), abs=1e-12)
        assert (found["low"] < found["net_benefit"]).any()


def test_what_is_kept_of_the_gain_is_a_share_of_the_whole():
    table = answered("ladder").table
    for _, part in table.groupby(["task", "fraction"]):
        whole_gain = part[part["label"] == "video"]["effect"].iloc[0]
        assert part["kept"].to_numpy() == pytest.approx((part["effect"] / whole_gain).to_numpy())
    assert [label.split(":")[0] for label in part["label"]] == [
        "shuffled", "first_2", "flat", "reversed", "frozen", "video",
    ]  # fmt: skip


def test_seeds_behind_a_mean_are_those_of_its_runs():
    study = whole()
    row = study.gains[study.gains["backbone"] == "slow_r50"].iloc[0]
    runs = study.run_aurocs
    own = runs[
        (runs["task"] == row["task"])
        & (runs["fraction"] == row["fraction"])
        & (runs["backbone"] == "slow_r50")
    ]
    wide = own.pivot(index="seed", columns="init", values="auroc")
    assert [float(v) for v in row["by_seed"].split()] == pytest.approx(
        (wide["video"] - wide["random"]).tolist(), abs=1e-4
    )
    assert np.mean([float(v) for v in row["by_seed"].split()]) == pytest.approx(row["effect"], abs=1e-4)
    assert stats.MEAN_OF in study.mean_gains["backbone"].iloc[0]
