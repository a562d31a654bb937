import re

import numpy as np
import pandas as pd
import pytest

from ctlib import findings
from ctlib.findings.verdicts import OUTCOMES

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
        for planted in OUTCOMES:
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
    caption = findings.score_caption(table, 0.9)
    assert caption.endswith("lidc_nodule: 88 patients, 44 with disease, seeds: 2 to 3.") and "90 %" in caption
    assert "seeds: 3." in findings.score_caption(table[:1], 0.95)


def test_arms_are_listed_with_a_column_a_fraction_and_gaps_are_said():
    names = {"task": "t", "backbone": "x3d_m", "init": "video"}
    rows = [names | {"fraction": 0.25, "auroc": 0.7, "low": 0.61, "high": 0.8}]
    rows.append(names | {"fraction": 1.0, "auroc": np.nan, "low": np.nan, "high": np.nan})
    rows.append(names | {"init": "random", "fraction": 1.0, "auroc": 1.0, "low": np.nan, "high": np.nan})
    table = findings.arm_table(pd.DataFrame(rows))
    assert list(table.columns) == ["task", "backbone", "init", "AUROC, 25 %", "AUROC, 100 %"]
    assert table["AUROC, 25 %"].tolist()[0] == "0.700 (0.610 to 0.800)" and table["init"].tolist() == [
        "video",
        "random",
    ]
    assert table["AUROC, 100 %"].tolist() == ["no value", "1.000 (no interval)"]
