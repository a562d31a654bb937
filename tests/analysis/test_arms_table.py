import numpy as np
import pandas as pd

from ctlib.analysis import findings

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
