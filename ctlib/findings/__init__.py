"""What the analysis says: the paper's claims, the questions, and deviations from the plan.

Every sentence is made from a table by rules that are fixed before a result is seen; a change of the
table changes the sentence. `Study` holds the tables, `answer` gives a question's sentence, figure and
table, `claims` the paper's claims with their verdicts.
"""

from ctlib.findings.answers import Answer, Question
from ctlib.findings.arms import arm_table, score_caption
from ctlib.findings.calibrated import CALIBRATION
from ctlib.findings.cautions import cautions
from ctlib.findings.deviations import deviations, say_deviations
from ctlib.findings.gains import FRACTIONS, HELP
from ctlib.findings.injected import INJECTED
from ctlib.findings.ladder import LADDER, WHY_VIDEO
from ctlib.findings.looks import GROUPS, LOOKS, show_exams, show_sights
from ctlib.findings.method import ASKED, method, passes, say_method, show_method
from ctlib.findings.nothing import NOTHING
from ctlib.findings.pages import show_claims, show_plan
from ctlib.findings.paper import Claim, claims, overview
from ctlib.findings.rivals import DOMAIN, TWO_D
from ctlib.findings.speed import COST, SPEED
from ctlib.findings.study import Study
from ctlib.findings.unlearned import UNLEARNED

QUESTIONS = {
    asked.key: asked
    for asked in (
        HELP,
        UNLEARNED,
        FRACTIONS,
        TWO_D,
        DOMAIN,
        LADDER,
        WHY_VIDEO,
        SPEED,
        COST,
        CALIBRATION,
        LOOKS,
        GROUPS,
        NOTHING,
        INJECTED,
    )
}
"""The questions, in the order of the notebook."""

__all__ = [
    "ASKED",
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
    "overview",
    "passes",
    "say_deviations",
    "say_method",
    "score_caption",
    "show_claims",
    "show_exams",
    "show_method",
    "show_plan",
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
