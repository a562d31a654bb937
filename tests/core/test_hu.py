"""HU windows map what they say, and air to 0 where they begin above it."""

import numpy as np
import pytest

from ctlib.core import hu


@pytest.mark.parametrize("name", ["pe", "mediastinum", "bone"])
def test_air_maps_to_zero_where_the_hu_window_begins_above_it(name):
    assert hu.to_unit(np.array([hu.HU_MIN, -1000]), hu.HuWindow.named(name)).tolist() == [0.0, 0.0]


def test_lung_keeps_air_and_padding_apart_from_zero():
    unit = hu.to_unit(np.array([hu.HU_MIN, -1000, -600]), hu.HuWindow.named("lung"))
    assert unit == pytest.approx([0.2173, 0.2333, 0.5], abs=1e-4)


@pytest.mark.parametrize("hu_window", hu.HU_WINDOWS.values())
def test_from_its_low_to_its_high_end_a_window_is_linear(hu_window):
    inside = np.linspace(hu_window.low, hu_window.high, 7)
    np.testing.assert_allclose(hu.to_unit(inside, hu_window), np.linspace(0, 1, 7), atol=1e-6)


def test_bad_names_and_widths_are_refused():
    with pytest.raises(ValueError, match="'liver'; known are pe, lung"):
        hu.HuWindow.named("liver")
    with pytest.raises(ValueError, match="width is 0 HU"):
        hu.HuWindow(40, 0)
