"""Statistics of many queries."""

import numpy as np
import pytest

from skembft.inspection import _statistics


@pytest.mark.parametrize("distinct", [3, 200, None])
@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.0])
def test_signs_of_many_differences_are_drawn_together(monkeypatch, distinct, shift):
    """As good as signs one by one; `shift` is the mean in standard errors."""
    rng = np.random.default_rng(0)
    difference = rng.normal(0, 1, 2000) ** 3
    if distinct:
        difference = np.round(difference * distinct / 40) / distinct
    difference += shift * difference.std() / np.sqrt(2000) - difference.mean()
    if distinct:  # the mean of the first few moves, values stay alike
        difference = np.round(difference * distinct) / distinct
    one_by_one = _statistics.randomisation_test(difference, rng, n_resamples=20_000)
    monkeypatch.setattr(_statistics, "_MANY", 10)
    together = _statistics.randomisation_test(difference, rng, n_resamples=20_000)
    error = np.sqrt(2 * one_by_one * (1 - one_by_one) / 20_000)
    assert together == pytest.approx(one_by_one, abs=4 * error + 1e-3)
