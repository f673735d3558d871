"""document_groups and train_test_split: a breadth-first search as the oracle."""

import math
import warnings
from collections import deque

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, cross_validate

from skembft import AdapterFinetuner
from skembft.metrics import RetrievalScorer
from skembft.model_selection import document_groups, leakage_report, train_test_split
from tests.model_selection.containers import CONTAINERS, TABLES, odd_index

# rows of (query, {document: grade})
GRADED = st.dictionaries(
    st.integers(0, 11).map("d{}".format), st.integers(-1, 2), min_size=1, max_size=3
)
ROWS = st.lists(
    st.tuples(st.integers(0, 9).map("q{}".format), GRADED), min_size=1, max_size=14
)


def groups_by_search(keys):
    """The oracle: rows joined by what they hold, found by breadth-first search."""
    groups = [None] * len(keys)
    for start in range(len(keys)):
        if groups[start] is not None:
            continue
        number = len({group for group in groups if group is not None})
        groups[start], queue = number, deque([start])
        while queue:
            row = queue.popleft()
            for other in range(len(keys)):
                if groups[other] is None and keys[row] & keys[other]:
                    groups[other] = number
                    queue.append(other)
    return groups


def relevant_to(value):
    """The relevant documents of an item of y."""
    if isinstance(value, dict):
        return {document for document, grade in value.items() if grade > 0}
    return {value} if isinstance(value, str | int) else set(value)


def keys_of(X, y, with_queries=True):
    """What may join each row: its query and its relevant documents."""
    keys = []
    for i, row in enumerate(X):
        if isinstance(row, tuple):
            query, document, *_ = row
            documents = {document} if y is None or y[i] > 0 else set()
        else:
            query, documents = row, relevant_to(y[i])
        key = {("document", document) for document in documents}
        keys.append(key | {("query", query)} if with_queries else key)
    return keys


# document_groups


@settings(max_examples=300, deadline=None)
@given(ROWS)
def test_groups_are_the_connected_components(rows):
    X, y = map(list, zip(*rows, strict=True))
    with_queries = document_groups(y, X)
    assert with_queries.dtype == np.int64
    assert with_queries.tolist() == groups_by_search(keys_of(X, y))
    alone = document_groups(y)
    assert alone.tolist() == groups_by_search(keys_of(X, y, with_queries=False))


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_groups_of_tables(rows):
    labelled = [(q, d) for q, grades in rows for d in grades]
    labels = [grade for _, grades in rows for grade in grades.values()]
    wide = [(q, *[*grades, *grades, *grades][:3]) for q, grades in rows]
    for X, y in [(labelled, labels), (labelled, None), (wide, None)]:
        assert document_groups(y, X).tolist() == groups_by_search(keys_of(X, y))


@settings(max_examples=30, deadline=None)
@given(ROWS, st.sampled_from(list(CONTAINERS)), st.booleans())
def test_groups_in_every_container(rows, container, several):
    make = CONTAINERS[container]
    X = [query for query, _ in rows]
    y = [list(grades) if several else next(iter(grades)) for _, grades in rows]
    assert document_groups(make(y), make(X)).tolist() == groups_by_search(keys_of(X, y))
    table = [(query, *grades, *grades, *grades)[:3] for query, grades in rows]
    expected = groups_by_search(keys_of(table, None))
    for make_table in TABLES.values():
        assert document_groups(None, make_table(table)).tolist() == expected


def test_ids_and_repeated_documents():
    assert document_groups([1, "1", [2, 1], ["1", "1"], {2: 1, 3: 0}]).tolist() == [
        *[0, 1, 0, 1, 0]
    ]
    assert document_groups([7, 8, 9], [1, "1", 1]).tolist() == [0, 1, 0]


def test_judged_negatives_join_nothing():
    y = [{"a": 1, "mined": 0}, {"b": 1, "mined": 0}, {"mined": -1, "c": 0.5}]
    assert document_groups(y).tolist() == [0, 1, 2]
    triplets = [("one", "a", "mined"), ("two", "b", "mined"), ("three", "mined", "a")]
    assert document_groups(None, triplets).tolist() == [0, 1, 2]
    # but where it is relevant it does
    assert document_groups([*y, "mined", "mined"]).tolist() == [0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    "y, X, error, message",
    [
        ([], None, ValueError, "y is empty"),
        (None, None, TypeError, "y must be a list, array or Series, got NoneType"),
        ("a", None, TypeError, "y is the single str 'a'"),
        (None, ["a", "b"], ValueError, "^document_groups requires y to be passed"),
        (["a", []], None, ValueError, r"y\[1\] is empty"),
        (["a", 0.5], None, TypeError, r"y\[1\] must be a str or an int id, got 0.5"),
        (["a"], [[0.1, 0.2]], TypeError, "vectors are understood only by a finetuner"),
        (["a"], ["q", "r"], ValueError, "X has 2 queries, but y has 1 items"),
        ([1, 0], [("q", "d"), ("q", 0.5)], TypeError, r"X\[1\]\[1\] must be a str"),
    ],
)
def test_groups_of_bad_data(y, X, error, message):
    with pytest.raises(error, match=message):
        document_groups(y, X)


# no document and no query on both sides


def forms(rows):
    """The same kind of judgements in every form of X and y."""
    X = [query for query, _ in rows]
    judged = [grades for _, grades in rows]
    positive = [
        [d for d, grade in grades.items() if grade > 0] or ["extra"]
        for grades in judged
    ]
    pairs = [(query, d) for query, grades in rows for d in grades]
    labels = [grade for grades in judged for grade in grades.values()]
    triplets = [(q, p[0], d) for q, p, g in zip(X, positive, judged) for d in g]  # noqa: B905
    yield X, judged
    yield X, positive
    yield X, [documents[0] for documents in positive]
    yield pairs, None
    yield pairs, labels
    yield triplets, None


def take(values, rows):
    return None if values is None else [values[i] for i in rows]


def check_apart(X, y, train, test):
    """The sides hold all rows once, and no query or relevant document together."""
    assert sorted([*train, *test]) == list(range(len(X)))
    sides = []
    for rows in (train, test):
        sides.append(set().union(*keys_of(take(X, rows), take(y, rows))))
    assert not sides[0] & sides[1]


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(2, 4))
def test_group_folds_share_nothing(rows, n_splits):
    for X, y in forms(rows):
        groups = document_groups(y, X)
        if groups.max() + 1 >= n_splits:
            for train, test in GroupKFold(n_splits).split(X, y, groups):
                check_apart(X, y, train, test)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.floats(0.05, 0.95), st.integers(0, 99))
def test_split_shares_nothing_and_is_as_large_as_it_can_be(rows, test_size, seed):
    for X, y in forms(rows):
        n_rows = len(X)
        wanted = math.ceil(test_size * n_rows)
        sizes = np.bincount(document_groups(y, X))
        if wanted >= n_rows:
            with pytest.raises(ValueError, match="leaves none to train on"):
                train_test_split(X, y, test_size=test_size)
            continue
        if sizes.min() > wanted:
            with pytest.raises(ValueError, match=f"holds {sizes.max()} of {n_rows} "):
                train_test_split(X, y, test_size=test_size)
            continue
        # rows are told apart by their place, which the split of the labels keeps
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parts = train_test_split(X, y, test_size=test_size, random_state=seed)
        assert len(parts) == (2 if y is None else 4)
        train, test = find_rows(X, y, parts)
        check_apart(X, y, train, test)
        assert len(test) <= wanted
        assert bool(caught) == (len(test) < wanted * 2 / 3)
        kept = np.bincount(document_groups(y, X)[train])
        assert kept[kept > 0].min() > wanted - len(test)  # none of them would fit


def find_rows(X, y, parts):
    """The row numbers of both sides; each keeps the order of the rows."""
    whole = list(zip(X, [None] * len(X) if y is None else y, strict=True))
    sides = []
    for side in range(2):
        part = parts[side]
        labels = [None] * len(part) if y is None else parts[2 + side]
        sides.append(list(zip(part, labels, strict=True)))
    # equal rows hold the same query, and so are on one side
    numbers = [[i for i, row in enumerate(whole) if row in side] for side in sides]
    assert [[whole[i] for i in rows] for rows in numbers] == sides
    return numbers


QUERIES = [f"q{i}" for i in range(12)]
DOCUMENTS = [f"d{i // 2}" for i in range(12)]


@pytest.mark.parametrize("container", CONTAINERS)
def test_split_keeps_the_containers(container):
    make = CONTAINERS[container]
    y = [[d, f"{d}b"] for d in DOCUMENTS]
    expected = train_test_split(QUERIES, y, random_state=3)
    parts = train_test_split(make(QUERIES), make(y), random_state=3)
    # scikit-learn gives lists of what has no shape
    for part, values in zip(parts, (QUERIES, QUERIES, y, y), strict=True):
        listed = container in ("tuple", "datasets")
        assert type(part) is (list if listed else type(make(values)))
    as_lists = [
        part.to_pylist() if container == "pyarrow" else list(map(list, part))
        for part in parts[2:]
    ]
    assert as_lists == expected[2:]
    for part, wanted in zip(parts[:2], expected[:2], strict=True):
        assert [str(query) for query in part] == wanted
    if container == "pandas":
        assert list(parts[1].index) == [
            odd_index(QUERIES).index[QUERIES.index(query)] for query in parts[1]
        ]


@pytest.mark.parametrize("container", TABLES)
def test_split_keeps_the_tables(container):
    rows = list(zip(QUERIES, DOCUMENTS, DOCUMENTS[::-1], strict=True))
    table = TABLES[container](rows)
    X_train, X_test = train_test_split(table, random_state=3)
    assert type(X_train) is type(X_test) is type(table)
    expected = train_test_split(rows, random_state=3)
    for part, wanted in zip((X_train, X_test), expected, strict=True):
        report = leakage_report(part, wanted)
        assert report.duplicate_share == 1
        assert len(part) == report.n_test_queries == len(wanted)


def test_split_by_number_share_and_seed():
    def test_rows(**options):
        return train_test_split(QUERIES, DOCUMENTS, **options)[1]

    assert len(test_rows(test_size=4)) == 4
    assert len(test_rows(test_size=5)) == 4  # documents have two rows each
    assert len(test_rows(test_size=0.5)) == 6
    assert len(test_rows()) == 2  # three rows were asked for
    assert test_rows(random_state=1, test_size=4) == test_rows(
        random_state=np.random.RandomState(1), test_size=4
    )
    found = {tuple(test_rows(random_state=i, test_size=2)) for i in range(60)}
    assert len(found) == 6  # every document is drawn
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    test_rows(random_state=1)
    assert np.random.rand() == expected  # noqa: NPY002


def test_split_of_what_is_connected():
    y = [["hub", f"d{i}"] for i in range(12)]
    message = (
        r"0 of the 3 rows asked for.* largest of the 1 group\(s\) of such rows holds "
        r"12 of 12 rows.*GroupShuffleSplit with groups=queries"
    )
    with pytest.raises(ValueError, match=message):
        train_test_split(QUERIES, y)
    y[0] = "alone"
    with pytest.warns(UserWarning, match="has 1 of the 3 rows.*holds 11 of 12") as w:
        parts = train_test_split(QUERIES, y)
    assert parts[1] == ["q0"]
    assert w[0].filename == __file__


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"test_size": 0.0}, ValueError, "test_size"),
        ({"test_size": 1.0}, ValueError, "test_size"),
        ({"test_size": "a"}, TypeError, "test_size"),
        ({"test_size": 12}, ValueError, "test_size=12 of 12 row"),
        ({"random_state": "a"}, TypeError, "random_state"),
        ({"y": None}, ValueError, "requires y to be passed"),
        ({"y": DOCUMENTS[1:]}, ValueError, "X has 12 queries, but y has 11"),
    ],
)
def test_split_of_bad_input(options, error, message):
    options = {"y": DOCUMENTS} | options
    with pytest.raises(error, match=message):
        train_test_split(QUERIES, **options)


def test_groups_in_cross_validation(static_model, pairs):
    queries, documents = pairs
    y = [[documents[i], documents[i - i % 4]] for i in range(40)]
    scorer = RetrievalScorer("ndcg@10", corpus=documents)
    adapter = AdapterFinetuner(
        static_model, epochs=1, validation_fraction=None, random_state=0
    )
    groups = document_groups(y, queries)
    assert groups.tolist() == groups_by_search(keys_of(queries, y))
    cv = GroupKFold(5)
    result = cross_validate(
        adapter,
        queries,
        y,
        groups=groups,
        cv=cv,
        scoring=scorer,
        error_score="raise",
        return_indices=True,
    )
    for train, test in zip(*result["indices"].values(), strict=True):
        check_apart(queries, y, train, test)
        assert not leakage_report(
            take(queries, train), take(queries, test), take(y, train), take(y, test)
        ).leaking_queries
    # what the folds of KFold share is what the report says
    train, test = next(KFold(5, shuffle=True, random_state=0).split(queries))
    report = leakage_report(
        take(queries, train), take(queries, test), take(y, train), take(y, test)
    )
    assert report.shared_document_share > 0.5


def test_other_arrays_are_split_alike():
    queries, relevant = ["q1", "q2", "q3", "q4"], ["a", "b", ["b", "c"], "d"]
    weights, ids = np.arange(4.0), pd.Series(range(4))
    split = train_test_split(
        queries, relevant, weights, ids, test_size=0.5, random_state=0
    )
    X_train, X_test, y_train, y_test, w_train, w_test, ids_train, ids_test = split
    assert (X_test, y_test) == (["q1", "q4"], ["a", "d"])
    np.testing.assert_array_equal(w_test, [0, 3])
    np.testing.assert_array_equal(w_train, [1, 2])
    assert list(ids_train) == [1, 2] and list(ids_test) == [0, 3]
    pairs = list(zip(queries, "abbd", strict=True))
    table = train_test_split(pairs, None, weights, test_size=0.5, random_state=0)
    assert len(table) == 4 and len(table[0]) == len(table[2])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        train_test_split(queries, relevant, weights[:3])
