"""Learning curves, and how many exams an init is worth."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from ctlib.metrics import Bootstrap, arms_of, learning_curves, worth
from ctlib.metrics.learning_curve import exams_for, power_law

QUICK = Bootstrap(n_replicates=400, seed=1)
EXAMS = {0.1: 50, 1.0: 500}


def study(strength, exams=EXAMS, seeds=3, n=200, run_sd=0.05, networks=("penet", "mvit_b"), seed=0):
    """Runs whose AUROC is near `strength(init, exams)`, and their predictions."""
    rng = np.random.default_rng([71, seed])
    label, patients = np.arange(n) % 2, [f"p{i:03d}" for i in range(n)]
    difficulty, runs, predictions = rng.normal(size=n), [], []
    for network in networks:
        for init in ("random", "video"):
            for fraction, n_exams in exams.items():
                for s in range(seeds):
                    run = f"{network}-{init}-{fraction}-{s}"
                    apart = norm.ppf(strength(init, n_exams)) * 2 + run_sd * rng.normal()
                    score = norm.cdf(apart * label + difficulty + rng.normal(size=n) - 0.5)
                    runs.append((run, network, init, fraction, s, n_exams))
                    predictions.append(pd.DataFrame({"run_id": run, "patient_id": patients, "score": score}))
    names = ["run_id", "backbone", "init", "fraction", "seed", "n_studies"]
    table = pd.DataFrame(runs, columns=names).assign(task="t", lr=1e-3, status="finished")
    rows = pd.concat(predictions).assign(split="test", clip=0, label=0)
    rows["study"], rows["study_label"] = rows["patient_id"], np.tile(label, len(runs))
    return table, rows


def rising(init, n):
    """Video is worth four times as many exams: error 0.9 n^-0.3."""
    return 1 - 0.9 * (n * (4 if init == "video" else 1)) ** -0.3


VIDEO, RANDOM = arms_of(["penet", "mvit_b"], "video"), arms_of(["penet", "mvit_b"], "random")


@pytest.mark.parametrize("c", [0.0, 0.05])
def test_a_power_law_is_found_again(c):
    n = np.array([10.0, 30.0, 100.0, 300.0, 1000.0])
    a, b, floor = power_law(n, 0.8 * n**-0.4 + c)
    assert (a, b, floor) == pytest.approx((0.8, 0.4, c), abs=0.03)
    two = power_law(n[:2], np.array([0.8 * n[:2] ** -0.4, 0.3 * n[:2] ** -0.1]))
    assert np.array(two) == pytest.approx(np.array([[0.8, 0.3], [0.4, 0.1], [0, 0]]), abs=1e-12)


def test_exams_that_no_curve_needs_or_reaches():
    a, b, c = np.array(0.8), np.array(0.4), np.array(0.1)
    assert exams_for(0.8 * 50**-0.4 + c, a, b, c) == pytest.approx(50)
    assert np.isinf(exams_for(np.array(0.1), a, b, c)) and np.isinf(exams_for(np.array(0.05), a, b, c))
    assert np.isinf(exams_for(np.array(0.2), a, -b, c, 0.3)) and exams_for(np.array(0.4), a, -b, c, 0.3) == 0


def test_video_is_worth_as_many_exams_as_were_planted():
    table = worth(*study(rising, n=2000, run_sd=0.0), VIDEO, RANDOM, QUICK)
    assert table["ratio"].to_numpy() == pytest.approx([4, 4], rel=0.25)
    assert (table["low"] < table["ratio"]).all() and (table["ratio"] < table["high"]).all()
    assert (table["low"] > 1).all() and (table["high"] < 20).all() and set(table["reason"]) == {""}
    assert table["equal_exams"].to_numpy() == pytest.approx(table["ratio"] * table["n_exams"])
    assert table["extra_exams"].to_numpy() == pytest.approx(table["equal_exams"] - table["n_exams"])
    assert table["high_extra"].to_numpy() == pytest.approx((table["high"] - 1) * table["n_exams"])
    assert table["extrapolated"].tolist() == [False, True] and table["n_exams"].tolist() == [50, 500]
    back = worth(*study(rising, n=2000, run_sd=0.0, networks=["penet"]), RANDOM[:1], VIDEO[:1], QUICK)
    assert back["ratio"].to_numpy() == pytest.approx([0.25, 0.25], rel=0.3)


def test_few_patients_leave_the_end_of_the_interval_open():
    runs = study(lambda init, n: 0.9 if init == "video" else 0.6 + n / 5e3, n=40, run_sd=0.5)
    table = worth(*runs, VIDEO, RANDOM, QUICK)
    assert np.isinf(table["high"]).any() and not np.isinf(table["low"]).any()
    unbounded = table[np.isinf(table["high"])]
    assert unbounded[["ratio", "equal_exams", "extra_exams"]].isna().all(axis=None)
    assert unbounded["reason"].str.contains("no upper end|does not reach it").all()
    bounded = table[np.isfinite(table["high"])]
    assert bounded["ratio"].notna().all()


def test_a_curve_that_does_not_rise_is_worth_no_number():
    falling = study(lambda init, n: 0.9 if init == "video" else 0.8 - n / 5000, n=1000)
    table = worth(*falling, VIDEO, RANDOM, QUICK)
    assert table[["equal_exams", "ratio", "low", "high", "extra_exams"]].isna().all(axis=None)
    assert table["reason"].str.contains("of the second side: its AUROC does not rise").all()
    assert (table["auroc_first"] > table["auroc_second"]).all()
    curves = learning_curves(*falling, {"random": RANDOM}, QUICK)
    assert curves["fitted"].isna().all() and curves["auroc"].notna().all() and (curves["reason"] != "").all()


def test_a_curve_that_never_gets_there_says_so():
    table = worth(
        *study(lambda init, n: 0.95 if init == "video" else 0.6 + n / 1e4, n=1000), VIDEO, RANDOM, QUICK
    )
    assert table["ratio"].isna().all() and table["reason"].str.contains("does not reach it").all()
    assert (table["low"] > 1).all() and np.isinf(table["high"]).all()


def test_one_fraction_makes_no_curve():
    table = worth(*study(rising, exams={1.0: 500}), VIDEO, RANDOM, QUICK)
    assert table["ratio"].isna().all() and "one fraction makes no curve" in table["reason"].item()


def test_curves_go_through_two_points_and_near_five():
    runs, predictions = study(rising)
    table = learning_curves(runs, predictions, {"video": VIDEO, "random": RANDOM}, QUICK)
    assert table["side"].tolist() == ["video", "video", "random", "random"]
    assert table["fitted"].to_numpy() == pytest.approx(table["auroc"].to_numpy(), abs=1e-12)
    assert (table["low"] < table["auroc"]).all() and (table["auroc"] < table["high"]).all()
    assert (table["c"] == 0).all() and (table["n_networks"] == 2).all() and (table["n_seeds"] == 3).all()
    many = {0.05: 25, 0.1: 50, 0.2: 100, 0.5: 250, 1.0: 500}
    table = learning_curves(*study(rising, many, n=1000, seeds=1), {"video": VIDEO}, QUICK)
    assert table["fitted"].to_numpy() == pytest.approx(table["auroc"].to_numpy(), abs=0.02)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda r: r.assign(status=np.where(r["run_id"] == "penet-video-0.1-1", "failed", r["status"])),
            "is failed",
        ),
        (lambda r: r[r["run_id"] != "penet-video-0.1-1"], "penet from video, seed 1: not in the grid"),
        (lambda r: r.assign(n_studies=pd.array([pd.NA] * len(r), "Int64")), "how many studies"),
    ],
)
def test_what_is_missing_is_named(spoil, words):
    runs, predictions = study(rising)
    table = worth(spoil(runs), predictions, VIDEO, RANDOM, QUICK)
    assert table["ratio"].isna().all() and table["reason"].str.contains(words).all()
    curves = learning_curves(spoil(runs), predictions, {"video": VIDEO}, QUICK)
    assert curves["auroc"].isna().all() and curves["reason"].str.contains(words).all()
