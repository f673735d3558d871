"""Splits that keep every document and query on one side, and a report of what leaks."""

import warnings
from math import ceil
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.utils import (
    _safe_indexing,
    check_consistent_length,
    check_random_state,
)
from sklearn.utils._param_validation import Interval, RealNotInt, validate_params

from skembft._data.containers import to_list
from skembft._data.judgements import check_retrieval_data
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Bools, Data, Ints, RandomState


def document_groups(y: Data, X: Data = None) -> Ints:
    """Number the groups of rows that share a relevant document or a query.

    Pass them as `groups` with `GroupKFold`, `LeaveOneGroupOut` and their like: then no
    fold is tested on a document that it was trained on. Rows are joined in chains: if
    rows 1 and 2 share a document, and rows 2 and 3 another, all three are one group.

    Only relevant documents (with a grade or label above 0) join rows. Judged and
    explicit negatives do not: mined negatives occur in so many rows that they would
    join nearly all.

    Parameters
    ----------
    y : array-like of n items, or None
        Of every row the relevant document, a list of them or a dict
        {document: grade}; texts or ids. With a table its labels, or None.
    X : array-like of shape (n,), or table of (query, document, …) rows, default=None
        The queries: rows of the same query are joined too. None joins rows by their
        documents alone.

    Returns
    -------
    groups : int64 ndarray of shape (n,)
        0, 1, … in order of first appearance.

    Raises
    ------
    TypeError, ValueError
        Bad data, as in ``fit``.

    See Also
    --------
    train_test_split : A single split that keeps groups together.

    Examples
    --------
    >>> from skembft.model_selection import document_groups
    >>> document_groups(["a", ["b", "c"], "a", {"c": 2, "d": 1, "a": 0}])
    array([0, 1, 0, 1])
    >>> document_groups(["a", "b", "c"], X=["one", "two", "one"])
    array([0, 1, 0])
    >>> document_groups(None, [("one", "a"), ("two", "b"), ("three", "a")])
    array([0, 1, 0])
    """
    if X is None:
        y = to_list(y, "y")
        if not y:
            raise ValueError("y is empty: found 0 sample(s), at least 1 is required.")
        X = range(len(y))  # a query of its own for every row
    return _groups_of(check_retrieval_data(X, y, kind="id", name="document_groups"))


def _groups_of(data: RetrievalData) -> Ints:
    """Connected components of the graph of queries and their relevant documents."""
    queries, documents = data.judged.positive_coordinates()
    n_nodes = data.n_queries + len(data.documents)
    edges = (queries.astype(np.int32), np.int32(data.n_queries + documents))
    graph = sparse.coo_array((np.ones(len(queries)), edges), shape=(n_nodes, n_nodes))
    _, component = connected_components(graph, directed=False)
    _, first, groups = np.unique(
        component[data.row_query], return_index=True, return_inverse=True
    )
    return np.argsort(np.argsort(first))[groups]


@validate_params(
    {
        "test_size": [
            Interval(RealNotInt, 0, 1, closed="neither"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def train_test_split(
    X: Data,
    y: Data = None,
    *arrays: Data,
    test_size: float = 0.25,
    random_state: RandomState = None,
) -> list[Any]:
    """Split retrieval data at random so that no document and no query is on both sides.

    Rows that share a relevant document or a query, directly or in a chain, stay
    together: see :func:`document_groups`. The groups go to the test side in random
    order while they fit; the rest trains. So a large group trains more often than a
    small one. Documents that are only judged negative may be on both sides.

    Parameters
    ----------
    X : array-like of shape (n,), or table of (query, document, …) rows
        Queries, or pairs, triplets and longer rows; texts or ids.
    y : array-like of n items, default=None
        Of every query the relevant document, a list of them or a dict
        {document: grade}; labels of the pairs of a table, or None.
    *arrays : array-likes of n items
        What else the rows have, as weights or ids: split in the same way, as
        scikit-learn's function of this name does. Of the arguments of that one, groups
        leave no sense to `shuffle` and `stratify`.
    test_size : float or int, default=0.25
        Share of the rows (rounded up), or number of rows of the test side. It is the
        most that it gets.
    random_state : int, RandomState instance or None, default=None
        The order of the groups; pass an int for the same split at every call.

    Returns
    -------
    X_train, X_test, y_train, y_test, … : containers of the kinds of the arguments
        Rows keep their order. Without `y` (None) there are no y_train and y_test.

    Raises
    ------
    ValueError
        No group fits into the test side, as nearly all rows are connected; or bad
        data, as in ``fit``.

    Warns
    -----
    UserWarning
        The test side is smaller than two thirds of what was asked for.

    See Also
    --------
    document_groups : The groups, for cross-validation.
    leakage_report : What two sides share all the same, such as similar queries.

    Examples
    --------
    >>> from skembft.model_selection import train_test_split
    >>> queries, relevant = ["q1", "q2", "q3", "q4"], ["a", "b", ["b", "c"], "d"]
    >>> X_train, X_test, y_train, y_test = train_test_split(
    ...     queries, relevant, test_size=0.5, random_state=0
    ... )
    >>> X_test, y_test
    (['q1', 'q4'], ['a', 'd'])
    """
    data = check_retrieval_data(X, y, kind="id", name="train_test_split")
    groups = _groups_of(data)
    n_rows = len(groups)
    is_count = isinstance(test_size, Integral)
    wanted = int(test_size) if is_count else ceil(test_size * n_rows)
    if wanted >= n_rows:
        raise ValueError(
            f"test_size={test_size} of {n_rows} row(s) leaves none to train on."
        )
    check_consistent_length(np.arange(n_rows), *arrays)
    in_test = _choose_groups(groups, wanted, check_random_state(random_state))[groups]
    _check_size(int(in_test.sum()), wanted, groups)
    sides = np.flatnonzero(~in_test), np.flatnonzero(in_test)
    containers = [X, *arrays] if y is None else [X, y, *arrays]
    return [_take(values, rows) for values in containers for rows in sides]


def _choose_groups(groups: Ints, room: int, rng: np.random.RandomState) -> Bools:
    """Whether each group is tested: in random order those that still fit."""
    sizes = np.bincount(groups)
    chosen = np.zeros(len(sizes), dtype=bool)
    for group in rng.permutation(len(sizes)):
        if sizes[group] <= room:
            chosen[group] = True
            room -= sizes[group]
    return chosen


def _check_size(n_test: int, wanted: int, groups: Ints) -> None:
    if 3 * n_test >= 2 * wanted:
        return
    sizes = np.bincount(groups)
    message = (
        f"The test side has {n_test} of the {wanted} rows asked for: rows that share a "
        "relevant document or a query stay together, and the largest of the "
        f"{len(sizes)} group(s) of such rows holds {sizes.max()} of {len(groups)} "
        "rows. To split by query instead, use scikit-learn's GroupShuffleSplit with "
        "groups=queries; the two sides then share documents."
    )
    if not n_test:
        raise ValueError(message)
    warnings.warn(message, UserWarning, stacklevel=4)


def _take(values: Data, rows: Ints) -> Any:
    """Rows of any container that `check_retrieval_data` reads."""
    if hasattr(values, "select_columns"):  # a datasets.Dataset, unknown to scikit-learn
        return values.select(rows)
    return _safe_indexing(values, rows)
