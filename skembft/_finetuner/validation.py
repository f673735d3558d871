"""Which queries are held out."""

import numpy as np

from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Ints


def hold_out(
    data: RetrievalData, fraction: float | None, rng: np.random.RandomState
) -> tuple[Ints, Ints] | None:
    """Split the distinct queries at random into training and validation.

    Only queries with a relevant document are held out; with fewer than two of them
    nothing is.

    Returns
    -------
    (train, validation) : ndarrays of query indices, or None
    """
    candidates = data.answerable
    if fraction is None or len(candidates) < 2:
        return None
    size = min(max(1, round(fraction * len(candidates))), len(candidates) - 1)
    validation = rng.permutation(candidates)[:size]
    return np.setdiff1d(np.arange(data.n_queries), validation), validation
