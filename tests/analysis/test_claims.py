"""The paper's claims: five stories of made-up results, and the rule of each word."""

import dataclasses
import functools
import math
import re

import pandas as pd
import pytest
from made_up_results import FRACTIONS, NETWORKS, STORIES, TASKS, TWO_D, made_up, plain

from ctlib import metrics
from ctlib.analysis import findings, preregistration
from ctlib.analysis import text as words
from ctlib.analysis.claims import Claim
from ctlib.analysis.study import NETWORK_COSTS

PLAN = dataclasses.replace(
    preregistration.read("demo"),
    averaged=NETWORKS,
    two_d=TWO_D,
    in_domain=["ct_lidc", "ct_rspect"],
    tasks=TASKS,
    fractions=FRACTIONS,
    seeds=[0, 1, 2],
    questions=[],
    fixed=[],
)
ROW = {
    **{"task": "lidc_nodule", "fraction": 0.25, "label": "mean of 7 networks", "effect": 0.151, "low": 0.103},
    **{
        "high": 0.199,
        "se": 0.0235,
        "freedom": 30.0,
        "p_value": 0.001,
        "auroc_first": 0.852,
        "auroc_second": 0.701,
        "low_mean": 0.09,
    },
    **{"high_mean": 0.21, "p_next": 0.99, "n_patients": 88, "n_positive": 44, "n_seeds": 3, "n_networks": 7},
    **{"margin": 0.05, "level": 0.95, "reason": ""},
}
GAIN = ROW
NOTHING = ROW | {
    "effect": 0.004,
    "low": -0.021,
    "high": 0.029,
    "se": 0.0122,
    "p_value": 0.7,
    "low_mean": -0.03,
    "p_next": 0.6,
}
OPEN = ROW | {
    "effect": 0.02,
    "low": -0.06,
    "high": 0.1,
    "se": 0.039,
    "p_value": 0.5,
    "low_mean": -0.09,
    "p_next": 0.6,
}
LOSS = ROW | {
    "effect": -0.15,
    "low": -0.2,
    "high": -0.1,
    "se": 0.0245,
    "p_value": 0.001,
    "low_mean": -0.3,
    "p_next": 0.01,
}
EMPTY = ROW | dict.fromkeys(("effect", "low", "high", "se", "p_value", "low_mean", "p_next"), math.nan)
EMPTY |= {"reason": "slow_r50 from video, seed 1: run ab12 is failed"}


def claim(*rows):
    table = pd.DataFrame(rows)
    return Claim(1, "video helps", "video − random", "video", table, "", "phantoms, not patients")


# ---- the rule ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([GAIN, GAIN], "supported"),
        ([GAIN, OPEN], "inconclusive"),
        # equivalence refutes nothing by itself; that of all is said
        ([GAIN, NOTHING], "inconclusive"),
        ([OPEN, NOTHING], "inconclusive"),
        ([NOTHING, NOTHING], "no difference that matters"),
        ([NOTHING, EMPTY], "inconclusive"),
        ([LOSS, GAIN], "not supported"),
        ([LOSS, EMPTY], "not supported"),
        ([GAIN, EMPTY], "inconclusive"),
        ([EMPTY], "inconclusive"),
        ([OPEN], "inconclusive"),
        # one loss among twenty comparisons that is none after Holm's correction
        ([LOSS | {"p_value": 0.04}, *[OPEN] * 19], "inconclusive"),
        ([LOSS | {"p_value": 0.04}], "not supported"),
        # so with gains: the smallest p-value of three must be below a third of 5 %
        ([GAIN | {"p_value": 0.02}] * 3, "inconclusive"),
        ([GAIN | {"p_value": 0.016}] * 3, "supported"),
        # an end at 0 does not leave 0 out; a margin of 0 never says that there is no difference
        ([GAIN | {"low": 0.0, "p_value": 0.051}], "inconclusive"),
        ([NOTHING | {"margin": 0.0}], "inconclusive"),
    ],
)
def test_the_verdict_follows_the_rule(rows, verdict):
    assert claim(*rows).verdict == verdict


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([GAIN, EMPTY], "1 of 2 comparisons have no answer: slow_r50 from video, seed 1: run ab12 is failed"),
        ([GAIN | {"n_seeds": 1}, OPEN], "one seed, so the variation between seeds is not in the intervals"),
        (
            [GAIN | {"auroc_first": 0.55, "auroc_second": 0.42}],
            "at lidc_nodule at 25 % neither side reaches an AUROC of 0.6 (0.550 and 0.420), so there was "
            "little to differ in",
        ),
        (
            [GAIN, OPEN],
            "at lidc_nodule at 25 % the interval is 0.080 wide on each side, with 88 test patients and 3 "
            "seeds: smaller effects cannot be excluded",
        ),
        (
            [GAIN | {"low_mean": -0.02}],
            "at lidc_nodule at 25 % networks differ: over networks like these the mean effect is +0.151 "
            "(−0.020 to +0.210)",
        ),
        (
            [GAIN | {"p_next": 0.8}],
            "at lidc_nodule at 25 % a next network would gain with a probability of 0.80",
        ),
        ([GAIN], "it is about phantoms, not patients, and one task"),
        ([GAIN, GAIN | {"task": "rspect_pe"}], "it is about phantoms, not patients, and 2 tasks"),
    ],
)
def test_the_weakest_point_is_the_first_that_is_true(rows, said):
    assert claim(*rows).weakest == said
    assert claim(*rows).sentence().endswith(f"Weakest point: {said}.")


def test_a_claim_is_said_word_for_word():
    assert claim(GAIN, OPEN | {"fraction": 1.0, "n_seeds": 2}).sentence() == (
        "Claim 1, video helps: inconclusive. Difference in AUROC: lidc_nodule at 25 % +0.151 (+0.103 to "
        "+0.199); lidc_nodule at 100 % +0.020 (−0.060 to +0.100) (of 2, gain in 1 and inconclusive in 1; test "
        "patients: 88 of lidc_nodule (44 with disease); seeds: 2 to 3; networks: 7). Weakest point: at "
        "lidc_nodule at 100 % the interval is 0.080 wide on each side, with 88 test patients and 2 seeds: smaller "
        "effects cannot be excluded."
    )


def test_of_many_comparisons_the_smallest_are_said():
    rows = [GAIN | {"effect": 0.2 - 0.01 * i, "label": f"rival {i}"} for i in range(6)]
    sentence = claim(*rows).sentence()
    assert "the smallest of each task and fraction: lidc_nodule at 25 % (rival 5) +0.150" in sentence
    of_2d = dataclasses.replace(claim(*rows), number=2).sentence()
    assert "the strongest 2D competitor of each task and fraction: lidc_nodule at 25 % (rival 5)" in of_2d
    assert "rival 4" not in sentence and "(of 6, gain in 6;" in sentence


def test_a_gain_or_loss_that_does_not_outlive_the_correction_is_said():
    rows = [LOSS | {"p_value": 0.04}, *[OPEN] * 3]
    counted = "(of 4, inconclusive in 4, 1 of them a gain or loss before Holm's correction;"
    assert counted in claim(*rows).sentence()
    assert counted in claim(GAIN | {"p_value": 0.04}, *rows[1:]).sentence()
    assert "Holm" not in claim(LOSS, OPEN, GAIN).sentence()


# ---- five stories ------------------------------------------------------------------------


def study_of(results, plan=PLAN):
    costs = pd.DataFrame([(b, 0.1 * (i + 1), 20.0) for i, b in enumerate([*NETWORKS, *TWO_D])])
    return findings.Study(
        results.runs, results.predictions, results.curves, costs.set_axis(NETWORK_COSTS, axis=1), plan,
        "random", "video", NETWORKS, how=metrics.Bootstrap(400),
    )  # fmt: skip


@functools.cache
def told(story):
    """The claims of a story, and its study."""
    study = study_of(STORIES[story]())
    return findings.claims(study), study


@pytest.mark.parametrize(
    ("story", "verdicts"),
    [
        ("a strong effect", ["supported", "supported", "supported"]),
        ("none", ["no difference that matters"] * 3),
        ("reversed", ["not supported", "not supported", "not supported"]),
        ("too little data", ["inconclusive", "inconclusive", "not asked"]),
        ("runs that failed", ["inconclusive", "inconclusive", "not asked"]),
    ],
)
def test_five_stories_give_the_right_findings(story, verdicts):
    claims, _ = told(story)
    found = [claim.verdict for claim in claims]
    assert found == verdicts
    for made in claims:
        text = made.sentence()
        assert text.startswith(f"Claim {made.number}, {made.text}: {made.verdict}.")
        for row in made.comparisons.to_dict("records")[: 4 if len(made.comparisons) <= 4 else 0]:
            if not pd.isna(row["low"]):
                assert words.interval(row) in text
    assert list(findings.overview(claims)["verdict"]) == [made.verdict for made in claims]


@pytest.mark.parametrize("story", ["a strong effect", "reversed"])
def test_claim_and_section_say_the_same_of_a_comparison(story):
    claims, study = told(story)
    sections = (study.gains, *(findings.QUESTIONS[key].compute(study) for key in ("two_d", "video_or_ct")))
    for claim, section in zip(claims, sections, strict=True):
        corrected = metrics.holm(claim.comparisons["p_value"])
        rows = zip(claim.comparisons.to_dict("records"), claim.conclusions, corrected, strict=True)
        for row, kind, p in rows:
            same = section[
                (
                    section[["task", "fraction", "effect"]] == pd.Series(row)[["task", "fraction", "effect"]]
                ).all(axis=1)
            ]
            assert [words.concluded(other) for other in same.to_dict("records")] == [kind]
            assert same["p_holm"].to_list() == [p]
    single = study.gains[~study.gains["backbone"].str.startswith(metrics.MEAN_OF)]
    assert single["p_holm"].to_list() == metrics.holm(single["p_value"]).tolist()


def test_the_result_has_the_rows_of_the_first_claim_and_of_the_plan(monkeypatch):
    shown = {}
    monkeypatch.setattr(
        findings.figures, "result", lambda *given: shown.update(zip("fcm", given, strict=True))
    )
    claims, study = told("a strong effect")
    tested = pd.DataFrame([
        {"text": "More?", "statistic": "slope", "task": "rspect_pe", "fraction": 1.0, "effect": 0.1, "low": -0.1,
         "high": 0.3, "word": "not decided", "wanted": "rising", "verdict": "not as wanted", "reason": ""},
    ])  # fmt: skip
    rest = {"task": "rspect_pe", "fraction": 1.0, "reason": "", "n_patients": 9, "auroc_second": 0.9}
    nearest = [
        rest | {"exams": exams, "init": init, "label": f"{init} − {told}", "effect": effect, "low": low, "high": -0.01}
        for exams, init, told, effect, low in (
            ("all test exams", "video", "size", -0.02, -0.04), ("all test exams", "video", "kernel", 0.2, 0.1),
            ("all test exams", "random", "size", -0.3, -0.4), ("part", "video", "size", -0.5, -0.6),
        )
    ]  # fmt: skip
    asked = findings.QUESTIONS["beyond_metadata"]
    findings.show_result(study, tested, claims, findings.Answer(asked, study, "", pd.DataFrame(nearest)))
    assert shown["f"].iloc[-1].to_list() == [
        "Do the networks see more than what is known without an image?", "video − size", "rspect_pe at 100 %",
        "−0.020 (−0.040 to −0.010)", "they are worse",
    ]  # fmt: skip
    shown["f"] = shown["f"].iloc[:-1]
    means = study.mean_gains.to_dict("records")
    assert shown["f"]["difference"].to_list() == [*map(words.interval, means), "+0.100 (−0.100 to +0.300)"]
    assert shown["f"]["answer"].to_list() == ["gain"] * len(means) + ["inconclusive"]
    assert shown["m"]["asked"] == "Does video pretraining help in lidc_nodule and rspect_pe?"
    assert shown["m"]["tiles"] == [{"name": "Method check", "word": "not passed", "good": False}]
    assert [claim["verdict"] for claim in shown["m"]["claims"]] == ["supported"] * 3
    assert shown["m"]["caveats"][0].startswith("Weakest point: ") and len(shown["m"]["caveats"]) <= 2
    claims, study = told("runs that failed")
    findings.show_result(study, pd.DataFrame(), claims, findings.answer("beyond_metadata", study))
    assert shown["f"]["difference"].str.startswith("no answer: slow_r50 from video, seed 1: run").all()
    assert shown["m"]["tiles"][0]["word"] == "not asked"


def test_too_little_data_says_how_little():
    text = told("too little data")[0][0].sentence()
    assert "16 of lidc_nodule (8 with disease)" in text and re.search(
        r"the interval is 0\.\d+ wide on each side, with 16 test patients and 3 seeds: smaller effects",
        text,
    )


def test_runs_that_failed_are_named_and_not_averaged_over():
    claims, study = told("runs that failed")
    text = claims[0].sentence()
    lost = study.runs[study.runs["status"] != "finished"]
    assert "4 of 4 comparisons have no answer: slow_r50 from video, seed 1: run" in text
    assert lost["run_id"].iloc[0] in text and "no value" in text and "+0" not in text
    assert set(study.run_aurocs.loc[study.run_aurocs["reason"] != "", "run_id"]) == set(lost["run_id"])


def test_a_claim_without_its_arms_is_not_asked_and_one_list_says_how_to_get_them():
    study = study_of(made_up(plain({}), ("random", "video"), n_patients=16, backbones=NETWORKS))
    claims = findings.claims(study)
    assert claims[1].sentence() == (
        "Claim 2, with it, 3D networks outperform 2D ones: not asked. The grid holds no 2D network."
    )
    assert claims[2].verdict == "not asked" and claims[2].sentence().endswith("no starting weights from CT.")
    needs = findings.not_asked(study).set_index("question")["needs"]
    assert needs["3D against 2D"].endswith("add one, resnet18 say, to `backbones` of 03_finetune_grid.")
    assert "make ct_rspect for lidc_nodule and ct_lidc for rspect_pe" in needs["Video against CT"]
    only = study_of(made_up(plain({}), ("random",), n_patients=16))
    assert findings.claims(only)[0].sentence().endswith(": not asked. The grid holds no run from video.")
    assert "add it to `inits` of 03_finetune_grid" in "".join(findings.not_asked(only)["needs"])


def test_without_a_plan_no_difference_is_ever_said():
    study = study_of(STORIES["none"](), plan=None)
    assert findings.claims(study)[0].verdict == "inconclusive"


def test_results_of_one_class_have_no_verdict():
    claims = findings.claims(study_of(made_up(plain({"video": 0.1}), n_patients=20, label=1)))
    assert claims[0].verdict == "inconclusive"
    assert "all 20 labels are 1" in claims[0].sentence()
