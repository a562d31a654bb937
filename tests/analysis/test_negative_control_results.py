"""Negative controls as tables and sentences: chance is held, and what is above it is said to be."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scored_grid import scored_grid
from test_execute import SETTINGS

from ctlib import metrics
from ctlib.analysis.questions import negative_controls
from ctlib.analysis.questions.negative_controls import _mean_auroc
from ctlib.core import tables
from ctlib.core.workspace import Workspace
from ctlib.grid import expand
from ctlib.metrics import Bootstrap, run_aurocs
from ctlib.metrics.decisions import beside_chance, exchanged_rows
from ctlib.training import results
from ctlib.training.run import Run

HOW = Bootstrap(400, seed=1)
LABEL = np.arange(80) % 2


def controlled(control: str, apart: dict, **changes) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs, predictions = scored_grid("t", LABEL, apart, seed=5, **changes)
    runs = runs.assign(run_id=control + runs["run_id"], control=control)
    return tables.check(runs, "controls"), predictions.assign(run_id=control + predictions["run_id"])


def test_what_knows_nothing_holds_chance_and_what_knows_something_does_not():
    runs, predictions = scored_grid("t", LABEL, {"video": 2.0})
    for apart, holds in ((0.0, True), (1.0, False)):
        controls, scores = controlled("permuted_labels", {"video": apart})
        both = pd.concat([predictions, scores])
        [row] = negative_controls.control_aurocs(runs, controls, both, HOW).to_dict("records")
        assert (row["low"] <= 0.5 <= row["high"]) == holds
        assert row["word"] == ("not decided" if holds else "different") and row["word_change"] == "loss"
        wide = negative_controls.control_aurocs(runs, controls, both, HOW, margin=0.2)["word"].item()
        assert wide == ("equivalent" if holds else "different")
        own = run_aurocs(controls.drop(columns="control"), scores)["auroc"].mean()
        plain = run_aurocs(runs, predictions)["auroc"].mean()
        assert row["auroc"] == pytest.approx(own) and row["auroc_plain"] == pytest.approx(plain)
        assert row["change"] == pytest.approx(own - plain) and row["high_change"] < 0
        assert (row["n_networks"], row["n_seeds"], row["n_patients"]) == (2, 3, 80)


def test_only_the_same_networks_and_seeds_stand_beside():
    runs, predictions = scored_grid("t", LABEL, {"video": 2.0, "random": 1.0}, networks=("slow_r50", "penet"))
    controls, scores = controlled("shuffled_slices", {"video": 1.0}, networks=("penet",), seeds=2)
    [row] = negative_controls.control_aurocs(runs, controls, pd.concat([predictions, scores]), HOW).to_dict(
        "records"
    )
    own = run_aurocs(runs, predictions)
    own = own[(own["backbone"] == "penet") & (own["init"] == "video") & (own["seed"] < 2)]
    assert row["auroc_plain"] == pytest.approx(own["auroc"].mean()) and row["reason"] == ""


def test_a_control_that_failed_is_named_and_not_averaged():
    runs, predictions = scored_grid("t", LABEL, {"video": 2.0})
    controls, scores = controlled("permuted_labels", {"video": 0.0})
    controls.loc[2, "status"] = "failed"
    [row] = negative_controls.control_aurocs(runs, controls, pd.concat([predictions, scores]), HOW).to_dict(
        "records"
    )
    assert np.isnan(row["auroc"]) and "is failed" in row["reason"]
    none = negative_controls.control_aurocs(runs, controls[:0], predictions, HOW)
    assert none.empty and list(none) == negative_controls.FOUND


def test_the_mean_auroc_of_runs_is_that_of_their_mean_rank():
    from scipy.stats import rankdata

    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=(40, 5)).astype(float)  # with ties
    labels = rng.integers(0, 2, size=(7, 40))
    ranks = rankdata(scores, axis=0).mean(axis=1)
    wanted = [np.mean([metrics.auroc(label, run).value for run in scores.T]) for label in labels]
    assert _mean_auroc(labels, ranks) == pytest.approx(wanted, abs=1e-12)


def test_patients_exchange_all_of_their_labels_with_those_of_as_many_exams():
    patients = np.array([0, 1, 1, 2, 2, 3, 4, 4])
    label = np.array([1, 0, 1, 0, 0, 0, 1, 1])
    drawn = label[exchanged_rows(patients, 200, np.random.default_rng(0))]
    pairs = {tuple(row) for row in drawn[:, [1, 2]]}
    assert pairs == {(0, 1), (0, 0), (1, 1)} and set(drawn[:, 0]) == {0, 1}
    assert (drawn[:, [0, 5]].sum(axis=1) == 1).all() and (drawn.sum(axis=1) == label.sum()).all()


def test_chance_is_what_exchanged_labels_give():
    runs, predictions = scored_grid("t", LABEL, {"random": 0.0, "video": 1.5}, run_sd=0.0)
    runs.loc[0, "status"] = "failed"
    table = negative_controls.exchanged_labels(runs, predictions, Bootstrap(1000)).set_index("init")
    assert table["n_runs"].to_dict() == {"random": 5, "video": 6}
    assert (table["low"] < 0.5).all() and (table["high"] > 0.5).all()
    assert table["chance"].to_numpy() == pytest.approx([0.5, 0.5], abs=0.02)
    assert table["p_value"]["video"] == 2 / 1001 and table["p_value"]["random"] > 0.05
    assert table["word"].to_dict() == {"random": "not decided", "video": "different"}
    assert negative_controls.exchanged_labels(runs, predictions, Bootstrap(500), margin=0.2)[
        "word"
    ].tolist() == [
        "equivalent",
        "different",
    ]
    wanted = run_aurocs(runs, predictions).groupby("init")["auroc"].mean()
    assert table["auroc"]["video"] == pytest.approx(wanted["video"])
    one_class = predictions.assign(study_label=1)
    table = negative_controls.exchanged_labels(runs, one_class, Bootstrap(10))
    assert table["auroc"].isna().all() and (table["reason"] != "").all()


def test_in_a_cross_validation_patients_exchange_within_their_fold():
    """Each run scores the exams of its fold alone; AUROCs and chance are means over folds."""
    parts = []
    for fold in (0, 1):
        runs, predictions = scored_grid("t", LABEL, {"random": 0.0, "video": 1.5}, seed=fold, run_sd=0.0)
        name = f"fold {fold} "
        named = predictions.assign(
            **{column: name + predictions[column] for column in ("run_id", "patient_id", "study")}
        )
        parts.append((runs.assign(fold=fold, run_id=name + runs["run_id"]), named))
    runs, predictions = (pd.concat(tables) for tables in zip(*parts, strict=True))
    table = negative_controls.exchanged_labels(runs, predictions, Bootstrap(1000)).set_index("init")
    assert table["n_runs"].to_dict() == {"random": 12, "video": 12}
    wanted = run_aurocs(runs, predictions).groupby("init")["auroc"].mean()
    assert table["auroc"].to_dict() == pytest.approx(wanted.to_dict())
    alone = negative_controls.exchanged_labels(*parts[0], Bootstrap(1000)).set_index("init")
    width, width_alone = table["high"] - table["low"], alone["high"] - alone["low"]
    assert (width / width_alone).to_numpy() == pytest.approx([2**-0.5] * 2, rel=0.15)
    assert table["word"].to_dict() == {"random": "not decided", "video": "different"}


def test_runs_are_repeated_under_each_control_at_the_largest_fraction():
    values = {"task": "lidc_nodule", "init": "video", "seed": 0, "lr": 1e-3, "data": "d", "weights": "w"}
    runs = [
        Run(backbone=backbone, fraction=fraction, **values, **SETTINGS)
        for backbone in ("penet", "slow_r50")
        for fraction in (0.5, 1.0)
    ]
    made = expand.controlled(runs, ["permuted_labels", "shuffled_slices"], ["penet"])
    assert [(run.control, run.backbone, run.fraction) for run in made] == [
        ("permuted_labels", "penet", 1.0),
        ("shuffled_slices", "penet", 1.0),
    ]
    assert dataclasses.replace(made[0], control="none") == runs[1]
    assert expand.controlled(runs, [], ["x3d_m"]) == [] == expand.controlled([], ["permuted_labels"], [])
    assert expand.controlled(runs[2:], ["permuted_labels"], []) == expand.controlled(
        runs, ["permuted_labels"], ["slow_r50"]
    )
    with pytest.raises(ValueError, match="control_backbones has x3d_m, which the experiment has no run of"):
        expand.controlled(runs, ["permuted_labels"], ["x3d_m"])
    with pytest.raises(ValueError, match="control is 'typo'"):
        expand.controlled(runs, ["typo"], ["penet"])


def test_missing_control_runs_are_rows_of_their_table(tmp_path):
    values = {"task": "lidc_nodule", "init": "video", "seed": 0, "lr": 1e-3, "data": "d", "weights": "w"}
    run = Run(backbone="penet", fraction=1.0, control="permuted_labels", **values, **SETTINGS)
    made = results.collect_controls(Workspace(tmp_path), [run])
    assert made["controls"][["control", "status"]].values.tolist() == [["permuted_labels", "missing"]]
    assert made["predictions"].empty and results.collect_controls(Workspace(tmp_path), [])["controls"].empty


def test_sentences_are_read_from_the_tables():
    row = {
        "task": "t",
        "control": "permuted_labels",
        "init": "video",
        "auroc": 0.52,
        "low": 0.45,
        "high": 0.6,
    }
    row |= {"auroc_plain": 0.9, "change": -0.38, "low_change": -0.5, "high_change": -0.2, "reason": ""}
    row |= {"word": "not decided", "word_change": "loss"}
    metadata = {"task": "t", "auroc": 0.7, "low": 0.4, "high": 0.6, "n_patients": 80}
    metadata |= {"p_value": 0.01, "word": "different", "kind": "metadata alone"}
    exchanged = {
        "kind": "exchanged test labels",
        "task": "t",
        "init": "video",
        "n_runs": 6,
        "auroc": 0.9,
        "low": 0.4,
        "high": 0.6,
        "p_value": 0.002,
        "word": "different",
        "reason": "",
    }
    shuffled = row | {"control": "shuffled_slices"}

    def said(*changes):
        rows = [row | {"kind": "runs"}, shuffled | {"kind": "runs"}, exchanged, metadata]
        table = pd.DataFrame([one | change for one, change in zip(rows, changes, strict=True)])
        lines = negative_controls.say_nothing(table).splitlines()
        assert len(lines) == 4  # each control is there, and metadata
        return lines

    first, second, third, fourth = said({}, {}, {}, {})
    open_ = "not told apart from 0.5, nor shown to lie within the margin of it: inconclusive."
    assert first == f"t, permuted labels, from video: AUROC 0.520 (0.450 to 0.600): {open_}"
    assert second.endswith("−0.380 (−0.500 to −0.200) beside 0.900 in order: the order of slices counts.")
    assert third.endswith("chance gives 0.400 to 0.600; their AUROC 0.900 (p = 0.002), is beyond it.")
    assert "metadata alone, 80 patients: chance gives 0.400 to 0.600; AUROC 0.700 (p = 0.010)" in fourth
    assert fourth.endswith("above 0.5: something tells the label that should not.")
    nan, open_word = {"low": np.nan, "reason": "run r is failed"}, {"word": "not decided"}
    first, second, third, fourth = said(nan, {"word_change": "not decided"}, open_word, open_word)
    assert first == "t, permuted labels, from video: no answer: run r is failed."
    assert second.endswith("the order of slices is inconclusive.")
    assert third.endswith(f"is {open_}") and fourth.endswith(open_)
    same = {"word": "equivalent"}
    first, second, third, fourth = said(same, {"word_change": "equivalent"}, same, same)
    assert all(text.endswith("shown to lie within the margin of 0.5.") for text in (first, third, fourth))
    assert second.endswith("does not count: the difference is shown to lie within the margin.")


def test_a_value_is_outside_the_band_exactly_where_its_p_value_says_so():
    drawn = np.random.default_rng(3).normal(0.5, 0.05, 499)
    for value in np.linspace(0.35, 0.65, 121):
        found = beside_chance(value, drawn)
        outside = value < found.low or value > found.high
        assert outside == (found.p_value <= 0.05) == (found.word == "different")
    constant = beside_chance(0.5, np.full(99, 0.5))
    assert constant.word == "no answer" and "no exchange" in constant.reason


def test_of_values_that_are_chance_five_percent_lie_outside_its_band():
    rng = np.random.default_rng(9)
    words = [beside_chance(float(drawn[0]), drawn[1:]).word for drawn in rng.normal(0.5, 0.1, (2000, 100))]
    assert words.count("different") / 2000 == pytest.approx(0.05, abs=0.015)
