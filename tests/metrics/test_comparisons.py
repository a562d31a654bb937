"""Any two sides of arms, what is said of other networks, folds, runs that did not learn, weighted sums."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_results import NETWORKS, SEEDS, made_up, plain
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score
from test_runs_table import QUICK, change, grid

from ctlib.core import tables
from ctlib.metrics import (
    Bootstrap,
    Contrast,
    arm_aurocs,
    arms_of,
    combination,
    contrasts,
    effects,
    holm,
    run_aurocs,
    without_unlearned,
)
from ctlib.metrics.comparisons import chance_above
from ctlib.metrics.crossed_ci import Population, for_next, student

FIVE = ["penet", "mvit_b", "swin3d_t", "slow_r50", "csn_r101"]
VIDEO, RANDOM = arms_of(FIVE, "video"), arms_of(FIVE, "random")
GAIN = Contrast("video - random", VIDEO, RANDOM)
FEW, HOW = Bootstrap(400, 1), Bootstrap(1000)


def study(**settings):
    return grid(networks=FIVE, **settings)


def means(runs, predictions):
    return run_aurocs(runs, predictions).groupby(["backbone", "init"])["auroc"].mean()


def test_a_contrast_is_the_difference_of_the_mean_aurocs_of_its_sides():
    runs, predictions = study()
    wanted = [
        GAIN,
        Contrast("3D - one", VIDEO[:4], (("csn_r101", "random"),)),
        Contrast("two - three", VIDEO[:2], RANDOM[2:]),
        Contrast("within a network", (("penet", "video"),), (("penet", "random"),)),
    ]
    table = contrasts(runs, predictions, wanted, QUICK).set_index("contrast")
    auroc = means(runs, predictions)
    for contrast in wanted:
        row = table.loc[contrast.name]
        sides = [np.mean([auroc[arm] for arm in side]) for side in (contrast.first, contrast.second)]
        assert (row["auroc_first"], row["auroc_second"]) == pytest.approx(sides, abs=1e-12)
        assert row["effect"] == pytest.approx(sides[0] - sides[1], abs=1e-12)
        assert row["low"] < row["effect"] < row["high"] and row["reason"] == ""
    assert table["n_networks"].tolist() == [5, 4, 2, 1]
    assert table["p_holm"].to_numpy() == pytest.approx(holm(table["p_value"]))
    assert "2 networks" in table["reason_next"].iloc[2] and "1 network and" in table["reason_next"].iloc[3]
    own = effects(runs, predictions, averaged=FIVE, how=QUICK).iloc[-1]
    same = [c for c in table.columns if c in own.index and c not in ("p_holm", "task", "fraction")]
    assert len(same) > 20
    pd.testing.assert_series_equal(own[same], table.iloc[0][same], check_names=False, check_dtype=False)


def test_a_network_is_paired_with_itself_or_set_against_the_mean_of_the_others():
    runs, predictions = study(gain=0.6)
    turned = Contrast("video - random", VIDEO, RANDOM[::-1])
    rows = contrasts(runs, predictions, [GAIN, turned], QUICK).drop(columns="p_holm")
    pd.testing.assert_series_equal(rows.iloc[0], rows.iloc[1], check_names=False)
    wanted = [Contrast(f"against {k}", VIDEO, RANDOM[:k]) for k in (1, 4)]
    one, four = (row for _, row in contrasts(runs, predictions, wanted, QUICK).iterrows())
    assert not any(contrast.partners for contrast in wanted) and one["effect"] != four["effect"]
    assert one["spread"] == pytest.approx(four["spread"], abs=1e-9)  # of the first side's networks alone


def test_intervals_tests_and_probabilities_say_the_same():
    runs, predictions = study(gain=0.5)
    wide = contrasts(runs, predictions, [GAIN], QUICK).iloc[0]
    assert wide["low_next"] < wide["low_mean"] <= wide["effect"] <= wide["high_mean"] < wide["high_next"]
    assert wide["low_spread"] <= wide["spread"] <= wide["high_spread"] and 0.5 < wide["p_next"] < 1
    for gain in (0.0, 0.3, 0.6, 1.0):
        row = contrasts(*study(gain=gain), [GAIN], QUICK).iloc[0]
        assert (row["p_value"] < 0.05) == (row["low"] > 0 or row["high"] < 0)
        assert (row["p_mean"] < 0.05) == (row["low_mean"] > 0 or row["high_mean"] < 0)
        assert (row["p_next"] > 0.975) == (row["low_next"] > 0)
    narrow = contrasts(runs, predictions, [GAIN], Bootstrap(300, 1, 0.5)).iloc[0]
    assert narrow["high"] - narrow["low"] < 0.5 * (wide["high"] - wide["low"])


def test_a_difference_is_equivalent_to_none_only_inside_the_margin():
    runs, predictions = study(gain=0.0)
    row = contrasts(runs, predictions, [GAIN], QUICK).iloc[0]
    edge = abs(row["effect"]) + student(row["freedom"], 0.95) * row["se"]  # the end of the interval at 90 %
    assert edge < max(-row["low"], row["high"])
    found = [
        bool(contrasts(runs, predictions, [GAIN], QUICK, margin=m)["equivalent"].item()) for m in (0, edge, 1)
    ]
    assert found == [False, False, True]
    assert contrasts(runs, predictions, [GAIN], QUICK, margin=edge + 1e-9)["equivalent"].item()


def test_a_control_with_fewer_seeds_is_compared_on_those():
    runs, predictions = study()
    fewer = runs[(runs["init"] == "random") | (runs["seed"] == 0)]
    assert contrasts(fewer, predictions, [GAIN], QUICK)["effect"].isna().all()
    row = contrasts(fewer, predictions, [Contrast("one seed", VIDEO, RANDOM, seeds=(0,))], QUICK).iloc[0]
    assert row["n_seeds"] == 1 and np.isfinite(row["low"]) and "5 networks and 1 seed;" in row["reason_next"]


def test_a_missing_run_is_named_and_what_was_never_planned_has_no_row():
    runs, predictions = study()
    broken = change(runs, "penet-video-1", status="failed")
    other = Contrast("without it", VIDEO[1:], RANDOM[1:])
    strange = Contrast("unknown init", arms_of(FIVE, "ct_lidc"), RANDOM)
    table = contrasts(broken, predictions, [GAIN, other, strange], QUICK).set_index("contrast")
    assert table.index.tolist() == ["video - random", "without it"]
    gone = table.loc["video - random"]
    assert (
        gone.drop(["task", "fraction", "auroc_second", "equivalent", "reason", "reason_next"])[:12]
        .isna()
        .all()
    )
    assert "run penet-video-1 is failed" in gone["reason"] and gone["reason"] == gone["reason_next"]
    assert not gone["equivalent"] and np.isfinite(gone["auroc_second"])
    assert table.loc["without it", "p_holm"] == table.loc["without it", "p_value"]  # a family of one
    assert len(contrasts(runs, predictions, [], QUICK)) == 0


def test_a_subgroup_is_its_exams():
    runs, predictions = study()
    part = predictions[predictions["patient_id"] < "p030"]
    row = contrasts(runs, part, [GAIN], QUICK).iloc[0]
    assert (row["n_patients"], row["n_positive"]) == (30, 15)
    few = contrasts(runs, predictions[predictions["patient_id"] < "p003"], [GAIN], QUICK).iloc[0]
    assert np.isfinite(few["effect"]) and np.isnan(few["low"]) and "two of each are needed" in few["reason"]


def test_a_side_that_is_empty_or_counts_an_arm_twice_is_refused():
    for side in ((), (("penet", "video"), ("penet", "video"))):
        with pytest.raises(ValueError, match="contrast 'x': a side is empty or names an arm twice"):
            Contrast("x", side, RANDOM)


def test_the_table_of_effects_is_one_family():
    table = effects(*study(gain=0.4), averaged=FIVE, how=QUICK)
    single = table["n_networks"] == 1
    assert table["p_holm"].to_numpy() == pytest.approx(holm(table["p_value"]))
    assert table.loc[single, "spread"].isna().all() and table.loc[~single, "spread"].notna().all()
    assert table.loc[single, "reason_next"].str.contains("1 network and").all()
    tables.check(table, "effects")


# ---- folds -----------------------------------------------------------------------------


def in_folds(runs, predictions, k=3):
    """The same scores as if each fold had been scored by a run of its own, on a scale of its own."""
    number = predictions["patient_id"].str[1:].astype(int)
    fold = number // 2 % k
    parts = [runs.assign(fold=f, run_id=runs["run_id"] + f"-{f}") for f in range(k)]
    scores = predictions["score"] / 2**fold
    return pd.concat(parts), predictions.assign(
        run_id=predictions["run_id"] + "-" + fold.astype(str), score=scores
    )


def test_folds_are_one_arm_whose_exams_are_ranked_within_folds():
    runs, predictions = in_folds(*study(n=120))
    row = contrasts(runs, predictions, [GAIN], QUICK).iloc[0]
    assert (row["n_patients"], row["n_seeds"], row["reason"]) == (120, 3, "")
    by_run = run_aurocs(runs, predictions)
    assert len(by_run) == len(runs) and by_run["run_id"].tolist() == runs["run_id"].tolist()
    # folds of equal size: the plain mean of the AUROCs of the runs
    of_init = by_run.groupby("init")["auroc"].mean()
    assert (row["auroc_first"], row["auroc_second"]) == pytest.approx((of_init["video"], of_init["random"]))
    own = predictions[predictions["run_id"].str.startswith("penet-video-0-")]
    pooled = roc_auc_score(own["study_label"], own["score"])
    assert by_run[by_run["run_id"].str.startswith("penet-video-0-")]["auroc"].mean() > pooled + 0.05
    arms = arm_aurocs(runs, predictions, QUICK)
    assert len(arms) == 10 and (arms["n_patients"] == 120).all() and arms["low"].notna().all()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r, p: (change(r, "penet-video-1-2", status="failed"), p), "run penet-video-1-2 is failed"),
        (lambda r, p: (r[r["run_id"] != "penet-video-1-2"], p), "seed 1: fold 2 is not in the grid"),
        (
            lambda r, p: (r, p[p["run_id"] != "penet-video-1-2"]),
            "run penet-video-1-2 has no test predictions",
        ),
        (
            lambda r, p: (r, p.drop(p.index[(p["run_id"] == "penet-video-1-2").to_numpy()][:3])),
            "penet-video-1-2 has no score for 3 of 40 test exams",
        ),
    ],
)
def test_a_missing_fold_is_named(spoil, words):
    runs, predictions = in_folds(*study(n=120))
    predictions = predictions.reset_index(drop=True)
    row = contrasts(*spoil(runs, predictions), [GAIN], QUICK).iloc[0]
    assert np.isnan(row["effect"]) and words in row["reason"]


def test_a_fold_that_is_not_told_is_one_fold():
    runs, predictions = study()
    plain = contrasts(runs, predictions, [GAIN], QUICK)
    empty = contrasts(runs.assign(fold=pd.array([pd.NA] * len(runs), "Int64")), predictions, [GAIN], QUICK)
    pd.testing.assert_frame_equal(plain, empty)


# ---- a next network --------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "n_networks"), [(0.02, 7), (0.0, 4), (0.06, 7)])
def test_the_chance_of_a_next_network_has_an_interval_that_holds_it(mean, n_networks):
    rng, held, widths = np.random.default_rng(8), 0, []
    truth = ndtr(mean / 0.04)
    for _ in range(300):
        of_network = mean + 0.04 * rng.normal(size=(n_networks, 1))
        values = of_network + 0.001 * rng.normal(size=(n_networks, 3))
        found = chance_above(for_next(values, np.zeros((n_networks, 3, 2))), 0.95)
        held += found.low <= truth <= found.high
        widths.append(found.high - found.low)
        assert found.low <= found.value <= found.high
    assert 0.92 <= held / 300 <= 0.98 and np.mean(widths) > 0.15


def test_what_is_not_known_of_other_networks_has_no_chance():
    found = chance_above(Population.unknown(0.1, "2 networks"), 0.95)
    assert np.isnan([found.low, found.high]).all() and found.reason == "2 networks"
    runs, predictions = study()
    row = contrasts(runs, predictions, [GAIN], QUICK).iloc[0]
    assert 0 <= row["low_p_next"] < row["p_next"] < row["high_p_next"] <= 1


# ---- without runs that did not learn -----------------------------------------------------


def two_inits(auroc=None, **changes):
    settings = {"n_patients": 120, "backbones": NETWORKS, "tasks": ["lidc_nodule"], "fractions": [1.0]}
    return made_up(auroc or plain({"video": 0.1}), ("random", "video"), **settings | changes)


def remaining(made, averaged=NETWORKS):
    return without_unlearned(made.runs, made.predictions, "random", "video", averaged, FEW)


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
    table = remaining(spoilt(two_inits(), BAD, spoil)).set_index("backbone")
    mean = table.loc["mean of 3 networks"]
    assert (mean["n_unlearned"], mean["n_runs"], mean["n_left"], mean["n_pairs"]) == (2, 18, 7, 9)
    assert mean["unlearned"].startswith("swin3d_t from video (seed 2: ")
    assert "; slow_r50 from random (seed 1: " in mean["unlearned"] and said in mean["unlearned"]
    assert table.loc["r2plus1d_r50", "unlearned"] == "" and table.loc["slow_r50", "n_left"] == 2


def test_where_all_learned_nothing_changes():
    made = two_inits()
    table = remaining(made)
    whole = effects(made.runs, made.predictions, "random", "video", NETWORKS, FEW)
    assert (table["n_unlearned"] == 0).all() and (table["n_left"] == table["n_pairs"]).all()
    for left, column in (("effect_left", "effect"), ("low_left", "low"), ("high_left", "high")):
        assert table[left].to_numpy() == pytest.approx(whole[column].to_numpy(), abs=1e-12)


def test_a_network_without_a_pair_is_compared_on_the_seeds_that_are_left():
    made = spoilt(two_inits(), BAD, still)
    row = remaining(made).set_index("backbone").loc["slow_r50"]
    sides = (arms_of(["slow_r50"], init) for init in ("video", "random"))
    wanted = contrasts(
        made.runs, made.predictions, [Contrast("two seeds", *sides, seeds=(0, 2))], QUICK
    ).iloc[0]
    got = row[["effect_left", "low_left", "high_left"]].tolist()
    assert got == pytest.approx(wanted[["effect", "low", "high"]].tolist(), abs=1e-12)


def test_the_mean_is_over_seeds_of_the_networks_that_are_left():
    made = spoilt(two_inits(), BAD, still)
    runs = run_aurocs(made.runs, made.predictions).set_index(["seed", "backbone", "init"])["auroc"]
    gain = runs.xs("video", level="init") - runs.xs("random", level="init")
    gain = gain.drop([(1, "slow_r50"), (2, "swin3d_t")])
    row = remaining(made).set_index("backbone").loc["mean of 3 networks"]
    assert row["effect_left"] == pytest.approx(gain.groupby("seed").mean().mean(), abs=1e-12)


def test_where_no_pair_is_left_there_is_no_effect():
    every = [("slow_r50", "random", seed) for seed in range(3)]
    row = remaining(spoilt(two_inits(), every, still)).set_index("backbone").loc["slow_r50"]
    assert row["n_left"] == 0 and np.isnan(row["effect_left"])
    assert row["reason_left"] == "no pair of which both sides learned"


def test_a_perfect_run_learned_although_it_has_no_interval():
    made = spoilt(two_inits(), [("slow_r50", "video", 0)], lambda scores: scores["study_label"] * 1.0)
    assert remaining(made)["n_unlearned"].sum() == 0


def test_runs_that_are_missing_are_named_as_elsewhere():
    table = remaining(
        two_inits(lost=lambda row: "failed" * (row["backbone"] == "slow_r50" and row["seed"] == 1))
    )
    lost = table[table["reason_left"] != ""]
    assert lost["backbone"].tolist() == ["slow_r50", "mean of 3 networks"]
    assert lost["reason_left"].str.contains("slow_r50 from video, seed 1: run run").all()


# ---- weighted sums of arms ---------------------------------------------------------------


def of(results, weights, networks=tuple(NETWORKS), seeds=tuple(SEEDS)):
    return combination(results.runs, results.predictions, "lidc_nodule", 1.0, networks, seeds, weights, HOW)


@pytest.fixture(scope="module")
def results():
    return made_up(plain({"video": 0.1}), inits=("random", "part", "video"), backbones=NETWORKS)


def test_a_sum_is_that_of_the_runs_aurocs(results):
    weights = {"random": -0.8, "part": -0.2, "video": 1.0}
    found = of(results, weights)
    runs = run_aurocs(results.runs, results.predictions)
    runs = runs[(runs["task"] == "lidc_nodule") & (runs["fraction"] == 1.0)]
    wide = runs.groupby(["backbone", "init"])["auroc"].mean().unstack()
    by_hand = sum(weight * wide[init] for init, weight in weights.items())
    assert found.estimate.value == pytest.approx(by_hand.mean(), abs=1e-12)
    assert found.by_network == pytest.approx(by_hand[NETWORKS].to_dict(), abs=1e-12)
    assert found.aurocs == pytest.approx(wide[list(weights)].mean().to_dict(), abs=1e-12)
    assert found.counts["n_seeds"] == len(SEEDS)


def test_a_difference_is_that_of_contrasts_for_networks_like_these(results):
    found = of(results, {"video": 1.0, "random": -1.0}).estimate
    sides = (arms_of(NETWORKS, init) for init in ("video", "random"))
    rows = contrasts(results.runs, results.predictions, [Contrast("c", *sides)], HOW)
    [row] = rows[(rows["task"] == "lidc_nodule") & (rows["fraction"] == 1.0)].to_dict("records")
    interval = found.interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((row["low_mean"], row["high_mean"]), abs=1e-12)


def test_networks_that_differ_widen_the_interval(results):
    def apart(task, backbone, init, fraction):
        return 0.75 + (0.1 * (NETWORKS.index(backbone) - 1) if init == "video" else 0.0)

    wide = of(made_up(apart, backbones=NETWORKS), {"video": 1.0, "random": -1.0}).estimate
    assert wide.se > 3 * of(results, {"video": 1.0, "random": -1.0}).estimate.se
    assert abs(wide.value) < 0.05


def test_a_task_or_run_that_is_not_there_is_named(results):
    weights = {"video": 1.0, "random": -1.0}
    found = combination(results.runs, results.predictions, "no_task", 1.0, NETWORKS, SEEDS, weights, HOW)
    assert np.isnan(found.estimate.value) and found.estimate.reason == "the grid has no run of no_task"
    found = of(results, {"video": 1.0, "random": -1.0}, seeds=(0, 9))
    assert np.isnan(found.estimate.se) and "seed 9" in found.estimate.reason
