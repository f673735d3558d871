"""What encoders of texts share: each text is encoded once, and kept in the store."""

import os
from functools import partial
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from skembft._data.items import check_items, check_queries
from skembft._utils.types import Data, ItemKind, Role, Vectors
from skembft.encoders._base import BaseEncoder
from skembft.encoders._store import drop_store, get_store

STORE_CONSTRAINTS: dict[str, list[Any]] = {
    "cache_dir": [str, os.PathLike, None],
    "max_store_bytes": [Interval(Integral, 0, None, closed="left")],
}
ROLES: tuple[Role, Role] = ("query", "document")


class StoredEncoder(BaseEncoder):
    """Subclasses define three methods.

    `_store_key(role)` is a tuple that determines the vectors of "query" or "document";
    `_compute(texts, role)` yields (texts, vectors) in portions; `_find_dimension()` is
    asked before any vector is known.
    """

    _item_kind: ItemKind = "text"

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Data = None, y: Data = None) -> Self:
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X, y : ignored

        Returns
        -------
        self : object
        """
        return self

    def transform(self, X: Data) -> Vectors:
        """Encode queries.

        Parameters
        ----------
        X : array-like of str of shape (n,), or a table of (query, document, …) rows
            Of a table the queries are encoded.

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
        """
        return self._encode(check_queries(X, "text"), "query")

    def transform_documents(self, D: Data) -> Vectors:
        """Encode documents.

        Parameters
        ----------
        D : array-like of str of shape (n,)

        Returns
        -------
        vectors : float32 ndarray of shape (n, d)
        """
        return self._encode(check_items(D, "D", "text"), "document")

    def warm(self, texts: Data) -> Self:
        """Encode texts as queries and documents into the store, ahead of use.

        Where queries and documents have different vectors, both are made of every text.
        To make only those that are needed, call `transform` with the queries and
        `transform_documents` with the documents: they fill the store too.

        With `cache_dir` any number of processes may warm the same texts at the same
        time: each encodes a part, and returns when all are there. The logger "skembft"
        tells at level INFO how many are, and how many a second a process encodes.

        Parameters
        ----------
        texts : array-like of str of shape (n,)

        Returns
        -------
        self : object
        """
        texts = check_items(texts, "texts", "text")
        self._validate_params()
        roles = {self._store_key(role): role for role in ROLES}
        for key, role in roles.items():
            get_store(key).warm(
                texts,
                partial(self._compute, role=role),
                max_bytes=self.max_store_bytes,
                cache_dir=self.cache_dir,
            )
        return self

    def clear(self) -> Self:
        """Forget the vectors of this encoder, in this process and in `cache_dir`.

        Returns
        -------
        self : object
        """
        self._validate_params()
        for role in ROLES:
            drop_store(self._store_key(role), self.cache_dir)
        return self

    def _encode(self, texts: list[str], role: Role) -> Vectors:
        self._validate_params()
        if not texts:
            return np.empty((0, self._dimension()), dtype=np.float32)
        return get_store(self._store_key(role)).get(
            texts,
            lambda new: self._compute(new, role),
            max_bytes=self.max_store_bytes,
            cache_dir=self.cache_dir,
        )

    def _dimension(self) -> int:
        for role in ROLES:
            width = get_store(self._store_key(role)).width(self.cache_dir)
            if width is not None:
                return width
        return self._find_dimension()
