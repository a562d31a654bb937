import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from ctlib import tables
from ctlib.metrics import auprc, auroc, brier, study_scores


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


@pytest.mark.parametrize("metric", [auroc, auprc, brier])
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


@pytest.mark.parametrize("metric", [auroc, auprc])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_nan_with_a_reason(metric, label):
    result = metric([label] * 4, [0.1, 0.2, 0.3, 0.4])
    assert np.isnan(result.value) and result.reason == f"all 4 labels are {label}"


@pytest.mark.parametrize("metric", [auroc, auprc, brier])
def test_what_is_no_label_is_refused(metric):
    with pytest.raises(ValueError, match="a label is 2"):
        metric([0, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="a label is nan"):
        metric([0, np.nan], [0.1, 0.2])
    with pytest.raises(ValueError, match="one score a label"):
        metric([0, 1], [0.1])


def test_brier_takes_probabilities_only():
    with pytest.raises(ValueError, match=r"a score is 1\.5"):
        brier([0, 1], [0.5, 1.5])


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
