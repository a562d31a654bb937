"""The parts of the report that are no single question: the findings at the top, and the plan."""

from __future__ import annotations

from collections.abc import Sequence

from ctlib.analysis import preregistration
from ctlib.analysis.claims import Claim, hardest, overview
from ctlib.analysis.deviations import deviations, plan_table, say_deviations
from ctlib.analysis.study import Study
from ctlib.analysis.text import forest_caption
from ctlib.core import Workspace
from ctlib.visualization import figures


def show_claims(claims: Sequence[Claim]) -> None:
    """Show the comparisons that decide the claims, and the claims as a table."""
    table = hardest(claims)
    if len(table):
        figures.show(
            figures.contrast_forest(table, "as named on the left", table["margin"].iloc[0]),
            alt="Differences in test AUROC that decide the claims, with intervals, by task and fraction",
            caption=f"Of each claim the comparison with the smallest effect. {forest_caption(table)}",
        )
    figures.table(overview(claims), "The paper's claims, and the comparison with the smallest effect")


def show_plan(study: Study, work: Workspace) -> None:
    """Say how far the plan was followed, and show it with every deviation.

    Args:
        study: what was done.
        work: where the plans that were met are noted.
    """
    found = deviations(study, preregistration.remember(work, study.plan) if study.plan else ())
    figures.say(say_deviations(study.plan, found))
    if study.plan:
        figures.table(plan_table(study.plan), f"Plan {study.plan.hash}")
    figures.table(found, "Deviations from the plan")
