"""What the analysis says: the paper's claims, the questions, and deviations from the plan.

Every sentence is made from a table by rules that are fixed before a result is seen; a change of the
table changes the sentence. `Study` holds the tables, `answer` gives a question's sentence, figure and
table, `claims` the paper's claims with their verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ctlib.analysis.arms_table import arm_table, cautions, score_caption
from ctlib.analysis.claims import Claim, claims, overview, show_claims
from ctlib.analysis.deviations import deviations, say_deviations, show_checks
from ctlib.analysis.question import ABSENT, Answer, Question
from ctlib.analysis.questions.baselines import AFTER_VIDEO, TWO_D, VIDEO_OR_CT
from ctlib.analysis.questions.beyond_metadata import ALL, BEYOND_METADATA, strongest, vision
from ctlib.analysis.questions.calibration import CALIBRATION
from ctlib.analysis.questions.effect import EFFECT, FRACTIONS, NOT_LEARNED, say_pure_video
from ctlib.analysis.questions.families import FROZEN, VIDEO_CT_IMAGES
from ctlib.analysis.questions.localization import LOCALIZATION, show_exams, show_sights
from ctlib.analysis.questions.method_check import INJECTED_EFFECTS, method, passes, say_method, show_method
from ctlib.analysis.questions.negative_controls import NEGATIVE_CONTROLS
from ctlib.analysis.questions.speed_and_cost import COST, SPEED
from ctlib.analysis.questions.subgroups import SUBGROUPS
from ctlib.analysis.questions.weight_ablations import WEIGHT_ABLATIONS, WHY_VIDEO
from ctlib.analysis.study import Study
from ctlib.analysis.text import capital, interval, listed, place, who
from ctlib.core import word
from ctlib.visualization import figures, percent

QUESTIONS = {
    asked.key: asked
    for asked in (
        EFFECT,
        NOT_LEARNED,
        FRACTIONS,
        TWO_D,
        VIDEO_OR_CT,
        AFTER_VIDEO,
        VIDEO_CT_IMAGES,
        FROZEN,
        WEIGHT_ABLATIONS,
        WHY_VIDEO,
        SPEED,
        COST,
        CALIBRATION,
        LOCALIZATION,
        SUBGROUPS,
        NEGATIVE_CONTROLS,
        BEYOND_METADATA,
        INJECTED_EFFECTS,
    )
}
"""The questions, in the order of the notebook."""

__all__ = [
    "QUESTIONS",
    "Answer",
    "Claim",
    "Question",
    "Study",
    "answer",
    "arm_table",
    "cautions",
    "claims",
    "deviations",
    "method",
    "not_asked",
    "overview",
    "passes",
    "say_deviations",
    "say_method",
    "say_pure_video",
    "score_caption",
    "show_checks",
    "show_claims",
    "show_exams",
    "show_method",
    "show_not_asked",
    "show_result",
    "show_sights",
]


def answer(key: str, study: Study) -> Answer:
    """What a study answers to a question.

    Args:
        key: a key of `QUESTIONS`.
        study: its tables.

    Raises:
        ValueError: no question has this key.
    """
    if key not in QUESTIONS:
        raise ValueError(f"no question is called {key!r}; known are {', '.join(QUESTIONS)}.")
    return QUESTIONS[key].answer(study)


def show_not_asked(study: Study) -> None:
    """Name the questions of `not_asked` in a line, and what each needs below."""
    table = not_asked(study)
    if len(table):
        figures.say(f"Not asked by this grid: {listed(table['question'])}.")
        figures.table(table, "What each of these needs", folded=True)


def not_asked(study: Study) -> pd.DataFrame:
    """The questions that a grid has no runs for, and what would bring them.

    Args:
        study: its tables.

    Returns:
        Columns question, needs; questions that lack the same share a row.
    """
    missing = {asked.title: asked.missing(study).removeprefix(ABSENT) for asked in QUESTIONS.values()}
    needs = [why for why in dict.fromkeys(missing.values()) if why]
    rows = [(listed(title for title in missing if missing[title] == why), why) for why in needs]
    return pd.DataFrame(rows, columns=["question", "needs"])


_BEYOND = "Do the networks see more than what is known without an image?"


def show_result(study: Study, tested: pd.DataFrame, claims: Sequence[Claim], beyond: Answer) -> None:
    """Show what was asked and what came out, a row a comparison, and leave it for the index of the profile.

    The rows are those from which the first claim is decided, those of the plan's questions, and the networks against
    the best that needs no image: what index, README and sections say of a comparison is the same row.

    Args:
        study: its tables.
        tested: from `method`.
        claims: from `claims`.
        beyond: answer to `beyond_metadata`.
    """
    first, helps = claims[0], f"Does {study.compared} pretraining help?"
    decided = zip(first.comparisons.to_dict("records"), first.conclusions, strict=True)
    rows = [_result(helps, first.short, row, kind) for row, kind in decided]
    asked = tested.to_dict("records")
    rows += [_result(row["text"], row["statistic"], row, row["word"]) for row in asked]
    if len(beyond.table):
        best = strongest(beyond.table)
        best = best[(best["init"] == study.compared) & (best["exams"] == ALL)]
        rows += [_result(_BEYOND, row["label"], row, vision(row)) for row in best.to_dict("records")]
    if not len(first.comparisons):
        why = f"not asked: {first.missing.removeprefix(ABSENT)}"
        rows.insert(0, {"question": helps, "compared": first.short, "answer": why})
    told = f"{percent(study.how.level)} intervals, over seeds and patients"
    told += "; of the plan's questions over networks like these, too" if asked else ""
    counts = f". {capital(who(first.comparisons))}" if len(first.comparisons) else ""
    brief = [
        f"{text.split(';')[0].split('. ')[0].removesuffix('.')}."
        for text in cautions(study, QUESTIONS.values())
    ]
    figures.result(
        pd.DataFrame(rows),
        f"Result: differences in test AUROC, mean over networks, with {told}{counts}.",
        {
            "asked": f"Does {study.compared} pretraining help in {listed(study.tasks)}?",
            "tiles": [_method_tile(tested)],
            "claims": [{"verdict": word(claim.verdict), "sentence": claim.sentence()} for claim in claims],
            "caveats": [f"Weakest point: {first.weakest}.", *brief[:1]],
        },
    )


def _result(question: str, compared: str, row: dict[str, Any], kind: str) -> dict[str, str]:
    difference = f"no answer: {row['reason']}" if row["reason"] else interval(row)
    return {
        "question": question, "compared": compared, "task": place(row), "difference": difference,
        "answer": word(kind),
    }  # fmt: skip


def _method_tile(tested: pd.DataFrame) -> dict[str, Any]:
    if not (tested["wanted"] != "").any() if len(tested) else True:
        return {"name": "Method check", "word": "not asked", "good": None}
    good = passes(tested)
    return {"name": "Method check", "word": "passed" if good else "not passed", "good": good}
