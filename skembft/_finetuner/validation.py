"""Which queries are held out."""

from hashlib import blake2b

import numpy as np

from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Ints, Items


def hold_out(
    data: RetrievalData,
    fraction: float | None,
    rng: np.random.RandomState,
    trained: Ints | None = None,
) -> tuple[Ints, Ints] | None:
    """Split the distinct queries at random into training and validation.

    Only queries with a relevant document are held out; with fewer than two of them
    nothing is. Those that earlier fits of a warm start have trained on, told by their
    `query_keys`, are not: they would validate what they have taught.

    Returns
    -------
    (train, validation) : ndarrays of query indices, or None
    """
    candidates = data.answerable
    if fraction is None or len(candidates) < 2:
        return None
    size = min(max(1, round(fraction * len(candidates))), len(candidates) - 1)
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


def query_keys(queries: Items) -> Ints:
    """A number of 64 bits for every query, the same in every process."""

    def key(query: object) -> bytes:
        if isinstance(query, np.ndarray):
            return np.ascontiguousarray(query, dtype=np.float32).tobytes()
        return f"{type(query).__name__} {query}".encode("utf-8", "surrogatepass")

    digests = (blake2b(key(query), digest_size=8).digest() for query in queries)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
