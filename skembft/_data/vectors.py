"""Vectors, with class labels or in pairs, into :class:`RetrievalData`."""

import math
import numbers
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from skembft._data.containers import to_list
from skembft._data.numbering import Numbering
from skembft._data.relevance import JudgedRelevance, LabelRelevance
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.foreign import to_plain
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Ints, Vectors
from skembft._utils.vectors import check_finite, read_vectors, to_array

_BLOCK = 2**20  # numbers of a matrix that are copied at a time
_FLOAT32 = np.finfo(np.float32)


def check_vector_data(
    X: Vectors, y: Data, corpus: Data = None, suffix: str = ""
) -> RetrievalData:
    """Turn vectors with class labels or paired vectors into :class:`RetrievalData`.

    Parameters
    ----------
    X : ndarray of shape (n, d), already validated
    y : n class labels, or array-like of shape (n, d)
    corpus : array-like of shape (m, d) or None
        More document vectors.
    suffix : str
        What follows X and y in messages.
    """
    name = f"y{suffix}"
    if not hasattr(y, "__array__"):
        y = to_list(y, name)
    y = read_vectors(y, name)
    if not are_labels(y):
        return _paired_vectors(X, y, corpus, suffix)
    if corpus is not None:
        raise ValueError(
            "corpus= does not go with class labels, where the documents are the rows "
            "of X themselves: pass paired vectors as y. How X finds other rows of its "
            "classes is told by retrieve(X, rows)."
        )
    labels = _check_labels(y, name)
    if len(labels) != len(X):
        raise ValueError(
            f"X{suffix} has {len(X)} rows, but {name} has {len(labels)} labels."
        )
    rows = np.arange(len(X))
    return RetrievalData(
        queries=X,
        documents=X,
        relevance=LabelRelevance(labels),
        row_query=rows,
        example_row=rows,
        example_document=rows,
        example_grade=np.ones(len(X)),
        pool=rows,
    )


def are_labels(y: Data) -> bool:
    try:
        shape = np.asarray(y).shape
    except ValueError:  # ragged lists
        return True
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def _check_labels(y: Data, name: str) -> Ints:
    """Return class labels as integers 0, 1, …"""
    labels = to_list(np.asarray(y).ravel() if hasattr(y, "__array__") else y, name)
    labels = [to_plain(label, f"{name}[{i}]") for i, label in enumerate(labels)]
    for i, label in enumerate(labels):
        if not isinstance(label, str | numbers.Real | np.bool_):
            raise TypeError(
                f"{name}[{i}] must be a class label, a str or a number, got "
                f"{shorten(label)}."
            )
        if isinstance(label, numbers.Real) and not math.isfinite(label):
            raise ValueError(f"{name} contains NaN or infinity: {name}[{i}] is {label}")
    return Numbering().of(labels)  # 1 and "1" are two classes


def _paired_vectors(X: Vectors, y: Data, corpus: Data, suffix: str) -> RetrievalData:
    Y = check_vectors(y, f"y{suffix}", X.shape[1])
    if len(Y) != len(X):
        raise ValueError(
            f"X{suffix} has {len(X)} rows, but y{suffix} has {len(Y)} vectors."
        )
    candidates = Y
    if corpus is not None:
        extra = check_vectors(corpus, f"corpus{suffix}", X.shape[1])
        candidates = np.concatenate([Y, extra])
    queries, row_query = _distinct_rows(X)
    documents, at = _distinct_rows(candidates)
    rows, grades = np.arange(len(X)), np.ones(len(X))
    example_document = at[: len(Y)]
    return RetrievalData(
        queries=queries,
        documents=documents,
        relevance=JudgedRelevance.from_triples(
            row_query, example_document, grades, (len(queries), len(documents))
        ),
        row_query=row_query,
        example_row=rows,
        example_document=example_document,
        example_grade=grades,
        pool=np.arange(len(documents)),
        corpus=at[len(Y) :],
    )


def check_vectors(vectors: Data, name: str, width: int | None = None) -> Vectors:
    """Return a finite float matrix, of the given width."""
    array = to_array(vectors, name)
    if array.ndim == 2 and array.dtype == object:
        array = _numbers(array, name)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be a matrix of numbers, one vector a row, got shape "
            f"{array.shape} and dtype {array.dtype}."
        )
    if width is not None and array.shape[1] != width:
        raise ValueError(
            f"{name} has vectors of width {array.shape[1]}, expected {width}."
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float32)
    check_finite(array, f"The vectors of {name}")
    return array


def _numbers(array: np.ndarray, name: str) -> Vectors:
    """Return an array of objects as one of numbers."""
    matrix = np.empty(array.shape)
    for i, row in enumerate(array):
        try:
            matrix[i] = row
        except (TypeError, ValueError):
            raise ValueError(
                f"{name} must be a matrix of numbers, one vector a row, and "
                f"{name}[{i}] is {shorten(row.tolist())}."
            ) from None
    return matrix


def _distinct_rows(matrix: Vectors) -> tuple[Vectors, Ints]:
    """Distinct rows in order of first appearance, and the index of every row.

    Nothing is copied where all are distinct: the matrix may be a memory map.
    """
    at = Numbering().of(row_keys(matrix))
    first = np.flatnonzero(np.diff(np.maximum.accumulate(at), prepend=-1))
    return (matrix if len(first) == len(matrix) else matrix[first]), at


def row_keys(matrix: Vectors, size: int = 16) -> list[bytes]:
    """Hashes of `size` bytes, the same for rows of the same numbers.

    They are taken as float32, in which vectors are compared, whatever their type.
    """
    keys: list[bytes] = []
    step = max(1, _BLOCK // max(matrix.shape[1], 1))
    for start in range(0, len(matrix), step):
        # adding 0 takes the sign from zeros
        rows = np.add(matrix[start : start + step], 0.0, order="C")
        largest = np.abs(rows).max(axis=1, initial=0)
        fits = (largest == 0) | (largest > _FLOAT32.tiny) & (largest < _FLOAT32.max)
        with np.errstate(over="ignore"):
            single: Iterable[Vectors] = rows.astype(np.float32) + np.float32(0)
        if not fits.all():  # what all would be zero or infinite keeps its type
            single = [s if f else r for s, r, f in zip(single, rows, fits, strict=True)]
        keys += [blake2b(row.data, digest_size=size).digest() for row in single]
    return keys
