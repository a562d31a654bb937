import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from ctlib.core import tables
from ctlib.metrics import Bootstrap, arm_aurocs, effects, run_aurocs

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


def test_seeds_that_agree_leave_the_uncertainty_of_the_patients():
    """Three seeds that score alike are no three looks at the patients."""
    runs, predictions = grid(gain=0.0, networks=["x3d_m"])
    first = predictions[predictions["run_id"] == "x3d_m-random-0"]
    alike = [first.assign(run_id=f"x3d_m-random-{seed}") for seed in range(3)]
    arm = arm_aurocs(runs[runs["init"] == "random"], pd.concat(alike), QUICK).iloc[0]
    alone = arm_aurocs(runs[runs["run_id"] == "x3d_m-random-0"], first, QUICK).iloc[0]
    assert arm["high"] - arm["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.02)


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
