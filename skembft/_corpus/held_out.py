"""Held-out queries that can tell how far documents should move."""

import numpy as np

from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Ints

FEWEST = 10  # held-out queries that choose a gamma


def hold_out_answered(
    data: RetrievalData, fraction: float, rng: np.random.RandomState, most: int
) -> tuple[Ints, Ints] | None:
    """Hold out queries of which a document is moved by others that are not held out.

    The document of any other query stays where it is once the query is held out: it
    sees its rivals move, and never what moving it would bring.

    Returns
    -------
    (train, validation) : ndarrays of query indices, or None
        `most` at most; None where fewer than `FEWEST` can be held out so.
    """
    positive = data.judged.positive
    indptr, indices = positive.indptr, positive.indices
    # of every document the queries in training, and whether one held out needs them
    trained = np.bincount(indices, minlength=positive.shape[1])
    needed = np.zeros(positive.shape[1], dtype=bool)
    size = min(max(FEWEST, round(fraction * len(data.answerable))), most)
    held_out: list[int] = []
    for query in rng.permutation(data.answerable).tolist():
        documents = indices[indptr[query] : indptr[query + 1]]
        others = trained[documents] - 1
        if not others.any() or (needed[documents] & (others == 0)).any():
            continue
        held_out.append(query)
        trained[documents] -= 1
        needed[documents[others.argmax()]] = True
        if len(held_out) == size:
            break
    if len(held_out) < FEWEST:
        return None
    validation = np.array(held_out)
    return np.setdiff1d(np.arange(data.n_queries), validation), validation
