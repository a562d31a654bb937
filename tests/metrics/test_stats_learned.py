"""A run that did not learn is named, and an effect without it is that of the runs that are left."""

import functools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_results import made_up, plain
from test_claims import study_of

from ctlib.analysis import findings
from ctlib.analysis.questions.not_learned import say_unlearned
from ctlib.metrics import stats

NETWORKS = ["slow_r50", "r2plus1d_r50", "swin3d_t"]
QUICK = stats.Bootstrap(400, 1)


def results(auroc=None, **changes):
    settings = {"n_patients": 120, "backbones": NETWORKS, "tasks": ["lidc_nodule"], "fractions": [1.0]}
    return made_up(auroc or plain({"video": 0.1}), ("random", "video"), **settings | changes)


def found(made, averaged=NETWORKS):
    return stats.without_unlearned(made.runs, made.predictions, "random", "video", averaged, QUICK)


def spoilt(made, which, spoil):
    """Results of which the scores of some runs are spoilt: (backbone, init, seed) to the new scores."""
    scores = made.predictions.copy()
    names = made.runs.set_index(["backbone", "init", "seed"])["run_id"]
    for name in which:
        mine = scores["run_id"] == names[name]
        scores.loc[mine, "score"] = spoil(scores[mine])
    return replace(made, predictions=scores)


def still(scores):
    return 0.4


def guessed(scores):
    return np.random.default_rng(5).random(len(scores))


def turned(scores):
    return 1 - scores["score"]


BAD = [("slow_r50", "random", 1), ("swin3d_t", "video", 2)]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (still, "0.500, all scores are equal"),
        (guessed, "(seed 1: 0.422)"),
        (turned, "the interval lies below 0.5"),
    ],
)
def test_runs_that_did_not_learn_are_named_by_arm_and_seed(spoil, said):
    table = found(spoilt(results(), BAD, spoil)).set_index("backbone")
    mean = table.loc["mean of 3 networks"]
    assert (mean["n_unlearned"], mean["n_runs"], mean["n_left"], mean["n_pairs"]) == (2, 18, 7, 9)
    assert mean["unlearned"].startswith("swin3d_t from video (seed 2: ")
    assert "; slow_r50 from random (seed 1: " in mean["unlearned"] and said in mean["unlearned"]
    assert table.loc["r2plus1d_r50", "unlearned"] == "" and table.loc["slow_r50", "n_left"] == 2


def test_where_all_learned_nothing_changes():
    made = results()
    table = found(made)
    whole = stats.effects(made.runs, made.predictions, "random", "video", NETWORKS, QUICK)
    assert (table["n_unlearned"] == 0).all() and (table["n_left"] == table["n_pairs"]).all()
    for left, column in (("effect_left", "effect"), ("low_left", "low"), ("high_left", "high")):
        assert table[left].to_numpy() == pytest.approx(whole[column].to_numpy(), abs=1e-12)


def test_a_network_without_a_pair_is_compared_on_the_seeds_that_are_left():
    made = spoilt(results(), BAD, still)
    row = found(made).set_index("backbone").loc["slow_r50"]
    sides = (stats.arms_of(["slow_r50"], init) for init in ("video", "random"))
    wanted = stats.contrasts(
        made.runs, made.predictions, [stats.Contrast("two seeds", *sides, seeds=(0, 2))], QUICK
    ).iloc[0]
    got = row[["effect_left", "low_left", "high_left"]].tolist()
    assert got == pytest.approx(wanted[["effect", "low", "high"]].tolist(), abs=1e-12)


def test_the_mean_is_over_seeds_of_the_networks_that_are_left():
    made = spoilt(results(), BAD, still)
    runs = stats.run_aurocs(made.runs, made.predictions).set_index(["seed", "backbone", "init"])["auroc"]
    gain = runs.xs("video", level="init") - runs.xs("random", level="init")
    gain = gain.drop([(1, "slow_r50"), (2, "swin3d_t")])
    row = found(made).set_index("backbone").loc["mean of 3 networks"]
    assert row["effect_left"] == pytest.approx(gain.groupby("seed").mean().mean(), abs=1e-12)


def test_where_no_pair_is_left_there_is_no_effect():
    every = [("slow_r50", "random", seed) for seed in range(3)]
    row = found(spoilt(results(), every, still)).set_index("backbone").loc["slow_r50"]
    assert row["n_left"] == 0 and np.isnan(row["effect_left"])
    assert row["reason_left"] == "no pair of which both sides learned"


def test_a_perfect_run_learned_although_it_has_no_interval():
    made = spoilt(results(), [("slow_r50", "video", 0)], lambda scores: scores["study_label"] * 1.0)
    assert found(made)["n_unlearned"].sum() == 0


def test_runs_that_are_missing_are_named_as_elsewhere():
    table = found(results(lost=lambda row: "failed" * (row["backbone"] == "slow_r50" and row["seed"] == 1)))
    lost = table[table["reason_left"] != ""]
    assert lost["backbone"].tolist() == ["slow_r50", "mean of 3 networks"]
    assert lost["reason_left"].str.contains("slow_r50 from video, seed 1: run run").all()


@functools.cache
def answered():
    return findings.answer("not_learned", study_of(spoilt(results(), BAD, still)))


def test_the_sentence_names_them_and_gives_both_effects():
    said = answered().sentence
    row = answered().table.set_index("backbone").loc["mean of 3 networks"]
    assert "lidc_nodule at 100 %, mean of 3 networks: 2 of 18 runs did not learn: swin3d_t from video" in said
    assert f"{row['effect']:+.3f} (" in said and "with all 9 pairs, " in said
    assert f"{row['effect_left']:+.3f} (" in said and "with the 7 of which both sides learned" in said
    assert "exploratory" in said


def test_the_sentence_says_that_all_learned_or_that_no_pair_is_left():
    row = answered().table.set_index("backbone", drop=False).loc["mean of 3 networks"]
    none = pd.DataFrame([row.to_dict() | {"n_unlearned": 0, "unlearned": ""}])
    assert say_unlearned(none).endswith("mean of 3 networks: all 18 runs learned.")
    empty = pd.DataFrame([row.to_dict() | {"n_left": 0, "effect_left": np.nan}])
    assert "with all 9 pairs, no pair is left of which both sides learned." in say_unlearned(empty)
    lost = none.assign(effect_left=np.nan, reason_left="run ab is failed")
    assert say_unlearned(lost).endswith("no answer: run ab is failed.")


def test_the_figure_has_a_line_with_all_pairs_and_one_without():
    drawn = answered().question.draw(answered().study, answered().table)
    words = [text.get_text() for text in drawn.axes[0].texts]
    assert "mean of 3 networks" in words and "mean of 3 networks, both learned" in words
