"""Rows of unit length, and checks of matrices."""

import numpy as np

from skembft._utils.types import Vectors


def unit_rows(vectors: Vectors) -> Vectors:
    """Return the rows of `vectors` scaled to unit length; zero rows stay zero."""
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not ((norms > 1e-15) & (norms < 1e15)).all():  # squares over- or underflow
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
        vectors = vectors / np.where(largest == 0, 1, largest)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)


def check_finite(vectors: Vectors, what: str, start: int = 0) -> None:
    """Raise a ValueError that names the first row with NaN or infinity.

    `start` is the number of the first row of `vectors`.
    """
    # one pass without a mask of the whole array: NaN and infinity survive a sum
    if np.isfinite(np.sum(vectors, dtype=np.float64)):
        return
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{what} contain NaN or infinity, first in row {start + bad.argmax()}. "
            "Nothing can be ranked by such vectors: check the model (has its training "
            "diverged?) or the array they come from."
        )


def check_same_width(queries: Vectors, documents: Vectors) -> None:
    """Raise a ValueError unless queries and documents have as many dimensions."""
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"The vectors of queries have {queries.shape[1]} dimensions, those of "
            f"documents {documents.shape[1]}: they must come from the same model."
        )
