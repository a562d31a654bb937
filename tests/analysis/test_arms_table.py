"""The table of arms, its caption, and what is held against intervals: said where it is true, nowhere else."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from ctlib.analysis import findings
from ctlib.analysis.arms_table import cautions
from ctlib.analysis.findings import QUESTIONS
from ctlib.metrics.bootstrap import few_of_a_class

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


ARM = {"task": "t", "fraction": 0.5, "backbone": "penet", "init": "video", "auroc": 0.8}
ARM |= {"n_patients": 88, "n_positive": 44, "n_seeds": 5, "seed_sd": 0.02, "p_seeds": 0.5, "warning": ""}
ASKED = [SimpleNamespace(key=key, columns=("p_holm",), missing=lambda _: "") for key in ("help", "two_d")]


def said(*changes, questions=(), runs=(0.8, 0.5)):
    arms = pd.DataFrame([ARM | {"backbone": f"net{k}"} | change for k, change in enumerate(changes)])
    rows = [row | {"auroc": auroc} for row in arms.to_dict("records") for auroc in runs]
    how = SimpleNamespace(level=0.95)
    return cautions(SimpleNamespace(arm_aurocs=arms, run_aurocs=pd.DataFrame(rows), how=how), questions)


def test_where_nothing_is_to_be_said_nothing_is():
    assert said({}, {}) == []


def test_few_of_a_class_are_said_once_a_task():
    few = {"warning": few_of_a_class(80, 8)}
    [text] = said(few, few)
    assert text.startswith("t: 8 test patients with disease and 72 without: below 20 of a class")


def test_seeds_that_differ_more_than_patients_explain_are_named_with_their_ends():
    apart = {"seed_sd": 0.14, "p_seeds": 1e-6}
    [text] = said({}, apart)
    assert text.startswith(
        "For 1 of 2 networks and starting weights, seeds differ more than their patients explain: net1 from video, "
        "t at 50 % (0.50 to 0.80)."
    )
    assert said({}, apart | {"seed_sd": 0.05}) == [] == said({}, apart | {"p_seeds": 0.04})
    [text] = said(*[apart] * 6)
    assert (
        text.startswith("For 6 of 6 networks") and "the widest are" in text and text.count("from video") == 2
    )


def test_fewer_seeds_than_asked_are_said():
    [text] = said({"n_seeds": 3}, {})
    assert text.startswith("Seeds: 3 to 5. 5 are asked for")


def test_families_are_counted():
    [text] = said({}, questions=ASKED)
    assert text.startswith(
        "2 tables with corrected p-values (help and two_d): the comparisons that decide a claim are one"
    )
    silent = [SimpleNamespace(key="x", columns=("p_holm",), missing=lambda _: "No answer")]
    assert said({}, questions=silent) == []
    assert {key for key, asked in QUESTIONS.items() if "p_holm" in asked.columns} >= {
        "effect",
        "two_d",
        "video_or_ct",
    }


def test_seeds_of_the_whole_share_their_patients():
    [text] = said({"fraction": 1.0}, {})
    assert text.startswith("At 100 % all seeds share the training patients")
