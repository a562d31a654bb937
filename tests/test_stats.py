import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from ctlib import tables
from ctlib.metrics import auroc
from ctlib.stats import Bootstrap, arm_aurocs, auroc_interval, effects, run_aurocs
from ctlib.stats.intervals import Exams, crossed_interval, resampled

QUICK = Bootstrap(n_replicates=300, seed=1)
NETWORKS = ["slow_r50", "x3d_m"]


def grid(gain=1.0, n=60, seeds=3, run_sd=0.3, networks=NETWORKS, seed=0):
    """Runs and predictions of one task whose video runs separate the classes by `gain` more."""
    rng = np.random.default_rng([21, seed])
    patients, label = np.array([f"p{i:03d}" for i in range(n)]), np.arange(n) % 2
    difficulty = 0.6 * rng.normal(size=n)
    runs, predictions = [], []
    for network in networks:
        for init, extra in (("random", 0.0), ("video", gain)):
            for s in range(seeds):
                apart = 0.9 + extra + run_sd * rng.normal()
                score = norm.cdf(apart * label + difficulty + 0.8 * rng.normal(size=n) - 0.5)
                run = f"{network}-{init}-{s}"
                runs.append({"run_id": run, "backbone": network, "init": init, "seed": s})
                predictions.append(
                    pd.DataFrame({"run_id": run, "patient_id": patients, "study": patients, "score": score})
                    .assign(study_label=label)
                    .sample(frac=1, random_state=s)  # the order of rows must not matter
                )
    table = pd.DataFrame(runs).assign(task="t", fraction=0.25, fold=0, lr=1e-3, status="finished")
    counts = ["n_patients", "n_studies", "n_clips", "n_parameters", "epochs", "best_epoch"]
    table = table.assign(error=None, val_auroc=0.8, seconds=1.0, **dict.fromkeys(counts, 1))
    rows = pd.concat(predictions).assign(split="test", clip=0, label=0)
    return tables.check(table, "runs"), tables.check(rows, "predictions")


def change(runs, which, **values):
    runs = runs.copy()
    chosen = runs["run_id"] == which
    for name, value in values.items():
        runs.loc[chosen, name] = value
    return runs


# ---- draws of patients -----------------------------------------------------------------


def test_a_weighted_mean_of_pairs_is_the_auroc_of_the_drawn_exams():
    rng = np.random.default_rng(0)
    scores = pd.DataFrame({"patient_id": rng.integers(0, 30, 50), "label": rng.integers(0, 2, 50)})
    score = np.round(rng.random(50), 1)  # with ties
    exams = Exams(scores)
    draws = exams.draw(20, np.random.default_rng(1))
    found = resampled(exams.pairs(score), draws)
    for b in range(20):
        times = np.zeros(50, int)
        times[scores["label"] == 1], times[scores["label"] == 0] = draws[0][b], draws[1][b]
        wanted = auroc(np.repeat(scores["label"], times), np.repeat(score, times)).value
        assert found[b] == pytest.approx(wanted, abs=1e-12)


def test_all_exams_of_a_patient_are_drawn_together_and_classes_keep_their_size():
    label = np.array([1, 0, 0, 1, 1, 0, 0, 0, 1])
    patient = np.array(list("aabbbcdde"))
    positive, negative = Exams(pd.DataFrame({"patient_id": patient, "label": label})).draw(
        200, np.random.default_rng(0)
    )
    times = np.zeros((200, 9))
    times[:, label == 1], times[:, label == 0] = positive, negative
    by_patient = [times[:, patient == p] for p in "abcde"]
    assert all((part == part[:, :1]).all() for part in by_patient)
    sick = by_patient[0][:, 0] + by_patient[1][:, 0] + by_patient[4][:, 0]
    assert (sick == 3).all() and (by_patient[2][:, 0] + by_patient[3][:, 0] == 2).all()
    assert len(np.unique(times, axis=0)) > 10


def coverage(found, truth):
    return float(np.mean([interval.low <= truth <= interval.high for interval in found]))


def test_drawing_exams_instead_of_patients_gives_intervals_that_are_too_short():
    """30 patients of 4 exams that share most of their difficulty; 200 experiments."""
    by_patient, by_exam = [], []
    for i in range(200):
        rng = np.random.default_rng([31, i])
        patient = np.repeat(np.arange(30), 4)
        score = patient % 2 + 0.9 * rng.normal(size=30)[patient] + 0.436 * rng.normal(size=120)  # sd 1
        table = pd.DataFrame({"run_id": "r", "split": "test", "patient_id": patient, "score": score})
        table = table.assign(study=range(120), label=patient % 2)
        by_patient.append(auroc_interval(table, 200, seed=i))
        by_exam.append(auroc_interval(table.assign(patient_id=table["study"]), 200, seed=i))
    truth = norm.cdf(1 / np.sqrt(2))
    # 0.95 -+ 3 binomial standard errors of 200 experiments is 0.904 to 0.996.
    assert 0.904 <= coverage(by_patient, truth) <= 0.996
    assert coverage(by_exam, truth) < 0.80


def test_the_paired_averaged_effect_is_covered_whatever_varies():
    """Two networks, three seeds, 40 patients; the true effect is a normal integral."""
    for run_sd in (0.05, 0.6):
        truth = norm.cdf(1.4 / np.sqrt(2 + run_sd**2)) - norm.cdf(0.9 / np.sqrt(2 + run_sd**2))
        found, patients_only = [], []
        for i in range(300):
            values, replicates = experiment(np.random.default_rng([41, i]), run_sd)
            found.append(crossed_interval(values, replicates))
            patients_only.append(
                crossed_interval(values.mean(keepdims=True), replicates.mean(0, keepdims=True))
            )
        # 0.95 -+ 3 binomial standard errors of 300 experiments is 0.912 to 0.988.
        assert 0.912 <= coverage(found, truth) <= 0.988
    assert coverage(patients_only, truth) < 0.80  # what leaving the seeds out would have said


def experiment(rng, run_sd, n=40, seeds=3):
    label = np.arange(n) % 2
    exams = Exams(pd.DataFrame({"patient_id": np.arange(n), "label": label}))
    difficulty = 0.6 * rng.normal(size=n)
    pairs = np.zeros((seeds, n // 2, n // 2))
    for s in range(seeds):
        for sign, apart in ((-0.5, 0.9), (0.5, 1.4)):
            for _ in range(2):
                shift = apart + run_sd * rng.normal()
                pairs[s] += sign * exams.pairs(shift * label + difficulty + 0.8 * rng.normal(size=n))
    draws = exams.draw(200, rng)
    return pairs.mean((1, 2)), np.stack([resampled(matrix, draws) for matrix in pairs])


# ---- the interval over seeds and patients ----------------------------------------------


def test_seeds_that_agree_by_chance_do_not_undercut_the_patients():
    rng = np.random.default_rng(2)
    replicates = 0.1 + 0.03 * rng.normal(size=(3, 5000))  # independent between seeds
    found = crossed_interval(np.array([0.1, 0.1001, 0.0999]), replicates)
    assert found.half_width == pytest.approx(1.96 * 0.03 / np.sqrt(3), rel=0.05)


def test_one_seed_gives_the_interval_over_patients():
    replicates = 0.2 + 0.05 * np.random.default_rng(3).normal(size=(1, 5000))
    found = crossed_interval(np.array([0.2]), replicates)
    assert found.value == 0.2 and found.half_width == pytest.approx(1.96 * 0.05, rel=0.05)


def test_what_never_varies_has_no_interval():
    found = crossed_interval(np.ones(3), np.ones((3, 100)))
    assert np.isnan(found.low) and found.reason


def test_the_auroc_of_one_run_has_an_interval_or_a_reason():
    table = pd.DataFrame({"run_id": "r", "split": "test", "patient_id": range(8), "study": range(8)})
    table = table.assign(label=[0, 1] * 4, score=[0.1, 0.3, 0.2, 0.9, 0.8, 0.7, 0.4, 0.6])
    found = auroc_interval(table, 500, seed=0)
    assert found.low < found.value == 0.75 < found.high and not found.reason
    assert auroc_interval(table, 500, seed=0) == found != auroc_interval(table, 500, seed=1)
    perfect = auroc_interval(table.assign(score=table["label"]), 500, seed=0)
    assert perfect.value == 1.0 and np.isnan(perfect.low) and "every draw" in perfect.reason
    single = auroc_interval(table.assign(label=1), 500, seed=0)
    assert np.isnan(single.value) and single.reason == "all 8 labels are 1"
    few = auroc_interval(table.assign(patient_id=[0, 1, 0, 1, 0, 1, 0, 1]), 500, seed=0)
    assert few.value == 0.75 and np.isnan(few.low) and "two of each" in few.reason
    with pytest.raises(ValueError, match="one run"):
        auroc_interval(table.assign(run_id=list("abababab")), 500, seed=0)


# ---- tables ----------------------------------------------------------------------------


def test_effects_are_differences_of_mean_aurocs():
    runs, predictions = grid()
    table = effects(runs, predictions, averaged=NETWORKS, how=QUICK)
    assert table["backbone"].tolist() == [*NETWORKS, "mean of 2 networks"]
    assert table["n_networks"].tolist() == [1, 1, 2] and set(table["reason"]) == {""}
    assert (table[["n_patients", "n_positive", "n_seeds"]] == [60, 30, 3]).all(axis=None)
    by_arm = run_aurocs(runs, predictions).groupby(["backbone", "init"])["auroc"].mean().unstack()
    wanted = [*(by_arm["video"] - by_arm["random"])[NETWORKS], (by_arm["video"] - by_arm["random"]).mean()]
    assert table["effect"].to_numpy() == pytest.approx(wanted, abs=1e-12)
    assert table["auroc_init"].to_numpy() == pytest.approx([*by_arm["video"], by_arm["video"].mean()])
    assert (table["low"] < table["effect"]).all() and (table["effect"] < table["high"]).all()
    assert table["low"].iloc[-1] > 0  # a gain of one standard deviation is seen


def test_the_sign_turns_with_the_arms():
    runs, predictions = grid()
    forth = effects(runs, predictions, "random", "video", NETWORKS, QUICK).iloc[-1]
    back = effects(runs, predictions, "video", "random", NETWORKS, QUICK).iloc[-1]
    assert back["effect"] == pytest.approx(-forth["effect"]) and back["low"] == pytest.approx(-forth["high"])


def test_the_interval_pairs_patients_between_arms():
    """Two arms that score alike differ by nothing, however uncertain each AUROC is."""
    runs, predictions = grid(gain=0.0)
    same = predictions[predictions["run_id"].str.contains("random")]
    twin = same.assign(run_id=same["run_id"].str.replace("random", "video"))
    nudged = twin.assign(score=twin["score"] + 0.01 * np.random.default_rng(0).random(len(twin)))
    table = effects(runs, pd.concat([same, nudged]), how=QUICK)
    alone = arm_aurocs(runs, same, how=QUICK).dropna(subset="auroc")
    assert ((alone["high"] - alone["low"]) > 0.1).all()
    assert ((table["high"] - table["low"]) < 0.02).all()


def test_the_same_seed_gives_the_same_table():
    runs, predictions = grid()
    first = effects(runs, predictions, averaged=NETWORKS, how=QUICK)
    shuffled = effects(runs, predictions.sample(frac=1, random_state=5), averaged=NETWORKS, how=QUICK)
    pd.testing.assert_frame_equal(first, shuffled, check_exact=True)
    assert not first.equals(effects(runs, predictions, averaged=NETWORKS, how=Bootstrap(300, seed=2)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r, p: (change(r, "x3d_m-video-1", status="failed"), p), "run x3d_m-video-1 is failed"),
        (lambda r, p: (r[r["run_id"] != "x3d_m-video-1"], p), "seed 1: not in the grid"),
        (lambda r, p: (r, p[p["run_id"] != "x3d_m-video-1"]), "has no test predictions"),
        (
            lambda r, p: (r, p.drop(p.index[(p["run_id"] == "x3d_m-video-1")][:4])),
            "no score for 4 of 60 test exams",
        ),
        (
            lambda r, p: (r, p.assign(score=p["score"].where(p["run_id"] != "x3d_m-video-1"))),
            "no score for 60 of 60 test exams",
        ),
    ],
)
def test_a_run_without_an_auroc_is_named_and_never_averaged_in(spoil, words):
    runs, predictions = spoil(*grid())
    table = effects(runs, predictions, averaged=NETWORKS, how=QUICK).set_index("backbone")
    assert not np.isnan(table.loc["slow_r50", "effect"]) and table.loc["slow_r50", "reason"] == ""
    for name in ("x3d_m", "mean of 2 networks"):
        assert table.loc[name, ["effect", "low", "high", "auroc_init"]].isna().all()
        assert words in table.loc[name, "reason"] and "x3d_m from video, seed 1" in table.loc[name, "reason"]
        assert not np.isnan(table.loc[name, "auroc_baseline"])  # that arm is complete
    arms = arm_aurocs(runs, predictions, how=QUICK).set_index(["backbone", "init"])
    assert arms["auroc"].isna().sum() == 1 and words in arms.loc[("x3d_m", "video"), "reason"]


def test_one_class_in_the_test_split_is_nan_with_a_reason():
    runs, predictions = grid(seeds=1)
    only = predictions[predictions["study_label"] == 1]
    table = effects(runs, only, averaged=NETWORKS, how=QUICK)
    assert table["effect"].isna().all() and table["reason"].str.contains("all 30 labels are 1").all()


def test_a_network_with_one_init_has_no_row_but_spoils_a_mean_that_wants_it():
    runs, predictions = grid()
    one = runs[(runs["backbone"] == "slow_r50") | (runs["init"] == "random")]
    assert effects(one, predictions, how=QUICK)["backbone"].tolist() == ["slow_r50"]
    assert (
        "x3d_m from video, seed 0: not in the grid; "
        in effects(one, predictions, averaged=NETWORKS, how=QUICK)["reason"].iloc[-1]
    )


def test_validation_scores_play_no_part():
    runs, predictions = grid(seeds=1)
    flattering = predictions.assign(split="val", score=predictions["study_label"].astype(float))
    both = effects(runs, pd.concat([predictions, flattering]), how=QUICK)
    pd.testing.assert_frame_equal(both, effects(runs, predictions, how=QUICK))


def test_two_runs_of_one_name_are_refused():
    runs, predictions = grid(seeds=1)
    again = change(runs, "x3d_m-video-0", run_id="other", lr=0.1)
    with pytest.raises(
        ValueError, match=r"x3d_m from video, fraction 0\.25, seed 0 is there twice \(run other"
    ):
        effects(pd.concat([runs, again[again["run_id"] == "other"]]), predictions)


def test_no_runs_give_an_empty_table():
    assert len(effects(tables.empty("runs"), tables.empty("predictions"), averaged=NETWORKS)) == 0
