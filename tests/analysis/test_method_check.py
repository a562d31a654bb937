"""The method's own questions: each outcome that is planted is read with its word; what the hash covers."""

import dataclasses

import pandas as pd
import pytest
from made_up_results import NETWORKS, SEEDS, made_up, plain
from test_claims import study_of

from ctlib.analysis import findings, preregistration
from ctlib.analysis.preregistration import RULES, Asked
from ctlib.analysis.questions.method_check import ASKED
from ctlib.datasets.synthetic import GENERATORS
from ctlib.metrics.decisions import WORDS

INITS = ("random", "video_placebo", "video_part", "video", "video_b")
KNOWLEDGE = Asked("knowledge", "Does it help?", "superiority", "lidc_nodule", 1.0, ["video", "video_placebo"],
                  [], 0.05, "shown")  # fmt: skip
MORE = Asked("more", "Is more better?", "trend", "lidc_nodule", 1.0, ["random", "video_part", "video"],
             [0.0, 0.333, 1.0], 0.05, "rising")  # fmt: skip
DRAWS = Asked("draws", "Are draws alike?", "equivalence", "lidc_nodule", 1.0, ["video", "video_b"], [], 0.05,
              "equivalent")  # fmt: skip
OPTIMISATION = dataclasses.replace(DRAWS, key="optimisation", inits=["video_placebo", "random"], wanted="")
HEAD = "Method check (phantoms, not patients)"
NOTHING = {"video_placebo": 0.0, "video_part": 0.05, "video": 0.15, "video_b": 0.15}


def answered(gains, *questions, apart=0.0, **made):
    """Answers of made-up results; `apart` sets networks apart in what video gains."""
    of = plain(gains)

    def auroc(task, backbone, init, fraction):
        shift = apart * (NETWORKS.index(backbone) - 1) if init == "video" else 0.0
        return min(max(of(task, backbone, init, fraction) + shift, 0.05), 0.985)

    study = study_of(made_up(auroc, inits=INITS, n_patients=600, backbones=NETWORKS, seed_sd=0.005, **made))
    plan = dataclasses.replace(study.plan, averaged=NETWORKS, seeds=SEEDS, questions=list(questions))
    return findings.method(dataclasses.replace(study, plan=plan))


@pytest.mark.parametrize(
    ("question", "gains", "apart", "word"),
    [
        (KNOWLEDGE, {}, 0.0, "shown"),
        (KNOWLEDGE, {"video": 0.0}, 0.0, "refuted"),
        (KNOWLEDGE, {"video": -0.15}, 0.0, "refuted"),
        (KNOWLEDGE, {"video": 0.05}, 0.15, "not decided"),
        (MORE, {}, 0.0, "rising"),
        (MORE, {"video": -0.15, "video_part": -0.05}, 0.0, "falling"),
        (MORE, {"video": 0.0, "video_part": 0.0}, 0.0, "not decided"),
        (DRAWS, {}, 0.0, "equivalent"),
        (DRAWS, {"video_b": 0.0}, 0.0, "different"),
        (DRAWS, {}, 0.15, "not decided"),
    ],
)
def test_what_is_planted_is_read_with_its_word(question, gains, apart, word):
    [row] = answered(NOTHING | gains, question, apart=apart).to_dict("records")
    assert row["word"] == word and row["reason"] == ""
    assert row["verdict"] == ("as wanted" if word == question.wanted else "not as wanted")
    assert row["n_networks"] == len(NETWORKS) and row["n_seeds"] == len(SEEDS)


def test_the_method_passes_by_all_wanted_words_and_by_nothing_else():
    good = answered(NOTHING, KNOWLEDGE, MORE, DRAWS, OPTIMISATION)
    assert findings.passes(good) and list(good["verdict"])[-1] == "told only"
    assert findings.say_method(good)[0] == f"{HEAD}: passed; 3 questions ended as the plan expects."
    bad = answered(NOTHING | {"video_b": 0.0}, KNOWLEDGE, MORE, DRAWS, OPTIMISATION)
    assert not findings.passes(bad)
    assert findings.say_method(bad)[0] == f"{HEAD}: not passed; draws is different, not equivalent."
    assert not findings.passes(answered(NOTHING, OPTIMISATION))
    assert "asks nothing of the method" in findings.say_method(pd.DataFrame())[0]


def test_numbers_of_a_sentence_are_those_of_its_row():
    table = answered(NOTHING, KNOWLEDGE)
    row, sentence = table.iloc[0], findings.say_method(table)[1]
    for name in ("effect", "low", "high"):
        assert f"{row[name]:+.3f}".replace("-", "\N{MINUS SIGN}") in sentence
    assert 0.1 < row["low"] < 0.15 < row["high"] < 0.2


def test_a_missing_run_leaves_the_question_without_an_answer_and_is_named():
    def lost(row):
        return "failed" if (row["init"], row["seed"]) == ("video", 1) else ""

    table = answered(NOTHING, KNOWLEDGE, lost=lost)
    assert table["word"].tolist() == ["no answer"] and not findings.passes(table)
    assert "seed 1" in findings.say_method(table)[1]


def test_the_words_of_the_plan_are_those_that_can_come_out():
    for rule, asked in ASKED.items():
        assert set(WORDS[asked]) | {"not decided"} == set(RULES[rule])


def test_the_hash_covers_generators_rules_networks_questions_and_fixed_parameters(monkeypatch):
    plan = preregistration.read("demo")
    other = dataclasses.replace(plan.questions[0], margin=0.04)
    changes = [
        {"averaged": plan.averaged[1:]},
        {"seeds": plan.seeds[1:]},
        {"questions": [other, *plan.questions[1:]]},
        {"fixed": [*plan.fixed, "epochs=5"]},
    ]
    hashes = {plan.hash, *(dataclasses.replace(plan, **change).hash for change in changes)}
    assert len(hashes) == 1 + len(changes)
    for table, key, value in ((GENERATORS, "videos", 99), (GENERATORS, "phantoms", 99), (RULES, "trend", ())):
        with monkeypatch.context() as patch:
            patch.setitem(table, key, value)
            assert dataclasses.replace(plan).hash not in hashes
