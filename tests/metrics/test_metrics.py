import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from ctlib.core import tables
from ctlib.metrics import (
    auprc,
    auroc,
    auroc_by_luck,
    brier,
    by_run,
    calibration_intercept,
    calibration_slope,
    decision_curve,
    ece,
    ece_floor,
    prevalence,
    reliability,
    sensitivity,
    specificity,
    study_scores,
    threshold_at_specificity,
)


def cases(seed, levels):
    rng = np.random.default_rng([11, seed])
    labels = np.r_[0, 1, rng.integers(0, 2, 198)]
    scores = rng.normal(size=200) + 0.7 * labels
    return labels, np.round(scores * levels) / levels if levels else scores


@pytest.mark.parametrize("levels", [0, 1, 4], ids=["no ties", "many ties", "some ties"])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_auprc_equal_sklearn(seed, levels):
    labels, scores = cases(seed, levels)
    assert auroc(labels, scores).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auprc(labels, scores).value == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_auroc_of_the_same_order_is_the_same_to_the_last_bit():
    labels, scores = cases(0, 4)
    assert auroc(labels, scores) == auroc(labels, np.exp(scores)) == auroc(labels, 1e-9 * scores)


def test_label_1_is_disease_and_a_higher_score_means_disease():
    assert auroc([0, 0, 1], [0.1, 0.2, 0.9]).value == 1.0
    assert auroc([0, 0, 1], [0.9, 0.8, 0.1]).value == 0.0


def test_brier_equals_sklearn():
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 50), rng.random(50)
    assert brier(labels, scores).value == pytest.approx(brier_score_loss(labels, scores), abs=1e-12)
    assert brier([1, 1], [0.0, 1.0]).value == 0.5  # one class is enough


def sensitivity_at_half(labels, scores):
    return sensitivity(labels, scores, 0.5)


def specificity_at_half(labels, scores):
    return specificity(labels, scores, 0.5)


ORDERED = [auroc, auprc, threshold_at_specificity, sensitivity_at_half, specificity_at_half]
CALIBRATED = [calibration_slope, calibration_intercept]


@pytest.mark.parametrize("metric", [*ORDERED, *CALIBRATED, brier, ece])
@pytest.mark.parametrize(
    ("labels", "scores", "word"),
    [
        ([], [], "no case"),
        ([0, 1, 1], [0.1, np.nan, 0.3], "1 of 3 scores are not finite"),
        ([0, 1], [0.1, np.inf], "1 of 2 scores are not finite"),
    ],
)
def test_what_does_not_exist_is_nan_with_a_reason(metric, labels, scores, word):
    result = metric(labels, scores)
    assert np.isnan(result.value) and result.reason == word and word in str(result)


@pytest.mark.parametrize("metric", [*ORDERED, *CALIBRATED])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_nan_with_a_reason(metric, label):
    result = metric([label] * 4, [0.1, 0.2, 0.3, 0.4])
    assert np.isnan(result.value) and result.reason == f"all 4 labels are {label}"


@pytest.mark.parametrize("metric", [*ORDERED, *CALIBRATED, brier, ece, reliability, decision_curve])
def test_what_is_no_label_is_refused(metric):
    with pytest.raises(ValueError, match="a label is 2"):
        metric([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="a label is nan"):
        metric([0, np.nan], [0.1, 0.2])
    with pytest.raises(ValueError, match="one score a label"):
        metric([0, 1], [0.1])


@pytest.mark.parametrize("metric", [*CALIBRATED, brier, ece, reliability, decision_curve])
def test_what_is_no_probability_is_refused(metric):
    with pytest.raises(ValueError, match=r"a score is 1\.5"):
        metric([0, 1], [0.5, 1.5])


# ---- by luck ----


@pytest.mark.parametrize(("n_positive", "n_negative"), [(4, 5), (3, 8), (6, 4)])
def test_chance_is_the_share_of_all_orders(n_positive, n_negative):
    n = n_positive + n_negative
    found = [
        auroc(np.isin(np.arange(n), sick).astype(int), np.arange(n)).value
        for sick in itertools.combinations(range(n), n_positive)
    ]
    for target in (0.0, 0.2, 0.5, 0.7, 0.75, 1.0):
        wanted = np.mean(np.array(found) >= target - 1e-12)
        assert auroc_by_luck(target, n_positive, n_negative).value == pytest.approx(wanted, abs=1e-12)
    assert auroc_by_luck(1.01, n_positive, n_negative).value == 0.0


def test_many_cases_are_counted_nearly_as_few_are():
    assert auroc_by_luck(0.55, 100, 400).value == pytest.approx(auroc_by_luck(0.55, 101, 400).value, abs=3e-3)
    assert auroc_by_luck(0.7, 0, 12).reason == "0 cases with disease and 12 without"


# ---- sensitivity -----------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 1, 4], ids=["no ties", "many ties", "some ties"])
@pytest.mark.parametrize("wanted", [0.0, 0.5, 0.9, 1.0])
def test_sensitivity_is_the_highest_point_of_the_roc_curve(levels, wanted):
    labels, scores = cases(7, levels)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    threshold = threshold_at_specificity(labels, scores, wanted).value
    highest = true[1 - false >= wanted - 1e-12].max()
    assert sensitivity(labels, scores, threshold).value == pytest.approx(highest, abs=1e-12)
    assert specificity(labels, scores, threshold).value >= wanted - 1e-12


def test_nine_of_ten_is_a_specificity_of_nine_tenths():
    labels, scores = [0] * 10 + [1], [*np.arange(10) / 10, 0.85]
    assert threshold_at_specificity(labels, scores, 0.9).value == 0.85
    assert threshold_at_specificity(labels, scores, 0.91).value == np.inf
    assert (
        sensitivity(labels, scores, np.inf).value == 0.0 and specificity(labels, scores, np.inf).value == 1.0
    )
    with pytest.raises(ValueError, match=r"specificity is 1\.1"):
        threshold_at_specificity(labels, scores, 1.1)


# ---- runs ------------------------------------------------------------------------------


def test_every_metric_of_every_run_over_exams_and_over_clips():
    rng = np.random.default_rng(2)
    parts = [
        clips(rng.random(3), run, patient=f"p{i}", study=f"s{i}", label=i % 2).assign(label=[0, 1, i % 2])
        for run in ("a", "b")
        for i in range(20)
    ]
    table = pd.concat([*parts, clips([0.3], "c", patient="p0", study="s0"), clips([0.3], "d", split="val")])
    exams, by_clip = by_run(table), by_run(table, level="clip", n_bins=4)
    assert exams["run_id"].tolist() == by_clip["run_id"].tolist() == ["a", "b", "c"]
    assert exams["n"].tolist() == [20, 20, 1] and by_clip["n"].tolist() == [60, 60, 1]
    own = study_scores(table[(table["run_id"] == "b") & (table["split"] == "test")])
    args = own["label"].to_numpy(), own["score"].to_numpy()
    wanted = [prevalence(args[0]), auroc(*args), auprc(*args)]
    after = [brier(*args), ece(*args), ece_floor(args[1]), calibration_slope(*args)]
    after += [calibration_intercept(*args)]
    assert exams.loc[1].iloc[2:5].tolist() == [m.value for m in wanted]
    assert exams.loc[1].iloc[8:-1].tolist() == [m.value for m in after]
    b = parts[20:]
    args = np.concatenate([p["label"] for p in b]), np.concatenate([p["score"] for p in b])
    assert (
        by_clip.loc[1, "ece"] == ece(*args, 4).value
        and by_clip.loc[1, "ece_floor"] == ece_floor(args[1], 4).value
    )
    assert "auroc: all 1 labels are 1; auprc: all 1" in exams.loc[2, "reason"] and np.isnan(
        exams.loc[2, "auroc"]
    )
    assert np.isfinite(exams.loc[2, "brier"])
    with pytest.raises(ValueError, match="level is 'patient'"):
        by_run(table, level="patient")


def test_a_threshold_is_chosen_on_validation_and_used_in_the_test():
    test = [
        clips([score], patient=f"p{i}", study="s", label=i % 2)
        for i, score in enumerate(np.linspace(0, 1, 20))
    ]
    val = [
        clips([score], split="val", patient=f"v{i}", study="s", label=label)
        for i, (score, label) in enumerate([(0.1, 0), (0.2, 0), (0.5, 0), (0.4, 1), (0.9, 1)])
    ]
    row = by_run(pd.concat([*test, *val]), wanted=0.6).loc[0]
    assert row["threshold"] == 0.4 and row["reason"] == ""
    assert (row["sensitivity"], row["specificity"]) == (0.6, 0.4)
    alone = by_run(pd.concat(test)).loc[0]
    assert alone[["threshold", "sensitivity", "specificity"]].isna().all()
    assert "sensitivity: no validation score to choose the threshold on" in alone["reason"]
    one_class = by_run(pd.concat([*test, *val[:3]])).loc[0]
    assert "threshold: all 3 labels are 0" in one_class["reason"]


def clips(scores, run="r", split="test", patient="p", study="s", label=1):
    return pd.DataFrame(
        {"run_id": run, "split": split, "patient_id": patient, "study": study, "clip": range(len(scores))}
        | {"score": scores, "label": 0, "study_label": label}
    )


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("max", [0.9, 0.2]),
        ("noisy_or", [1 - 0.9 * 0.1 * 0.5, 0.2]),
        ("mean_top_1", [0.9, 0.2]),
        ("mean_top_2", [0.7, 0.2]),
        ("mean_top_9", [0.5, 0.2]),
    ],
)
def test_study_scores_by_rule_in_any_order_of_rows(rule, wanted):
    table = pd.concat([clips([0.2], study="t", label=0), clips([0.1, 0.9, 0.5])])
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        result = study_scores(tables.check(table.iloc[order], "predictions"), rule)
        assert list(result.columns) == ["run_id", "split", "patient_id", "study", "score", "label"]
        assert result["study"].tolist() == ["s", "t"] and result["label"].tolist() == [1, 0]
        assert result["score"].to_numpy() == pytest.approx(wanted, abs=1e-12)


def test_runs_splits_and_patients_are_kept_apart():
    parts = [clips([0.1, 0.3]), clips([0.4], run="q"), clips([0.5], split="val"), clips([0.6], patient="o")]
    result = study_scores(pd.concat(parts))
    assert result["score"].tolist() == [0.4, 0.6, 0.3, 0.5]


@pytest.mark.parametrize("rule", ["max", "noisy_or", "mean_top_1", "mean_top_3"])
def test_a_clip_without_a_score_leaves_its_exam_without_one(rule):
    table = pd.concat([clips([0.9, np.nan, 0.1]), clips([0.2], study="t")])
    result = study_scores(table, rule)["score"]
    assert np.isnan(result[0]) and result[1] == pytest.approx(0.2)


def test_no_predictions_give_no_studies():
    result = study_scores(tables.empty("predictions"))
    assert len(result) == 0 and list(result.columns)[-2:] == ["score", "label"]


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="'mean_top_K'"):
        study_scores(clips([0.1]), "mean_top_0")
    with pytest.raises(ValueError, match="clip 0 of study s is there twice"):
        study_scores(pd.concat([clips([0.1]), clips([0.2])]))
    with pytest.raises(ValueError, match="study s of run r has two exam labels"):
        study_scores(clips([0.1, 0.2], label=[0, 1]))
