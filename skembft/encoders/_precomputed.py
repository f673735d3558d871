"""Vectors that exist already, looked up by id."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from sklearn.base import _fit_context

from skembft._data.items import check_items, check_queries
from skembft._data.vectors import check_vectors
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Item, ItemKind, Vectors
from skembft._utils.vectors import (
    TakenRows,
    check_same_width,
    is_vector,
    stack_vectors,
    to_array,
)
from skembft.encoders._base import BaseEncoder

Index: TypeAlias = Mapping[Any, Data] | tuple[Data, Data] | list[Data]
_Name: TypeAlias = Literal["queries", "documents"]
_Table: TypeAlias = tuple[dict[Item, int], Vectors]


class PrecomputedEncoder(BaseEncoder):
    """Look vectors up by id: an index or an embedding API is adapted without texts.

    Parameters
    ----------
    queries : dict of {id: vector} or tuple (ids, matrix), default=None
        Vectors of the queries. Ids are str or int (``1`` and ``"1"`` differ); a text
        may be its own id. None means the same as `documents`.
    documents : dict of {id: vector} or tuple (ids, matrix), default=None
        Vectors of the documents. None means the same as `queries`.

    Raises
    ------
    ValueError
        By `transform` and `transform_documents`: an unknown id, vectors of different
        widths, NaN.

    See Also
    --------
    SentenceEncoder : Vectors of texts, from a Sentence Transformers model.

    Notes
    -----
    `clone` shares the vectors instead of copying them, so that a search costs no
    memory. They travel inside a pickle.

    Examples
    --------
    >>> import numpy as np
    >>> from skembft import PrecomputedEncoder
    >>> index = PrecomputedEncoder({"q1": [1, 0]}, (["d1", "d2"], np.eye(2)))
    >>> index
    PrecomputedEncoder(documents=<2 × 2>, queries=<1 × 2>)
    >>> index.transform_documents(["d2"])
    array([[0., 1.]], dtype=float32)
    """

    _item_kind: ItemKind = "id"
    _parameter_constraints: dict = {
        "queries": [Mapping, tuple, list, None],
        "documents": [Mapping, tuple, list, None],
    }

    def __init__(
        self, queries: Index | None = None, documents: Index | None = None
    ) -> None:
        self.queries = queries
        self.documents = documents

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the vectors, in containers that are shown by their size only.

        Parameters
        ----------
        deep : ignored

        Returns
        -------
        params : dict
        """
        return {"queries": _shown(self.queries), "documents": _shown(self.documents)}

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Data = None, y: Data = None) -> Self:
        """Check the vectors; there is nothing to learn.

        Parameters
        ----------
        X, y : ignored

        Returns
        -------
        self : object
        """
        check_same_width(self._table("queries")[1], self._table("documents")[1])
        return self

    def transform(self, X: Data) -> Vectors:
        """Return the vectors of queries.

        Parameters
        ----------
        X : array-like of ids of shape (n,), or a table of (query, document, …) rows

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
        """
        rows = self._look_up(check_queries(X, "id"), "queries")
        return np.array(rows, dtype=np.float32)

    def transform_documents(self, D: Data) -> Vectors:
        """Return the vectors of documents.

        Parameters
        ----------
        D : array-like of ids of shape (n,)

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
        """
        rows = self._look_up(check_items(D, "D", "id"), "documents")
        return np.array(rows, dtype=np.float32)

    def _dimension(self) -> int:
        return self._table("queries")[1].shape[1]

    def _fingerprint(self) -> str:
        return "precomputed"  # the vectors are in the pickle: nothing can have changed

    def _table(self, name: _Name) -> _Table:
        """Return (row of id, matrix) of "queries" or "documents", read once."""
        given = getattr(self, name)
        if given is None:
            name = "documents" if name == "queries" else "queries"
            given = getattr(self, name)
        if given is None:
            raise ValueError(
                "PrecomputedEncoder has no vectors: pass queries={id: vector, …} or "
                "queries=(ids, matrix)."
            )
        tables = self.__dict__.setdefault("_tables", {})
        source, table = tables.get(name, (None, None))
        if source is not given:
            table = _read_vectors(given, name)
            tables[name] = (given, table)
        return table

    # what fits and scores use: the rows as they lie, where no subclass changes them

    def _query_vectors(self, queries: Data) -> TakenRows | np.ndarray:
        if type(self).transform is not PrecomputedEncoder.transform:
            return to_array(self.transform(queries), "The query vectors")
        return self._look_up(check_queries(queries, "id"), "queries")

    def _document_vectors(self, documents: Data) -> TakenRows | np.ndarray:
        if type(self).transform_documents is not PrecomputedEncoder.transform_documents:
            vectors = self.transform_documents(documents)
            return to_array(vectors, "The document vectors")
        return self._look_up(check_items(documents, "D", "id"), "documents")

    def _look_up(self, ids: list[Item], name: _Name) -> TakenRows:
        rows, matrix = self._table(name)
        try:
            index = np.array([rows[i] for i in ids], dtype=np.int64)
        except KeyError:
            raise _no_vectors([i for i in ids if i not in rows], rows, name) from None
        return TakenRows(matrix, index)

    def __sklearn_clone__(self) -> Self:
        clone = type(self)(queries=self.queries, documents=self.documents)
        if hasattr(self, "_sklearn_output_config"):
            clone._sklearn_output_config = dict(self._sklearn_output_config)
        return clone

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_tables", None)
        return state


class _ShownMapping(Mapping):
    """A mapping that is shown by its size."""

    def __init__(self, vectors: Mapping[Any, Any]) -> None:
        self._vectors = vectors

    def __getitem__(self, key: Any) -> Any:
        return self._vectors[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        return f"<{len(self)} × {_width(self.values())}>"


class _ShownTuple(tuple):
    """(ids, matrix), shown by its size."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self[0])} × {_width(self[1])}>"


def _shown(vectors: Any) -> Any:
    """The same vectors, in a container that is shown by its size only."""
    if isinstance(vectors, Mapping):
        known = isinstance(vectors, _ShownMapping)
        return vectors if known else _ShownMapping(vectors)
    return _ShownTuple(vectors) if type(vectors) in (tuple, list) else vectors


def _width(vectors: Any) -> int:
    """Width of a matrix, or of the first vector of what holds vectors."""
    shape: tuple[int, ...] = getattr(vectors, "shape", ())
    if len(shape) == 2:
        return shape[1]
    first: Any = next(iter(vectors), None)
    return len(first) if is_vector(first) else 1


def _no_vectors(missing: list[Item], rows: dict[Item, int], name: _Name) -> ValueError:
    other = [i for i in missing if _other_type(i) in rows]
    return ValueError(
        f"{len(missing)} id(s) have no vector among the {name} of the "
        f"PrecomputedEncoder, first {missing[0]!r}"
        + (f" (but {_other_type(other[0])!r} has one)" if other else "")
        + ". Add the vectors, or leave those rows out."
    )


def _other_type(item: Item) -> Item | None:
    if isinstance(item, int):
        return str(item)
    return int(item) if item.isascii() and item.isdigit() else None


def _read_vectors(given: Index, name: _Name) -> _Table:
    """Return ({id: row}, matrix) of a mapping or of (ids, matrix)."""
    if isinstance(given, Mapping):
        ids = check_items(list(given), name, "id")
        if not ids:
            raise ValueError(f"{name} holds no vectors.")
        matrix = stack_vectors(
            list(given.values()), lambda i: f"{name}[{shorten(ids[i])}]"
        )
    else:
        if len(given) != 2:
            raise ValueError(f"{name} must be {{id: vector}} or (ids, matrix).")
        ids, matrix = check_items(given[0], f"{name}[0]", "id"), given[1]
    matrix = check_vectors(matrix, name)
    rows = {item: row for row, item in enumerate(ids)}
    if len(ids) != len(matrix):
        raise ValueError(f"{name} has {len(ids)} ids, but {len(matrix)} vectors.")
    if len(rows) != len(ids):
        raise ValueError(f"{name} has repeated ids: {len(ids)}, {len(rows)} distinct.")
    return rows, matrix
