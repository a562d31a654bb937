"""What a difference and its standard error let one say: of an effect, of a gain, of a null.

Two tests are made of the same two numbers, both at the level of the interval. That of a difference from 0 is
two-sided: its interval at 95 % leaves 0 out. That of equivalence is two one-sided tests, of the difference
being above -margin and below +margin, each at 1 - level (Schuirmann 1987, doi:10.1007/BF01068419): the
interval at 90 % lies inside -+ margin. An interval that holds 0 shows nothing by itself.

The words, by what is asked; the first column that is true counts, and of a null equivalence is looked at
first:

| asked | differs, above 0 | differs, below 0 | equivalent | neither | no standard error |
|---|---|---|---|---|---|
| `effect` | shown | refuted | refuted | not decided | no answer |
| `gain` | gain | loss | equivalent | not decided | no answer |
| `trend` | rising | falling | not decided | not decided | no answer |
| `null` | different | different | equivalent (first) | not decided | no answer |

An effect that differs from 0 by less than the margin is shown; a null that does so is equivalent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import logit

from ctlib.metrics.stats.crossed_ci import Estimate, below

SHOWN, REFUTED, GAIN, LOSS = "shown", "refuted", "gain", "loss"
RISING, FALLING = "rising", "falling"
EQUIVALENT, DIFFERENT, NOT_DECIDED, NO_ANSWER = "equivalent", "different", "not decided", "no answer"
WORDS = {
    "effect": (SHOWN, REFUTED, REFUTED),
    "gain": (GAIN, LOSS, EQUIVALENT),
    "trend": (RISING, FALLING, NOT_DECIDED),
    "null": (DIFFERENT, DIFFERENT, EQUIVALENT),
}
"""By what is asked: words for above 0, below 0, equivalent."""


@dataclass(frozen=True)
class Decision:
    """What can be said of a difference; all but the word and the effect NaN where it has no standard error.

    Args:
        word: by the table of the module.
        effect: the difference.
        low, high: its interval at the level; the test of a difference from 0.
        low_equivalence, high_equivalence: its interval at 2 level - 1; the test of equivalence.
        p_value: two-sided, of no difference from 0.
        p_equivalence: the larger of the two one-sided p-values.
        margin: a difference that would not matter.
        level: of the interval.
    """

    word: str
    effect: float
    low: float
    high: float
    low_equivalence: float
    high_equivalence: float
    p_value: float
    p_equivalence: float
    margin: float
    level: float

    @property
    def equivalent(self) -> bool:
        """Whether both one-sided tests exclude a difference as large as the margin."""
        return self.p_equivalence < 1 - self.level


def decide(
    effect: float,
    se: float,
    freedom: float,
    margin: float,
    level: float = 0.95,
    asked: str = "effect",
    corrected: float | None = None,
) -> Decision:
    """Whether a difference is shown, refuted, equivalent to 0, different from it or not decided.

    Args:
        effect: the difference.
        se: its standard error; NaN where there is none.
        freedom: degrees of freedom of the standard error; infinite for a normal distribution.
        margin: a difference that would not matter, in the unit of the effect; 0 for none, and nothing is then
            equivalent.
        level: of the interval, from 0.5 to below 1.
        asked: "effect", "gain", "trend" or "null"; see the module.
        corrected: p-value of the difference after the correction of its family; its own where it is None.

    Raises:
        ValueError: `asked` is unknown, the level is not from 0.5 to below 1, the margin is negative, or the
            standard error is not above 0.

    >>> [decide(effect, 0.02, 20, 0.05).word for effect in (0.08, 0.01, 0.03)]
    ['shown', 'refuted', 'not decided']
    >>> found = decide(0.01, 0.02, 20, 0.05, asked="null")
    >>> found.word, round(found.high_equivalence, 4), round(found.p_equivalence, 4)
    ('equivalent', 0.0445, 0.0296)
    """
    if asked not in WORDS:
        raise ValueError(f"asked is {asked!r}; give one of {', '.join(WORDS)}.")
    if not 0.5 <= level < 1 or margin < 0 or se <= 0:
        raise ValueError(
            f"level {level:g}, margin {margin:g}, standard error {se:g}: give a level from 0.5 to below 1, "
            "a margin of 0 or more and a standard error above 0."
        )
    if math.isnan(effect) or math.isnan(se):
        nan = math.nan
        return Decision(NO_ANSWER, effect, nan, nan, nan, nan, nan, nan, margin, level)
    estimate = Estimate(effect, se, freedom)
    wide, narrow = estimate.interval(level), estimate.interval(2 * level - 1)
    p_equivalence = max(below(freedom, -(effect + margin) / se), below(freedom, (effect - margin) / se))
    p_value = estimate.p_value
    differs = (p_value if corrected is None else corrected) < 1 - level
    word = _word(asked, effect, differs, p_equivalence < 1 - level)
    ends = (wide.low, wide.high, narrow.low, narrow.high)
    return Decision(word, effect, *ends, p_value, p_equivalence, margin, level)


def decide_auroc(estimate: Estimate, margin: float, level: float = 0.95) -> str:
    """Whether an AUROC is that of chance: the word of the null that it is 0.5, on the scale of log odds.

    Args:
        estimate: of the AUROC, whose `share_interval` then holds 0.5 where it is not different.
        margin: a difference from 0.5 that would not matter, below 0.5; 0 for none.
        level: of the interval.

    >>> [decide_auroc(Estimate(0.51, se, 40), 0.05) for se in (0.02, 0.05)]
    ['equivalent', 'not decided']
    """
    value = estimate.value
    if estimate.reason or not 0 < value < 1:
        return NO_ANSWER
    se = estimate.se / (value * (1 - value))
    return decide(float(logit(value)), se, estimate.freedom, float(logit(0.5 + margin)), level, "null").word


def _word(asked: str, effect: float, differs: bool, equivalent: bool) -> str:
    """By the table of the module."""
    above, under, same = WORDS[asked]
    if equivalent and (asked == "null" or not differs):
        return same
    if differs:
        return above if effect > 0 else under
    return NOT_DECIDED
