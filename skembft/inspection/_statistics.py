"""How sure a difference is: bootstrap intervals and the randomisation test."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt
from scipy import special

from skembft._utils.signs import random_bits, signed_sums
from skembft._utils.types import Floats, Ints

_N_RESAMPLES = 9999  # of the bootstrap and of the test
_GROUPS = 256  # of like values that are drawn together: the time is set by this
_MANY = 2**14  # differences of which the test draws the signs of like ones together
_BLOCK = 2**20  # elements of the largest array of random numbers


class ComparedMetric(TypedDict):
    """What is told of a metric."""

    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    p_value: float
    helped: int
    hurt: int
    unchanged: int


def compare_values(
    name: str,
    before: Floats,
    after: Floats,
    confidence_level: float,
    rng: np.random.Generator,
) -> ComparedMetric:
    difference = after - before
    low, high = bootstrap_interval(difference, confidence_level, rng)
    return {
        "metric": name,
        "before": float(before.mean()),
        "after": float(after.mean()),
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p_value": randomisation_test(difference, rng),
        "helped": int((difference > 0).sum()),
        "hurt": int((difference < 0).sum()),
        "unchanged": int((difference == 0).sum()),
    }


def bootstrap_interval(
    difference: Floats,
    confidence_level: float,
    rng: np.random.Generator,
    n_resamples: int = _N_RESAMPLES,
) -> tuple[float, float]:
    """BCa interval of the mean of one value a query; NaN where no value differs."""
    # equal but for rounding, as 2/3 - 1/3 and 1 - 2/3 are: nothing to estimate from
    if np.ptp(difference) < 1e-12:
        return np.nan, np.nan
    means = _bootstrap_means(difference, rng, n_resamples)
    mean = difference.mean()
    less, not_more = means < mean - 1e-12, means < mean + 1e-12  # but for rounding
    bias = special.ndtri((less.mean() + not_more.mean()) / 2)
    residual = difference - mean
    acceleration = (residual**3).sum() / (6 * (residual**2).sum() ** 1.5)
    tail = (1 - confidence_level) / 2
    shifted = bias + special.ndtri([tail, 1 - tail])
    # Efron (1987), equation 6.8; the levels of tails that no resample reaches are 0, 1
    slope = np.maximum(1 - acceleration * shifted, 1e-9)
    low, high = np.quantile(means, special.ndtr(bias + shifted / slope))
    return float(low), float(high)


def _bootstrap_means(
    difference: Floats, rng: np.random.Generator, n_resamples: int
) -> Floats:
    """Means of resamples, drawn as counts of like values, whatever the queries."""
    n = len(difference)
    values, counts, variances = _like_values(difference)
    means = np.empty(n_resamples)
    step = max(1, _BLOCK // len(values))
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        drawn = rng.multinomial(n, counts / n, size=size)
        noise = np.sqrt(drawn @ variances) * rng.standard_normal(size)
        means[start : start + size] = (drawn @ values + noise) / n
    return means


def _like_values(difference: Floats) -> tuple[Floats, Ints, Floats]:
    """The distinct values, how often each occurs, and 0.

    Of more than `_GROUPS` distinct ones the means, sizes and variances of groups of
    the same width. What varies within groups is then drawn from normal distributions:
    by Berry and Esseen that changes no probability by more than 0.7 / `_GROUPS`.
    """
    values, counts = np.unique(difference, return_counts=True)
    if len(values) <= _GROUPS:
        return values, counts, np.zeros(len(values))
    place = (difference - values[0]) / (values[-1] - values[0]) * _GROUPS
    group = np.minimum(place.astype(np.intp), _GROUPS - 1)
    counts = np.bincount(group, minlength=_GROUPS)
    used = np.maximum(counts, 1)
    means = np.bincount(group, difference, _GROUPS) / used
    squares = np.bincount(group, (difference - means[group]) ** 2, _GROUPS)
    filled = counts > 0
    return means[filled], counts[filled], (squares / used)[filled]


def randomisation_test(
    difference: Floats, rng: np.random.Generator, n_resamples: int = _N_RESAMPLES
) -> float:
    """Two-sided p-value of the mean of paired differences, by random signs."""
    changed = difference[difference != 0]  # signs of 0 change nothing
    # sums that are equal but for rounding are as extreme as what was found
    extreme = abs(changed.sum()) - 1e-12 * np.abs(changed).sum()
    if 2 ** len(changed) <= n_resamples:  # all of them, each as likely
        sums = signed_sums(changed, _all_bits(len(changed)))
        return float((np.abs(sums) >= extreme).mean())
    found = 1  # what was observed is one of the possible
    draw = _Signs(changed, rng)
    step = max(1, _BLOCK // draw.width)
    for start in range(0, n_resamples, step):
        sums = draw(min(step, n_resamples - start))
        found += int((np.abs(sums) >= extreme).sum())
    return found / (n_resamples + 1)


class _Signs:
    """Draws sums of values with random signs.

    Of many values it draws how many of like ones get a plus, and what varies within a
    group from a normal distribution.
    """

    def __init__(self, values: Floats, rng: np.random.Generator) -> None:
        self.values, self.rng = values, rng
        self.many = len(values) > _MANY
        if self.many:
            self.sizes, self.counts, variances = _like_values(np.abs(values))
            self.deviation = np.sqrt(self.counts @ variances)
        self.width = len(self.sizes) if self.many else len(values)

    def __call__(self, n: int) -> Floats:
        if not self.many:
            return signed_sums(self.values, random_bits(n, self.width, self.rng))
        plus = self.rng.binomial(self.counts, 0.5, size=(n, self.width))
        noise = self.deviation * self.rng.standard_normal(n)
        return (2 * plus - self.counts) @ self.sizes + noise


def _all_bits(n: int) -> npt.NDArray[np.uint8]:
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.uint8)
