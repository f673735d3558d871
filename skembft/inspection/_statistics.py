"""How sure a difference is: bootstrap intervals and the randomisation test."""

from typing import TypedDict

import numpy as np

from skembft._utils.types import Floats

_N_RESAMPLES = 9999  # of the bootstrap and of the test


_MANY = 5000  # queries from which on BCa and percentile intervals are alike


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
    rng: np.random.RandomState,
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
    rng: np.random.RandomState,
    n_resamples: int = _N_RESAMPLES,
) -> tuple[float, float]:
    """Bootstrap interval of the mean of one value a query."""
    from scipy import stats

    # nothing varies but by rounding, as 2/3 - 1/3 and 1 - 2/3 do: BCa would be NaN
    if np.ptp(difference) < 1e-12:
        return (float(difference.mean()),) * 2
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        confidence_level=confidence_level,
        # the jackknife of BCa takes the square of the queries in time
        method="BCa" if len(difference) <= _MANY else "percentile",
        n_resamples=n_resamples,
        batch=_batch(difference),
        rng=_generator(rng),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def randomisation_test(
    difference: Floats, rng: np.random.RandomState, n_resamples: int = _N_RESAMPLES
) -> float:
    """Two-sided p-value of the mean of paired differences, by random signs."""
    from scipy import stats

    changed = difference[difference != 0]  # signs of 0 change nothing
    if len(changed) < 2:
        return 1.0
    found = stats.permutation_test(
        (changed,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=_batch(changed),
        rng=_generator(rng),
    )
    return float(found.pvalue)


def _batch(values: Floats) -> int:
    return max(1, 2**22 // len(values))  # 32 MB of float64


def _generator(rng: np.random.RandomState) -> np.random.Generator:
    return np.random.default_rng(rng.randint(2**31 - 1))
