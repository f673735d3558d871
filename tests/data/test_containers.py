"""Containers of all libraries give what lists give."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.model_selection import GridSearchCV

from skembft.metrics import RetrievalScorer
from tests.data.forms import ADAPTER_LOSSES, FORMS, adapter, fitted_vectors, model


def odd_index(values):
    return pd.Series(values, index=[7 * i % 5 - 3 for i in range(len(values))])


def object_array(values):
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


COLUMNS = {
    "tuple": tuple,
    "object": object_array,
    "unicode": np.array,
    "pandas": odd_index,
    "pandas object": lambda v: odd_index(v).astype(object),
    "pandas category": lambda v: odd_index(v).astype("category"),
    "pandas index": pd.Index,
    "polars": pl.Series,
    "pyarrow": pa.array,
    "pyarrow chunked": lambda v: pa.chunked_array([v[:5], v[5:]]),
    "numpy str": lambda v: [np.str_(x) for x in v],
}


@pytest.mark.parametrize("container", COLUMNS)
def test_columns_give_the_same(static_model, texts, container):
    queries, documents = texts
    make = COLUMNS[container]
    expected = adapter(static_model).fit(queries, documents)
    found = adapter(static_model).fit(
        make(queries), make(documents), corpus=make(documents[:6])
    )
    np.testing.assert_array_equal(
        found.transform(make(queries)), expected.transform(queries)
    )
    np.testing.assert_array_equal(
        found.transform_documents(make(documents)),
        expected.transform_documents(documents),
    )
    score = expected.score(queries, documents, corpus=queries)
    assert found.score(make(queries), make(documents), corpus=make(queries)) == score
    np.testing.assert_array_equal(
        found.retrieve(make(queries), make(documents), k=3)[0],
        expected.retrieve(queries, documents, k=3)[0],
    )


@pytest.mark.parametrize(
    "container", ["tuple", "object", "unicode", "pandas", "polars", "pyarrow"]
)
def test_columns_in_a_search(static_model, texts, container):
    def best(make):
        search = GridSearchCV(
            adapter(static_model), {"epochs": [1, 4]}, cv=3, error_score="raise"
        )
        return search.fit(make(texts[0]), make(texts[1])).cv_results_["mean_test_score"]

    np.testing.assert_array_equal(best(COLUMNS[container]), best(list))


LISTS = {
    "tuples": lambda v: tuple(map(tuple, v)),
    "object": object_array,
    "unicode": np.array,
    "pandas": odd_index,
    "polars": pl.Series,
    "polars array": lambda v: pl.Series(v, dtype=pl.Array(pl.String, 2)),
    "pyarrow": pa.array,
    "list of arrays": lambda v: list(map(np.array, v)),
    "list of pandas": lambda v: list(map(odd_index, v)),
    "list of polars": lambda v: list(map(pl.Series, v)),
}


@pytest.mark.parametrize("container", LISTS)
def test_lists_of_documents_give_the_same(static_model, texts, container):
    queries, y = FORMS["documents"](*texts)
    expected = adapter(static_model).fit(queries, y)
    found = adapter(static_model).fit(queries, LISTS[container](y))
    np.testing.assert_array_equal(found.transform(queries), expected.transform(queries))
    assert found.score(queries, LISTS[container](y)) == expected.score(queries, y)


@pytest.mark.parametrize("make", [tuple, object_array, odd_index])
def test_containers_of_grades_give_the_same(static_model, texts, make):
    queries, y = FORMS["graded"](*texts)
    expected = adapter(static_model).fit(queries, y)
    found = adapter(static_model).fit(queries, make(y))
    np.testing.assert_array_equal(found.transform(queries), expected.transform(queries))
    assert found.score(queries, make(y)) == expected.score(queries, y)


def columns_of(rows):
    names = ["query", "document", "negative", "negative_2"][: len(rows[0])]
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def pandas_table(rows):
    frame = pd.DataFrame(columns_of(rows), index=[9 - i for i in range(len(rows))])
    return frame[frame.columns[::-1]]  # the order of columns does not matter


TABLES = {
    "lists": lambda rows: [list(row) for row in rows],
    "tuple of tuples": tuple,
    "object": lambda rows: np.array(rows, dtype=object),
    "object of tuples": object_array,
    "unicode": np.array,
    "list of arrays": lambda rows: [np.array(row) for row in rows],
    "pandas": pandas_table,
    "polars": lambda rows: pl.DataFrame(columns_of(rows)),
    "pyarrow": lambda rows: pa.table(columns_of(rows)),
}


@pytest.mark.parametrize("container", TABLES)
@pytest.mark.parametrize("form", ["pair_table", "labelled_table", "wide_table"])
def test_tables_give_the_same(static_model, texts, form, container):
    X, y = FORMS[form](*texts)
    table = TABLES[container](X)
    expected = adapter(static_model).fit(X, y)
    found = adapter(static_model).fit(table, y)
    np.testing.assert_array_equal(found.transform(table), expected.transform(X))
    assert found.score(table, y) == expected.score(X, y)


@pytest.mark.parametrize("container", ["object", "pandas", "polars", "pyarrow"])
def test_tables_in_a_search(static_model, texts, container):
    X, y = FORMS["labelled_table"](*texts)

    def scores(X):
        search = GridSearchCV(
            adapter(static_model), {"epochs": [1, 4]}, cv=3, error_score="raise"
        )
        return search.fit(X, y).cv_results_["mean_test_score"]

    np.testing.assert_array_equal(scores(TABLES[container](X)), scores(X))


@pytest.mark.parametrize(
    "make",
    [tuple, np.array, np.float32, odd_index, pl.Series, pa.array]
    + [lambda v: np.array(v, dtype=bool), lambda v: [int(x) for x in v]],
)
def test_containers_of_labels_give_the_same(static_model, texts, make):
    X, y = FORMS["labelled_table"](*texts)
    for loss in ADAPTER_LOSSES:
        expected = fitted_vectors(adapter(static_model, loss=loss), X, y)
        found = fitted_vectors(adapter(static_model, loss=loss), X, make(y))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("container", ["pandas", "polars", "pyarrow", "unicode"])
def test_whole_model_on_containers(static_model, texts, container):
    X, y = FORMS["triplet_table"](*texts)
    expected = model(static_model).fit(X, y).transform(X)
    table = TABLES[container](X)
    found = model(static_model).fit(table, y)
    np.testing.assert_array_equal(found.transform(table), expected)
    make = COLUMNS[container]
    np.testing.assert_array_equal(found.transform(make([x[0] for x in X])), expected)


MATRICES = {
    "lists": np.ndarray.tolist,
    "fortran": np.asfortranarray,
    "pandas": lambda v: pd.DataFrame(v, range(len(v), 0, -1), list("abcdef")),
    "polars": lambda v: pl.DataFrame(v, schema=list("abcdef")),
}


@pytest.mark.parametrize("container", MATRICES)
@pytest.mark.parametrize("target", ["paired", "labels"])
def test_matrices_give_the_same(vectors, container, target):
    X, Y, labels = vectors
    make = MATRICES[container]
    expected = adapter(None).fit(X, Y if target == "paired" else labels)
    found = adapter(None).fit(make(X), make(Y) if target == "paired" else labels)
    np.testing.assert_array_equal(found.transform(make(X)), expected.transform(X))
    np.testing.assert_array_equal(
        found.transform_documents(make(Y)), expected.transform_documents(Y)
    )


@pytest.mark.filterwarnings("error")  # feature names are those of fit
@pytest.mark.parametrize("container", MATRICES)
@pytest.mark.parametrize("target", ["paired", "labels"])
def test_matrices_score_the_same(vectors, container, target):
    X, Y, labels = vectors
    make = MATRICES[container]
    expected = adapter(None).fit(X, Y if target == "paired" else labels)
    expected = expected.score(X, Y if target == "paired" else labels)
    y = make(Y) if target == "paired" else labels
    estimator = adapter(None).fit(make(X), y)
    assert estimator.score(make(X), y) == expected
    assert RetrievalScorer("ndcg@10")(estimator, make(X), y) == expected


def test_float32_and_float64_vectors(vectors):
    X, Y, _ = vectors
    expected = adapter(None).fit(X, Y).transform(X)
    found = adapter(None).fit(np.float32(X), np.float32(Y)).transform(np.float32(X))
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [list, tuple, odd_index, pl.Series, pa.array]
    + [lambda v: [[x] for x in v], lambda v: pd.DataFrame({"class": v})],
)
def test_containers_of_class_labels(vectors, make):
    X, _, labels = vectors
    labels = labels.tolist()
    expected = adapter(None).fit(X, labels)
    found = adapter(None).fit(X, make(labels))
    np.testing.assert_array_equal(found.transform(X), expected.transform(X))
    assert found.score(X, make(labels)) == expected.score(X, labels)
