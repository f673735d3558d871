"""Matrices of any library, rows of unit length, and checks."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from skembft._utils.foreign import is_tensor, tensor_to_array
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Ints, Vectors

_PORTION = 16_384  # rows that are taken at once


def to_array(vectors: Data, name: str) -> np.ndarray:
    """Return vectors in any container as an array, float16, 32 or 64 if of floats."""
    array = np.asarray(read_vectors(vectors, name))
    # bfloat16 is a type that numpy does not know itself
    half = array.dtype.itemsize == 2 and np.can_cast(array.dtype, np.float32)
    if half and array.dtype != np.float16 or array.dtype.kind == "b":
        return array.astype(np.float32)
    return array.astype(np.float64) if array.dtype == np.longdouble else array


def read_vectors(vectors: Data, name: str) -> Data:
    """Return vectors in any container as what numpy makes a matrix of.

    Tensors, and lists and columns whose cells are vectors, become an array. All else,
    as a DataFrame with a column for every dimension, is returned as it is.
    """
    if is_tensor(vectors):
        return tensor_to_array(vectors, name)
    if isinstance(vectors, np.ma.MaskedArray) and np.ma.is_masked(vectors):
        row = np.ma.getmaskarray(vectors).reshape(len(vectors), -1).any(axis=1).argmax()
        raise ValueError(f"{name}[{row}] is masked: fill it in, or leave the row out.")
    if _is_column(vectors):
        column = np.array(vectors if hasattr(vectors, "__array__") else list(vectors))
        if column.dtype != object:  # a polars Array has two dimensions
            return column if column.ndim > 1 else vectors
        vectors = column.ravel().tolist()
    if isinstance(vectors, list | tuple) and vectors and is_vector(vectors[0]):
        return stack_vectors(vectors, lambda i: f"{name}[{i}]")
    return vectors


def _is_column(vectors: Data) -> bool:
    """Whether these are a column, whose cells may be vectors, and no matrix or list."""
    if isinstance(vectors, str | bytes | list | tuple | Mapping | set | frozenset):
        return False
    if isinstance(vectors, np.ndarray) and vectors.dtype != object:
        return False
    if hasattr(vectors, "toarray") or not hasattr(vectors, "__len__"):  # sparse
        return False
    shape = getattr(vectors, "shape", (len(vectors),))
    return len(shape) == 1 or shape[1:] == (1,)


def is_vector(cell: Any) -> bool:
    """Whether a cell of a list or column may be a vector: it holds several values."""
    if isinstance(cell, str | bytes | Mapping | set | frozenset):
        return False
    return hasattr(cell, "__len__") and getattr(cell, "ndim", 1) > 0


def stack_vectors(vectors: Sequence[Any], name_of: Callable[[int], str]) -> np.ndarray:
    """Return a matrix of vectors in any container; `name_of` names one in messages."""
    rows: list[np.ndarray] = []
    for i, vector in enumerate(vectors):
        rows.append(_to_row(vector, name_of(i)))
        if rows[i].shape != rows[0].shape:
            raise ValueError(
                f"{name_of(i)} has {rows[i].size} dimensions, but {name_of(0)} has "
                f"{rows[0].size}: vectors of different widths make no matrix."
            )
    return np.stack(rows)


def _to_row(vector: Any, name: str) -> np.ndarray:
    if is_tensor(vector):
        return tensor_to_array(vector, name)
    if hasattr(vector, "as_py"):  # a list of pyarrow
        vector = vector.as_py()
    with suppress(ValueError):  # what numpy says of lists within it
        if is_vector(vector):
            return np.asarray(vector)
    raise ValueError(f"{name} must be a vector, got {shorten(vector)}.")


class TakenRows:
    """Rows of a matrix, which are taken when they are asked for.

    What ``matrix[index]`` is, without the copy: the matrix may be a memory map.
    """

    ndim = 2

    def __init__(self, matrix: Vectors, index: Ints) -> None:
        self.matrix, self.index = matrix, index
        self.shape, self.dtype = (len(index), matrix.shape[1]), matrix.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | Ints) -> Vectors:
        return self.matrix[self.index[rows]]

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return np.asarray(self[:], dtype)


def unit_rows(vectors: Vectors) -> Vectors:
    """Return the rows of `vectors` scaled to unit length; zero rows stay zero.

    Those of float16, in which squares overflow, become float32.
    """
    if vectors.dtype == np.float16:
        vectors = vectors.astype(np.float32)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not ((norms > 1e-15) & (norms < 1e15)).all():  # squares over- or underflow
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
        vectors = vectors / np.where(largest == 0, 1, largest)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)


def in_portions(
    function: Callable[[Vectors], Vectors], vectors: Vectors, size: int = _PORTION
) -> Vectors:
    """``function(vectors)``, of `size` rows at a time: memory is that of the result.

    The vectors may be a memory map.
    """
    first = function(vectors[:size])
    if len(vectors) <= size:
        return first
    result = np.empty((len(vectors), first.shape[1]), first.dtype)
    result[:size] = first
    for start in range(size, len(vectors), size):
        result[start : start + size] = function(vectors[start : start + size])
    return result


def check_finite(vectors: Vectors, what: str, start: int = 0) -> None:
    """Raise a ValueError that names the first row with NaN or infinity.

    `start` is the number of the first row of `vectors`.
    """
    for first in range(0, len(vectors), _PORTION):
        rows = vectors[first : first + _PORTION]
        # without a mask of them all: NaN and infinity survive a sum
        if np.isfinite(np.sum(rows, dtype=np.float64)):
            continue
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            row = start + first + bad.argmax()
            raise ValueError(
                f"{what} contain NaN or infinity, first in row {row}. "
                "Nothing can be ranked by such vectors: check the model (has its "
                "training diverged?) or the array they come from."
            )


def check_same_width(queries: Vectors, documents: Vectors) -> None:
    """Raise a ValueError unless queries and documents have as many dimensions."""
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"The vectors of queries have {queries.shape[1]} dimensions, those of "
            f"documents {documents.shape[1]}: they must come from the same model."
        )
