"""Small helpers shared by all modules; nothing here imports torch."""

import difflib

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch


def nearest(name, valid, suffix=""):
    """Return a sentence that names the valid spellings nearest to `name`.

    `suffix` is shown behind every valid name and not compared.

    Examples
    --------
    >>> nearest("tripplet", ["triplet", "contrastive"])
    "Did you mean 'triplet'? Valid names: 'triplet', 'contrastive'."
    """
    valid = [str(v) for v in valid]
    close = difflib.get_close_matches(str(name).lower(), valid, n=2, cutoff=0.5)
    close, valid = ([repr(n + suffix) for n in names] for names in (close, valid))
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}Valid names: {', '.join(valid)}."


def shorten(value, width=60):
    """Return ``repr(value)``, cut to about `width` characters for a message."""
    if isinstance(value, str | bytes):
        value = value[: width + 1]
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def unit_rows(vectors):
    """Return the rows of `vectors` scaled to unit length; zero rows stay zero."""
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not ((norms > 1e-15) & (norms < 1e15)).all():  # squares over- or underflow
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
        vectors = vectors / np.where(largest == 0, 1, largest)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)


def check_finite(vectors, what, start=0):
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


def check_same_width(queries, documents):
    """Raise a ValueError unless queries and documents have as many dimensions."""
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"The vectors of queries have {queries.shape[1]} dimensions, those of "
            f"documents {documents.shape[1]}: they must come from the same model."
        )


def tag_text_input(tags):
    """Mark scikit-learn's tags of an estimator whose X is a list of texts or ids."""
    tags.input_tags.two_d_array = False
    tags.input_tags.one_d_array = True
    tags.input_tags.string = True
    return tags


class DocLink:
    """The link from an estimator's HTML representation to its documentation."""

    _doc_link_module = "skembft"
    _doc_link_template = (
        "https://skembft.readthedocs.io/en/latest/api.html#"
        "{estimator_module}.{estimator_name}"
    )


def thawed(estimator):
    """An estimator without the `FrozenEstimator` around it."""
    while isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    return estimator


def data_bunch(queries, relevant, corpus, query_ids, corpus_ids, descr, return_X_y):
    """What the loaders of data sets return."""
    if return_X_y:
        return queries, relevant
    return Bunch(
        queries=queries,
        relevant=relevant,
        corpus=corpus,
        query_ids=query_ids,
        corpus_ids=corpus_ids,
        DESCR=descr,
    )
