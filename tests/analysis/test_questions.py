"""The questions: what is said comes from the table, and what is missing is said."""

import dataclasses
import functools
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from made_up_results import NETWORKS, TASKS, made_up, plain
from test_claims import study_of
from test_comparisons import BAD, spoilt, still, two_inits

from ctlib import metrics
from ctlib.analysis import findings, text
from ctlib.analysis.questions import calibration, effect, speed_and_cost
from ctlib.core import Contract
from ctlib.core.workspace import Workspace, write_json
from ctlib.visualization.html import figure_html

CONTROLS = ["shuffled:video", "first_2:video", "flat:video", "reversed:video", "frozen:video"]
GAINS = {"video": 0.14, "ct_lidc": 0.04, "video+ct_lidc": 0.16, "flat:video": 0.05, "reversed:video": 0.13}


@functools.cache
def whole():
    """A study that answers everything."""
    return study_of(
        made_up(plain(GAINS), ("random", *GAINS, "shuffled:video", "first_2:video", "frozen:video"))
    )


@functools.cache
def with_unlabelled():
    """A study whose 3D networks saw CT without labels after video."""
    gains = {"video": 0.1, "video+ct_lidc": 0.13, "video+ct_lidc_ssl": 0.2}
    return study_of(made_up(plain(gains), ("random", *gains)))


@functools.cache
def with_heads():
    """A study of frozen and finetuned networks, from random weights, video and CT."""
    gains = {
        "video": 0.1,
        "ct_lidc": 0.05,
        "linear:random": -0.1,
        "linear:video": 0.05,
        "linear:ct_lidc": 0.0,
    }
    return study_of(made_up(plain(gains), ("random", *gains), fractions=[1.0]))


STUDIES = {"unlabelled_ct": with_unlabelled, "families": with_heads, "frozen": with_heads}


@functools.cache
def answered(key):
    return findings.answer(key, STUDIES.get(key, whole)())


ANSWERED = [key for key in findings.QUESTIONS if key not in ("localization", "subgroups", "beyond_metadata")]
"""Questions that need no exam, so that made-up tables are enough."""


def numbers(text):
    return re.findall(r"[+−]?\d[\d,]*(?:\.\d+)?", text)


@pytest.mark.slow
@pytest.mark.parametrize("key", ANSWERED)
def test_a_question_has_a_sentence_a_table_and_a_figure(key):
    found = answered(key)
    assert len(found.table) and found.sentence and not found.sentence.startswith("No answer")
    asked = found.question
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html = figure_html(asked.draw(found.study, found.table), asked.alt, asked.caption(found.table))
    assert "image/svg+xml" in html and len(html) < 170_000
    assert set(asked.columns) <= set(found.table.columns)


@pytest.mark.parametrize("key", ANSWERED)
def test_another_table_gives_another_sentence(key):
    """Each column that is said is changed in turn; the sentence follows, and says what the table holds."""
    asked, table = findings.QUESTIONS[key], answered(key).table
    before, followed = asked.say(table), []
    for name in table.select_dtypes("number").columns.drop("level", errors="ignore"):
        changed = table.copy()
        changed[name] = changed[name].astype(float) + (1 if name.startswith("n_") else 0.111)
        if asked.say(changed) != before:
            followed.append(name)
    assert SAID[key] <= set(followed), followed


SAID = {
    "effect": {"effect", "low", "high", "p_next", "low_p_next", "high_p_next", "n_networks", "p_holm"},
    "not_learned": {"n_unlearned", "n_runs"},
    "fractions": {"effect", "low", "high", "fraction", "low_ratio"},
    "two_d": {"effect", "low", "high", "fraction", "p_holm"},
    "video_or_ct": {"effect", "low", "high", "fraction"},
    "unlabelled_ct": {"effect", "low", "high", "fraction"},
    "families": {"effect", "low", "high", "fraction"},
    "frozen": {"effect", "low", "high", "fraction"},
    "weight_ablations": {"effect", "low", "high", "fraction", "kept"},
    "why": {"effect", "low", "high", "fraction"},
    "speed": {"epoch", "target", "n_reached", "n_runs"},
    "cost": {"auroc", "low", "high", "multiply_adds_g", "seconds", "fraction"},
    "calibration": {
        "ece",
        "lower_quartile_ece",
        "upper_quartile_ece",
        "ece_floor",
        "slope",
        "brier",
        "n_runs",
    },
    "negative_controls": {"auroc", "low", "high", "n_runs"},
    "injected_effects": {"shift", "seen", "all_seeds", "n_half", "n_seeds"},
}
"""Columns of which each sentence speaks."""


LOOKED = {
    **{
        "task": "lidc_nodule",
        "backbone": "slow_r50",
        "init": "video",
        "measure": "slice_auroc",
        "value": 0.8,
    },
    **{"low": 0.7, "high": 0.9, "untrained": 0.5, "gain": 0.3, "gain_low": 0.1, "gain_high": 0.5},
    **{"n_patients": 44, "n_exams": 44, "n_seeds": 3, "reason": ""},
}
GROUP = {"task": "lidc_nodule", "by": "kernel", "group": "B30f", "p_holm": 0.5}


@pytest.mark.parametrize(
    ("key", "row", "changes"),
    [
        ("localization", LOOKED, ["n_patients"]),
        ("localization", LOOKED | {"gain_low": np.nan, "reason": "nobody drew a contour"}, []),
        ("subgroups", GROUP, []),
    ],
)
def test_what_is_said_of_exams_is_in_the_table(key, row, changes):
    said = findings.QUESTIONS[key].say(pd.DataFrame([row]))
    assert row["task"] in said and row["reason" if key == "localization" else "task"] in said
    for name in changes:
        assert findings.QUESTIONS[key].say(pd.DataFrame([row | {name: row[name] + 1}])) != said, name
    if key == "subgroups":
        assert findings.QUESTIONS[key].say(pd.DataFrame([row | {"p_holm": 0.01}])) != said


def test_controls_that_were_not_run_are_named():
    said = answered("negative_controls").sentence
    assert "no run of permuted_labels or shuffled_slices; name it in `controls` of 03_finetune_grid" in said
    assert "metadata alone" in said and "chance gives" in said


def test_controls_that_were_run_are_read_from_their_own_tables(tmp_path):
    from ctlib.core import tables

    work = Workspace(tmp_path)
    study = dataclasses.replace(whole(), work=work)
    runs = study.runs[(study.runs["fraction"] == 1) & (study.runs["backbone"] == "slow_r50")]
    runs = runs[runs["init"].isin(["random", "video"])]
    renamed = runs.assign(run_id="c" + runs["run_id"], control="permuted_labels")
    scores = study.predictions[study.predictions["run_id"].isin(runs["run_id"])]
    tables.write(renamed, "controls", work.table("controls"))
    scores = scores.assign(run_id="c" + scores["run_id"])
    tables.write(scores, "predictions", work.table("control_predictions"))
    found = findings.answer("negative_controls", study)
    own = found.table[found.table["kind"] == "runs"]
    assert set(own["init"]) == {"random", "video"} and own["change"].abs().max() < 1e-12
    assert "permuted labels, from video: AUROC 0." in found.sentence
    assert "no run of shuffled_slices; name it" in found.sentence


@pytest.mark.parametrize(
    "key",
    ["effect", "two_d", "video_or_ct", "unlabelled_ct", "families", "frozen", "weight_ablations", "why"],
)
def test_every_difference_that_is_said_is_in_the_table(key):
    table = answered(key).table
    held = {f"{v:+.3f}".replace("-", "−") for c in ("effect", "low", "high") for v in table[c].dropna()}
    said = [n for n in numbers(answered(key).sentence) if n[0] in "+−"]
    assert said and set(said) <= held


def test_ct_without_labels_is_compared_with_video_and_with_labels_of_ct():
    table = answered("unlabelled_ct").table
    assert set(table["label"]) == {"video+ct_lidc_ssl − video", "video+ct_lidc_ssl − video+ct_lidc"}
    effects = table.groupby("label")["effect"].mean()
    assert effects["video+ct_lidc_ssl − video"] > effects["video+ct_lidc_ssl − video+ct_lidc"] > 0
    both = findings.answer("video_or_ct", with_unlabelled()).table
    assert set(both["label"]) == {"video+ct_lidc − video"}


def test_kinds_of_weights_are_compared_on_the_same_networks_by_mode_and_the_best_by_validation():
    study = with_heads()
    table = answered("families").table.query("task == 'lidc_nodule'").set_index("label")
    assert table.loc["video − CT, finetuned", ["kind", "paired", "k"]].tolist() == [
        *("mean", "the same networks", "4 and 4"),
    ]
    assert table.loc["video − CT, linear", "effect"] == pytest.approx(0.05 * 3 / 4, abs=0.03)
    assert table.loc["video − random, linear", "effect"] > table.loc["CT − random, linear", "effect"]
    best = table.loc["video − CT, finetuned, best of 4 and 4"]
    runs = study.runs[study.runs["task"] == "lidc_nodule"]
    reached = runs.groupby(["init", "backbone"])["val_auroc"].mean()
    assert best["chosen"] == f"{reached['video'].idxmax()} video − {reached['ct_lidc'].idxmax()} ct_lidc"
    swapped = runs.assign(val_auroc=1 - runs["val_auroc"])  # another choice, whatever the test says
    other = findings.answer("families", dataclasses.replace(study, runs=swapped)).table
    assert best["chosen"] not in set(other["chosen"])


def test_weights_that_have_seen_the_test_data_are_named_and_left_out_beside():
    study = dataclasses.replace(with_heads(), data_from="luna16")
    assert "Overlap: weights ct_lidc have seen scans of lidc" in findings.answer("families", study).sentence
    gains = {"video": 0.1, "ct_lidc": 0.0, "ct_rspect": 0.1}
    both = study_of(made_up(plain(gains), ("random", *gains), tasks=["lidc_nodule"], fractions=[1.0]))
    table = findings.answer("families", both).table.set_index("label")
    apart = table.loc["video − CT, finetuned, without overlap"]
    assert apart["kind"] == "apart" and apart["effect"] < table.loc["video − CT, finetuned", "effect"] - 0.02
    assert table.loc["video − random, finetuned", "effect"] > 0.05


def test_how_clips_were_cut_for_weights_is_said_beside_what_they_are_worth(tmp_path):
    study = dataclasses.replace(with_heads(), work=Workspace(tmp_path))
    arm = (study.runs["backbone"] == "slow_r50") & (study.runs["init"] == "video")
    asked = {"contract": Contract("RAS", (1.5, 1.5, 1.5)).text}
    write_json(study.there.runs / study.runs.loc[arm, "run_id"].iloc[0] / "run.json", asked)
    said = (
        "Clips were cut by the input contracts of weights, video of slow_r50: axes RAS; 1.5 x 1.5 x 1.5 mm."
    )
    assert said in findings.answer("families", study).sentence.splitlines()
    assert "input contracts" not in answered("families").sentence


def test_a_head_on_frozen_features_is_paired_with_its_network_finetuned():
    table = answered("frozen").table.query("task == 'lidc_nodule'").set_index("label")
    assert {"slow_r50, video, linear", "mean of 3 networks, video, linear"} <= set(table.index)
    assert table.loc["mean of 3 networks, video, linear", "effect"] == pytest.approx(-0.05, abs=0.03)
    gains = table.loc[["video − random, linear", "video − random, finetuned"], "effect"]
    assert gains.tolist() == pytest.approx([0.15, 0.1], abs=0.03)


def test_a_comparison_has_no_row_where_the_grid_has_no_run_of_a_side():
    """CT is not planned with few patients: that is no comparison without an answer."""
    study = whole()
    runs = study.runs[(study.runs["init"] != "ct_lidc") | (study.runs["fraction"] == 1)]
    found = findings.answer("video_or_ct", dataclasses.replace(study, runs=runs)).table
    assert set(found.loc[found["label"] == "video − ct_lidc", "fraction"]) == {1.0}
    assert set(found.loc[found["label"] == "video+ct_lidc − video", "fraction"]) > {1.0}


def test_a_gain_that_does_not_outlive_the_correction_is_not_counted():
    row = {"effect": 0.1, "se": 0.04, "freedom": 30.0, "p_holm": 0.2, "margin": 0.05, "level": 0.95}
    assert text.conclusions(pd.DataFrame([row])) == "of 1 comparison, 1 inconclusive"
    assert text.conclusions(pd.DataFrame([row | {"p_holm": 0.01}])) == "of 1 comparison, 1 gain"
    lost = row | {"effect": -0.15, "p_holm": 0.01}
    nothing = row | {"effect": 0.001, "se": 0.01, "p_holm": 1.0}
    empty = row | {"effect": np.nan, "se": np.nan, "p_holm": np.nan}
    assert text.conclusions(pd.DataFrame([lost, lost, nothing, empty])) == (
        "of 4 comparisons, 2 losses, 1 equivalent within the margin and 1 without an answer"
    )


def test_findings_are_loaded_without_what_only_grad_cam_needs():
    """torch and MONAI, with the JSON validators that it brings, take seconds: they are loaded where they are used."""
    code = "import sys, ctlib.analysis.findings; sys.exit(bool({'torch', 'monai', 'jsonschema'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- video alone -------------------------------------------------------------------------


@functools.cache
def of_kinetics(lost=False):
    """Three networks, of which swin3d_t began from photographs; it gains more than the others."""

    def auroc(task, backbone, init, fraction):
        return 0.7 if init == "random" else 0.8 + 0.1 * (backbone == "swin3d_t")

    why = (
        (lambda row: "failed" if row["backbone"] == "slow_r50" and row["seed"] == 1 else "") if lost else None
    )
    results = made_up(
        auroc, ("random", "kinetics400"), n_patients=60, backbones=NETWORKS, tasks=TASKS[:1], lost=why
    )
    return dataclasses.replace(study_of(results), compared="kinetics400")


def test_the_main_comparison_is_given_once_more_over_networks_that_saw_video_alone():
    study = of_kinetics()
    before = study.effects.copy()
    said, left_out = findings.say_pure_video(study)
    pd.testing.assert_frame_equal(study.effects, before)
    pure = ["slow_r50", "r2plus1d_r50"]
    alone = metrics.effects(
        study.runs, study.predictions, "random", "kinetics400", pure, study.how, study.rule
    )
    rows = zip(
        alone[alone["backbone"] == "mean of 2 networks"].to_dict("records"),
        study.mean_gains.to_dict("records"),
        strict=True,
    )
    told = [f"{text.place(a)} {text.interval(a)}, of all 3 {text.interval(b)}" for a, b in rows]
    assert said == (
        "Pure video (exploratory): mean of slow_r50 and r2plus1d_r50, kinetics400 minus random: "
        f"{'; '.join(told)}."
    )
    assert len(told) == 2 and all(
        a < b for a, b in (map(float, re.findall(r"\+0\.\d+(?= \()", t)) for t in told)
    )
    assert left_out == (
        "Left out, as their weights have not seen video alone: swin3d_t saw ImageNet-1K (photographs), then "
        "Kinetics-400 (video)."
    )


def test_where_all_or_none_saw_video_alone_one_sentence_says_so():
    results = made_up(
        plain({}), ("random", "video", "ct_lidc", "video+ct_lidc"), n_patients=16, tasks=TASKS[:1]
    )
    study = study_of(results)
    assert findings.say_pure_video(study) == [
        "Pure video: of 3 averaged networks from video, all weights have seen nothing but video."
    ]
    assert (
        findings.say_pure_video(dataclasses.replace(study, compared="frozen:video")) == []
    )  # not in the grid
    assert findings.say_pure_video(dataclasses.replace(study, compared="video+ct_lidc")) == [
        "Pure video: no averaged network from video+ct_lidc has seen video alone: slow_r50, r2plus1d_r50 and swin3d_t "
        "saw video (video), then ct_lidc (CT)."
    ]
    assert (
        "swin3d_t saw nothing." in findings.say_pure_video(dataclasses.replace(study, compared="random"))[0]
    )


def test_a_missing_run_leaves_pure_video_without_an_interval_and_is_named():
    effect_said, why, *_ = findings.say_pure_video(of_kinetics(lost=True))
    assert "lidc_nodule at 25 % no value, of all 3 no value" in effect_said
    assert why.startswith(
        "No interval for mean of 2 networks, lidc_nodule at 25 %: slow_r50 from kinetics400, seed 1: run"
    )


def test_what_a_run_has_recorded_of_its_weights_counts_more_than_the_name_of_its_init(tmp_path):
    study = dataclasses.replace(of_kinetics(), work=Workspace(tmp_path))
    runs = study.runs[(study.runs["backbone"] == "slow_r50") & (study.runs["init"] == "kinetics400")]
    for name, content in zip(
        runs["run_id"], ({}, {"seen": [{"what": "our scans", "kind": "CT"}]}), strict=False
    ):
        write_json(tmp_path / "runs" / name / "result.json", content)  # the first is of an older version
    assert [str(step) for step in study.chain("slow_r50", "kinetics400")] == ["our scans (CT)"]
    assert [str(step) for step in study.chain("r2plus1d_r50", "kinetics400")] == ["Kinetics-400 (video)"]
    assert effect.pure_video(study)[0] == ["r2plus1d_r50"]
    assert findings.say_pure_video(study)[0].startswith(
        "Pure video (exploratory): r2plus1d_r50, kinetics400 minus "
    )


# ---- what the grid does not hold ---------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("video_or_ct", "make ct_rspect for lidc_nodule"),
        ("families", "holds weights of one kind, or of none; add weights from video"),
        ("frozen", "no network both frozen and finetuned; set `modes` of 03_finetune_grid to both"),
        ("unlabelled_ct", "after video; make video+ct_lidc_ssl, say, with `pretrained` of 02_pretrain"),
        (
            "weight_ablations",
            "meanvar:video, shuffled:video, first_2:video, flat:video, reversed:video or frozen:video to",
        ),
        (
            "why",
            "neither reversed:video nor flat:video beside video; add them to `inits` of 03_finetune_grid",
        ),
        ("two_d", "add one, resnet18 say, to `backbones` of 03_finetune_grid"),
    ],
)
def test_what_the_grid_lacks_is_one_sentence_and_no_error(key, said, tmp_path, capsys):
    study = study_of(made_up(plain({}), n_patients=16, backbones=["slow_r50", "r2plus1d_r50", "swin3d_t"]))
    found, work = findings.answer(key, study), Workspace(tmp_path)
    old = tmp_path / "answers" / f"{key}.csv"
    old.parent.mkdir()
    old.write_text("of an earlier grid")
    found.show(work)
    assert found.sentence.startswith("No answer: ") and said in found.sentence
    assert capsys.readouterr().out == "" and found.table.empty and not old.exists()
    listed = findings.not_asked(study).set_index("needs")["question"]
    assert found.question.title in listed[found.sentence.removeprefix("No answer: ")]


@pytest.mark.slow
@pytest.mark.parametrize("key", findings.QUESTIONS)
@pytest.mark.parametrize("why", ["nothing finished", "one class", "no run of the init"])
def test_no_question_ends_in_an_error(key, why, tmp_path, capsys):
    results = {
        "nothing finished": lambda: made_up(plain({}), n_patients=8, lost=lambda row: "failed"),
        "one class": lambda: made_up(plain({}), n_patients=8, label=0),
        "no run of the init": lambda: made_up(plain({}), ("random",), n_patients=8),
    }[why]()
    study = study_of(results)
    found = findings.answer(key, study)
    found.show(Workspace(tmp_path))
    named = found.question.title in " ".join(findings.not_asked(study)["question"])
    assert bool(capsys.readouterr().out) != named


def test_a_question_that_is_unknown_is_named():
    with pytest.raises(ValueError, match="is called 'hlep'; known are effect, not_learned, fractions"):
        findings.answer("hlep", whole())


# ---- files -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["effect", "cost"])
def test_an_answer_leaves_its_table_as_csv(key, tmp_path, capsys):
    answered(key).show(Workspace(tmp_path))
    read = pd.read_csv(tmp_path / "answers" / f"{key}.csv")
    assert list(read.columns) == list(answered(key).table.columns) and len(read) == len(answered(key).table)
    assert [path.name for path in (tmp_path / "answers").iterdir()] == [f"{key}.csv"]


# ---- single computations -----------------------------------------------------------------


def test_runs_that_never_reach_the_target_are_later_than_all():
    study = whole()
    first = speed_and_cost.first_epochs(study.curves, study.runs, 2.0)
    assert first["epoch"].isna().all() and len(first) == len(study.runs)
    table = pd.DataFrame(answered("speed").table)
    for row in table.itertuples():
        assert (np.isnan(row.epoch)) == (row.n_reached * 2 < row.n_runs)


WORTH = {
    **{"init": "video", "baseline": "random", "fraction": 0.25, "n_exams": 20.0, "extrapolated": False},
    **{"equal_exams": 60.0, "ratio": 3.0, "low_ratio": 1.6, "high_ratio": 9.0, "reason_worth": ""},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "video with 20 exams is as good as random with 60: 3.0 times as many (1.6 to 9.0)."),
        ({"equal_exams": np.nan, "high_ratio": np.inf, "reason_worth": "it is flat"},
         "video with 20 exams is as good as random with at least 1.6 times as many; how many at most is not "
         "measurable: it is flat."),
        ({"equal_exams": np.nan, "low_ratio": 0.0, "high_ratio": np.inf, "reason_worth": "it is flat"},
         "What video is worth in exams at 25 % is not measurable: it is flat."),
        ({"equal_exams": np.nan, "low_ratio": np.nan, "reason_worth": "one fraction"},
         "What video is worth in exams at 25 % is not measurable: one fraction."),
        ({"low_ratio": np.nan, "high_ratio": np.nan}, "3.0 times as many (no interval)."),
        ({"ratio": 407.9, "high_ratio": np.inf},
         "as good as random with more than 10 times as many (1.6 to more than 10)."),
    ],
)  # fmt: skip
def test_a_worth_without_an_upper_end_is_no_number(changes, said):
    assert effect._worth(WORTH | changes).endswith(said)


def test_exams_to_a_target_are_those_of_the_fitted_curve():
    fit = pd.Series({"a": 2.0, "b": 0.4, "c": 0.05, "reason": ""})
    exams, why = speed_and_cost.exams_to(0.8, fit)
    assert 1 - (2.0 * exams**-0.4 + 0.05) == pytest.approx(0.8) and why == ""
    assert (
        np.isnan(speed_and_cost.exams_to(0.96, fit)[0]) and "never" in speed_and_cost.exams_to(0.96, fit)[1]
    )
    assert speed_and_cost.exams_to(0.8, pd.Series({"a": np.nan, "b": np.nan, "c": 0.0, "reason": ""}))[1]


LUCK = {"n_positive_val": 12, "n_negative_val": 12, "n_epochs": 4, "by_luck": 0.047, "by_luck_ever": 0.18}


def test_a_target_is_told_beside_what_luck_reaches():
    row = answered("speed").table.iloc[0].to_dict()
    said = speed_and_cost.say_speed(pd.DataFrame([row | LUCK]))
    assert (
        "With 12 validation exams with disease and 12 without, scores that know nothing reach it in 4.7 %"
        in said
    )
    assert "a run of 4 epochs by luck alone with a probability of up to 18 %." in said
    assert "not known: there are no validation scores of both classes" in answered("speed").sentence


def test_luck_is_counted_from_the_validation_exams_of_a_run():
    study = whole()
    val = study.predictions[study.predictions["patient_id"] < "p0020"].assign(split="val")
    table = speed_and_cost.compute_speed(
        dataclasses.replace(study, predictions=pd.concat([study.predictions, val], ignore_index=True))
    )
    assert (table["n_positive_val"] == 10).all() and (table["n_negative_val"] == 10).all()
    assert (table["n_epochs"] == 4).all()
    one = metrics.auroc_by_luck(0.7, 10, 10).value
    assert table["by_luck"].to_numpy() == pytest.approx(one)
    assert table["by_luck_ever"].to_numpy() == pytest.approx(1 - (1 - one) ** 4)


def costed(**changes):
    row = {
        "task": "t",
        "fraction": 1.0,
        "init": "video",
        "low": 0.8,
        "high": 0.9,
        "seconds": 9.0,
        "margin": 0.05,
    }
    row |= {"backbone": "large", "auroc": 0.86, "multiply_adds_g": 9.0, "is_best": True}
    cheap = {"backbone": "small", "auroc": 0.84, "multiply_adds_g": 1.0, "is_best": False}
    cheap |= {"behind": -0.02, "low_behind": -0.04, "high_behind": 0.0}
    return speed_and_cost.say_cost(pd.DataFrame([row, row | cheap | changes]))


def test_the_cheapest_is_as_good_by_a_comparison_with_the_best():
    assert "as good within 0.05 on the same patients is 0.840 (0.800 to 0.900), small from video" in costed()
    assert "−0.020 (−0.040 to +0.000) against the best" in costed()
    # its own interval holds the best AUROC, and the paired one does not exclude a loss that matters
    assert "No cheaper one is shown to be as good within 0.05" in costed(low_behind=-0.06)
    assert "No cheaper one" in costed(multiply_adds_g=10.0)
    assert "No cheaper one" in costed(low_behind=np.nan)
    row = {
        "task": "t",
        "fraction": 1.0,
        "init": "video",
        "backbone": "large",
        "auroc": 0.86,
        "low": 0.8,
        "high": 0.9,
    }
    alone = pd.DataFrame([row | {"multiply_adds_g": np.nan, "seconds": 9.0, "margin": 0.0}])
    assert "No plan names a margin, so none can be called as good." in speed_and_cost.say_cost(alone)


def test_each_arm_is_compared_with_the_best_of_its_task():
    study, table = whole(), answered("cost").table
    for task, part in table.groupby("task"):
        best = part[part["is_best"].astype(bool)]
        assert len(best) == 1 and best["auroc"].item() == part["auroc"].max()
        others = part[~part["is_best"].astype(bool)]
        assert others["behind"].to_numpy() == pytest.approx(others["auroc"] - part["auroc"].max(), abs=1e-12)
        row, top = others.iloc[0], best.iloc[0]
        sides = [((at["backbone"], at["init"]),) for at in (row, top)]
        wanted = metrics.contrasts(
            study.runs[study.runs["fraction"] == 1.0],
            study.predictions,
            [metrics.Contrast("pair", *sides)],
            study.how,
        )
        wanted = wanted[wanted["task"] == task].iloc[0]
        assert [row["low_behind"], row["high_behind"]] == pytest.approx([wanted["low"], wanted["high"]])


def test_the_decision_curve_is_the_mean_of_those_of_the_runs():
    exams, table = calibration._exams(whole()), calibration.decision(whole())
    for (task, init), part in exams.groupby(["task", "init"]):
        found = table[(table["task"] == task) & (table["init"] == init)]
        at = found["threshold"].to_numpy()
        single = [
            metrics.decision_curve(run["label"], run["score"], at)["net_benefit"].to_numpy()
            for _, run in part.groupby("run_id")
        ]
        assert found["net_benefit"].to_numpy() == pytest.approx(np.mean(single, axis=0), abs=1e-12)
        assert (found["low"] < found["net_benefit"]).any() and (found["n_seeds"] == 3).all()


MEDIANS = {"ece": 0.15, "slope": 1.1, "brier": 0.2, "sensitivity": 0.61, "specificity": 0.87}
CALIBRATED = {
    **{"task": "lidc_nodule", "fraction": 1.0, "init": "video", "n_runs": 9, "ece_floor": 0.13},
    **{"wanted": 0.9, "n_unchosen": 0, "reason_unchosen": ""},
    **MEDIANS,
    **{f"lower_quartile_{name}": value - 0.02 for name, value in MEDIANS.items()},
    **{f"upper_quartile_{name}": value + 0.02 for name, value in MEDIANS.items()},
}


def test_a_calibration_error_stands_beside_its_floor_and_sensitivity_beside_its_specificity():
    say = findings.QUESTIONS["calibration"].say
    said = say(pd.DataFrame([CALIBRATED]))
    assert "calibration error is 0.15 (0.13 to 0.17), where scores that are right would have 0.13" in said
    assert "chosen on the validation exams for a specificity of 0.9: from video a sensitivity of 0.61" in said
    assert "(0.59 to 0.63) with a specificity of 0.87 (0.85 to 0.89) in the test." in said
    some = CALIBRATED | {"n_unchosen": 2, "reason_unchosen": "threshold: one class"}
    assert "in the test; 2 of 9 runs have none (threshold: one class)." in say(pd.DataFrame([some]))
    none = pd.DataFrame([some | {"n_unchosen": 9}])
    assert "0.9: from video 9 of 9 runs have none (threshold: one class)." in say(none)


def test_without_validation_scores_no_sensitivity_is_given():
    assert "sensitivity: no validation score to choose the threshold on" in answered("calibration").sentence
    assert answered("calibration").table["sensitivity"].isna().all()


def test_what_is_kept_of_the_gain_is_a_share_of_the_whole():
    table = answered("weight_ablations").table
    for _, part in table.groupby(["task", "fraction"]):
        whole_gain = part[part["label"] == "video"]["effect"].iloc[0]
        assert part["kept"].to_numpy() == pytest.approx((part["effect"] / whole_gain).to_numpy())
    assert [label.split(":")[0] for label in part["label"]] == [
        "shuffled", "first_2", "flat", "reversed", "frozen", "video",
    ]  # fmt: skip


def test_seeds_behind_a_mean_are_those_of_its_runs():
    study = whole()
    row = study.gains[study.gains["backbone"] == "slow_r50"].iloc[0]
    runs = study.run_aurocs
    own = runs[
        (runs["task"] == row["task"])
        & (runs["fraction"] == row["fraction"])
        & (runs["backbone"] == "slow_r50")
    ]
    wide = own.pivot(index="seed", columns="init", values="auroc")
    assert [float(v) for v in row["by_seed"].split()] == pytest.approx(
        (wide["video"] - wide["random"]).tolist(), abs=1e-4
    )
    assert np.mean([float(v) for v in row["by_seed"].split()]) == pytest.approx(row["effect"], abs=1e-4)
    assert metrics.MEAN_OF in study.mean_gains["backbone"].iloc[0]


# ---- runs that did not learn -------------------------------------------------------------


@functools.cache
def unlearned():
    return findings.answer("not_learned", study_of(spoilt(two_inits(), BAD, still)))


def test_the_sentence_names_them_and_gives_both_effects():
    said = unlearned().sentence
    row = unlearned().table.set_index("backbone").loc["mean of 3 networks"]
    assert "lidc_nodule at 100 %, mean of 3 networks: 2 of 18 runs did not learn: swin3d_t from video" in said
    assert f"{row['effect']:+.3f} (" in said and "with all 9 pairs, " in said
    assert f"{row['effect_left']:+.3f} (" in said and "with the 7 of which both sides learned" in said
    assert "exploratory" in said


def test_the_sentence_says_that_all_learned_or_that_no_pair_is_left():
    row = unlearned().table.set_index("backbone", drop=False).loc["mean of 3 networks"]
    none = pd.DataFrame([row.to_dict() | {"n_unlearned": 0, "unlearned": ""}])
    assert effect.say_unlearned(none).endswith("mean of 3 networks: all 18 runs learned.")
    empty = pd.DataFrame([row.to_dict() | {"n_left": 0, "effect_left": np.nan}])
    assert "with all 9 pairs, no pair is left of which both sides learned." in effect.say_unlearned(empty)
    lost = none.assign(effect_left=np.nan, reason_left="run ab is failed")
    assert effect.say_unlearned(lost).endswith("no answer: run ab is failed.")


def test_the_figure_has_a_line_with_all_pairs_and_one_without():
    drawn = unlearned().question.draw(unlearned().study, unlearned().table)
    words = [text.get_text() for text in drawn.axes[0].texts]
    assert "mean of 3 networks" in words and "mean of 3 networks, both learned" in words
