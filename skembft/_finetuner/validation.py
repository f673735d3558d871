"""Which queries are held out, and how often they are asked."""

import math
from hashlib import blake2b
from typing import Any

import numpy as np

from skembft._data.retrieval_data import RetrievalData
from skembft._data.vectors import row_keys
from skembft._finetuner.trainer import Trainer
from skembft._utils.types import Ints, Items, Split

# fewer queries tell too little, whatever they cost
_FEWEST_ASKED = 300
# four fifths, or half, of fewer queries may have nothing in common that could be learnt
FEWEST_SHARED = 20
N_FOLDS = 5  # parts in which each query is held out once
# products of two vectors that are no cost to speak of
_CHEAP = 2**24


def most_validated(
    trainer: Trainer[Any, Any], data: RetrievalData, pool: int, trained: int = 1
) -> int:
    """Of how many queries an evaluation costs no more than an epoch of training.

    Parameters
    ----------
    trainer : Trainer
    data : RetrievalData
        What is trained on.
    pool : int
        Number of documents that are ranked for every query.
    trained : int
        How often an epoch trains on the data.
    """
    return max(_FEWEST_ASKED, trained * _affordable(trainer, data) // pool)


def epochs_apart(
    trainer: Trainer[Any, Any],
    data: RetrievalData,
    n_queries: int,
    pool: int,
    trained: int,
) -> int:
    """How many epochs of training cost as much as an evaluation."""
    cost = trainer.evaluation_cost(n_queries, pool)
    return math.ceil(cost / (trained * _affordable(trainer, data)))


def _affordable(trainer: Trainer[Any, Any], data: RetrievalData) -> int:
    """What an evaluation may cost after an epoch, in products of two vectors."""
    n_pairs = max(len(data.example_row), data.n_queries)
    return max(_CHEAP, trainer.pair_cost * n_pairs)


def sample_queries(
    data: RetrievalData, most: int, rng: np.random.RandomState
) -> RetrievalData:
    """Queries that can be scored, at most so many of them, at random."""
    queries = data.answerable
    if len(queries) > most:
        queries = rng.permutation(queries)[:most]
    return data if len(queries) == data.n_queries else data.subset(queries)


def hold_out(
    data: RetrievalData,
    fraction: float | str | None,
    rng: np.random.RandomState,
    most: int,
    trained: Ints | None = None,
    *,
    refit: bool,
    fewest: int = 1,
) -> Split | None:
    """Split the distinct queries at random into training and validation.

    Only queries with a relevant document are held out, `most` at most and `fewest` at
    least; with fewer than two of them nothing is. "auto" is a tenth; with `refit`,
    which trains on all of them afterwards, it is at least 300 queries or half of them,
    as fewer tell too little; of fewer than 20 it is a tenth.
    Those that earlier fits of a warm start have trained on, told by their `query_keys`,
    are not held out: they would validate what they have taught.

    Returns
    -------
    (train, validation) : ndarrays of query indices, or None
    """
    candidates = data.answerable
    if fraction is None or len(candidates) < 2:
        return None
    if isinstance(fraction, str):
        fraction = 0.1
        if refit and len(candidates) >= FEWEST_SHARED:
            fraction = max(fraction, min(_FEWEST_ASKED / len(candidates), 0.5))
    size = max(fewest, round(fraction * len(candidates)))
    size = min(size, len(candidates) - 1, most)
    if trained is not None:
        new = ~np.isin(query_keys(data.queries), trained)
        candidates = candidates[new[candidates]]
        if not len(candidates):
            raise ValueError(
                "warm_start=True: earlier fits have trained on every query, so that "
                "none of them can validate this one. Pass X_val, or "
                "validation_fraction=None; with refit=False a fit leaves the queries "
                "that it holds out to the next ones."
            )
    validation = rng.permutation(candidates)[:size]
    return np.setdiff1d(np.arange(data.n_queries), validation), validation


def cross_fitted(data: RetrievalData, rng: np.random.RandomState) -> list[Split]:
    """Split the distinct queries: each with a relevant document is held out once.

    Returns
    -------
    list of (train, validation)
        ndarrays of query indices.
    """
    everything = np.arange(data.n_queries)
    parts = np.array_split(rng.permutation(data.answerable), N_FOLDS)
    return [(np.setdiff1d(everything, part), part) for part in parts]


def query_keys(queries: Items) -> Ints:
    """A number of 64 bits for every query, the same in every process."""
    if isinstance(queries, np.ndarray):
        return np.frombuffer(b"".join(row_keys(queries, size=8)), dtype=np.uint64)
    named = (f"{type(query).__name__} {query}" for query in queries)
    texts = (name.encode("utf-8", "surrogatepass") for name in named)
    keys = (blake2b(text, digest_size=8).digest() for text in texts)
    return np.fromiter(keys, "S8", len(queries)).view(np.uint64)
