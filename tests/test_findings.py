import re

import numpy as np
import pandas as pd
import pytest

from ctlib import findings

ROW = {
    **{"task": "lidc_nodule", "fraction": 0.25, "backbone": "mean of 3 networks", "baseline": "random"},
    **{
        "init": "video",
        "auroc_baseline": 0.701,
        "auroc_init": 0.852,
        "effect": 0.151,
        "low": 0.103,
        "high": 0.199,
    },
    **{"n_patients": 88, "n_positive": 44, "n_seeds": 3, "n_networks": 3, "reason": ""},
}


@pytest.mark.parametrize(
    ("low", "high", "effect", "null", "real"),
    [
        (0.01, 0.2, "recovered", "violated", "supported"),
        (-0.01, 0.2, "not recovered", "kept", "not decided"),
        (0.0, 0.2, "not recovered", "kept", "not decided"),
        (-0.2, -0.01, "not recovered", "violated", "reversed"),
        (np.nan, np.nan, "no answer", "no answer", "no answer"),
    ],
)
def test_verdicts_follow_the_rule(low, high, effect, null, real):
    row = ROW | {"low": low, "high": high, "reason": "x3d_m from video, seed 1: run ab12 is failed"}
    for planted, word in {"effect": effect, "null": null, "": real}.items():
        assert findings.outcome(row, planted) == word
        assert word in findings.verdict(row, planted)


def test_a_verdict_says_the_numbers_of_its_row_and_no_others():
    for low, high in ((0.103, 0.199), (-0.031, 0.042)):
        for planted in findings.OUTCOMES:
            sentence = findings.verdict(ROW | {"low": low, "high": high, "effect": 0.151}, planted)
            known = {"25", "3", "0.852", "0.701", "+0.151", "88", "44", "0", f"{(high - low) / 2:.3f}"}
            known |= {f"{low:+.3f}".replace("-", "−"), f"{high:+.3f}"}
            assert set(re.findall(r"[+−]?\d+(?:\.\d+)?", sentence)) <= known, sentence
            assert {"+0.151", "0.852", "88", "44"} <= set(re.findall(r"[+−]?\d+(?:\.\d+)?", sentence))


def test_nothing_found_is_not_oversold():
    assert "half-width is 0.040" in findings.verdict(ROW | {"low": -0.03, "high": 0.05}, "null")
    assert "half-width" not in findings.verdict(ROW, "effect")


def test_arms_that_learned_nothing_are_named():
    around = {"low": -0.03, "high": 0.05}
    weak = ROW | around | {"auroc_init": 0.48, "auroc_baseline": 0.52}
    assert "neither arm reaches an AUROC of 0.6" in findings.verdict(weak, "null")
    assert "neither arm" not in findings.verdict(weak | {"auroc_init": 0.61}, "null")
    assert "neither arm" not in findings.verdict(ROW | around, "null")


def test_one_seed_is_said():
    assert "One seed says nothing" in findings.verdict(ROW | {"n_seeds": 1})
    assert "3 seeds" in findings.verdict(ROW) and "One seed" not in findings.verdict(ROW)


def test_no_answer_gives_its_reason():
    row = ROW | {
        "low": np.nan,
        "high": np.nan,
        "effect": np.nan,
        "reason": "x3d_m from video, seed 1: failed",
    }
    assert "no answer, for x3d_m from video, seed 1: failed" in findings.verdict(row, "null")


def test_what_is_planted_is_spelt_right():
    with pytest.raises(ValueError, match="'nil'"):
        findings.outcome(ROW, "nil")


def test_verdicts_are_about_the_average():
    table = pd.DataFrame([ROW | {"backbone": "x3d_m", "n_networks": 1}, ROW, ROW | {"task": "rspect_pe"}])
    found = findings.verdicts(table, {"lidc_nodule": "effect", "rspect_pe": "null"})
    assert len(found) == 2 and "Planted effect recovered" in found[0] and "Planted null violated" in found[1]
    assert (
        len(findings.verdicts(table.iloc[:1], {})) == 1
        and "Gain supported" in findings.verdicts(table, {})[0]
    )
    assert findings.verdicts(table.iloc[:0], {}) == []


def test_captions_count_patients_and_seeds():
    table = pd.DataFrame([ROW, ROW | {"fraction": 1.0, "n_seeds": 2}])
    assert findings.effect_caption(table, 0.9).endswith(
        "lidc_nodule: 88 patients, 44 with disease, seeds: 2 to 3."
    )
    assert "90 %" in findings.effect_caption(table, 0.9) and "seeds: 3." in findings.score_caption(
        table[:1], 0.95
    )


def test_slices_against_clips_leaves_gaps_where_an_arm_is_missing():
    arms = [("t", 0.25, b, i, a) for (b, i), a in zip(
        [(b, i) for b in ("slow_r50", "x3d_m", "resnet18") for i in ("random", "video")],
        [0.7, 0.9, 0.8, np.nan, 0.6, 0.5],
        strict=True,
    )]  # fmt: skip
    table = findings.against_2d(
        pd.DataFrame(arms, columns=["task", "fraction", "backbone", "init", "auroc"]), ["slow_r50", "x3d_m"]
    )
    assert table["2D network"].tolist() == ["resnet18", "resnet18"] and table["init"].tolist() == [
        "random",
        "video",
    ]
    difference = table["difference (no interval)"]
    assert difference[0] == pytest.approx(0.75 - 0.6) and np.isnan(difference[1])
