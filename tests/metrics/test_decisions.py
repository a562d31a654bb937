"""What a difference and its standard error let one say."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ctlib.metrics import decide, holm


@pytest.mark.parametrize(
    ("effect", "se", "words"),
    [
        (0.10, 0.02, ("shown", "gain", "different")),
        (-0.10, 0.02, ("refuted", "loss", "different")),
        (0.00, 0.02, ("refuted", "equivalent", "equivalent")),
        (0.00, 0.04, ("not decided", "not decided", "not decided")),
        (0.02, 0.005, ("shown", "gain", "equivalent")),  # off 0 by less than the margin
        (-0.02, 0.005, ("refuted", "loss", "equivalent")),
        (0.01, math.nan, ("no answer", "no answer", "no answer")),
        (math.nan, math.nan, ("no answer", "no answer", "no answer")),
    ],
)
def test_the_words_follow_the_table(effect, se, words):
    found = tuple(decide(effect, se, 30, 0.05, asked=asked).word for asked in ("effect", "gain", "null"))
    assert found == words


def test_equivalence_is_two_one_sided_tests_as_scipy_makes_them():
    values = np.random.default_rng(4).normal(0.01, 0.06, size=12)
    margin = 0.05
    found = decide(values.mean(), values.std(ddof=1) / math.sqrt(12), 11, margin, asked="null")
    above = scipy_stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    under = scipy_stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert found.p_equivalence == pytest.approx(max(above, under), rel=1e-12)
    assert found.p_value == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue, rel=1e-12)
    ninety = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.low_equivalence, found.high_equivalence) == pytest.approx((ninety.low, ninety.high))


def test_equivalence_is_shown_exactly_where_the_interval_at_90_percent_lies_within_the_margin():
    for effect in np.linspace(-0.06, 0.06, 61):
        found = decide(effect, 0.017, 8, 0.05, asked="null")
        inside = found.low_equivalence > -0.05 and found.high_equivalence < 0.05
        assert (found.word == "equivalent") == inside == (found.p_equivalence < 0.05)


def test_two_things_that_differ_by_the_margin_are_called_equivalent_in_five_percent():
    rng = np.random.default_rng(1)
    values = rng.normal(0.05, 0.02, size=(4000, 6))
    se = values.std(axis=1, ddof=1) / math.sqrt(6)
    pairs = zip(values.mean(axis=1), se, strict=True)
    words = [decide(m, s, 5, 0.05, asked="null").word for m, s in pairs]
    assert words.count("equivalent") / 4000 == pytest.approx(0.05, abs=0.011)  # three standard errors


def test_a_gain_must_outlive_its_family_and_may_still_be_equivalent():
    assert decide(0.03, 0.012, 40, 0.0, asked="gain").word == "gain"
    assert decide(0.03, 0.012, 40, 0.0, asked="gain", corrected=0.07).word == "not decided"
    assert decide(0.03, 0.012, 40, 0.06, asked="gain", corrected=0.07).word == "equivalent"


def test_without_a_margin_nothing_is_equivalent():
    assert decide(0.0, 1e-6, 100, 0.0, asked="null").word == "not decided"


def test_what_cannot_be_decided_is_refused():
    with pytest.raises(ValueError, match="asked is 'nil'"):
        decide(0.0, 0.1, 5, 0.05, asked="nil")
    for wrong in ({"level": 0.4}, {"margin": -0.1}, {"se": 0.0}):
        with pytest.raises(ValueError, match="give a level from"):
            decide(**{"effect": 0.0, "se": 0.1, "freedom": 5, "margin": 0.05} | wrong)


# ---- families --------------------------------------------------------------------------


def test_holm_equals_the_worked_example():
    """Four hypotheses, 0.01, 0.04, 0.03, 0.005: 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0] and len(holm([])) == 0


def test_a_comparison_without_a_p_value_is_no_member():
    found = holm([0.02, np.nan, 0.03])
    assert found[[0, 2]] == pytest.approx([0.04, 0.04]) and np.isnan(found[1])


def test_holm_keeps_the_chance_of_any_false_alarm():
    p = np.random.default_rng(3).random((4000, 7))
    assert np.mean([holm(row).min() < 0.05 for row in p]) == pytest.approx(0.05, abs=0.012)
    assert np.mean(p.min(axis=1) < 0.05) > 0.25  # without
