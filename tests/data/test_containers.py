"""Containers of all libraries give what lists give."""

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.model_selection import GridSearchCV

from skembft import AdapterFinetuner
from skembft.datasets import describe
from skembft.metrics import RetrievalScorer
from skembft.mining import mine_hard_negatives
from skembft.model_selection import document_groups, train_test_split
from tests.data.forms import (
    ADAPTER_LOSSES,
    FORMS,
    MODEL_LOSSES,
    adapter,
    fitted_vectors,
    model,
)


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


# the names of columns

FRAMES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
    "record batch": pa.RecordBatch.from_pydict,
    "datasets": datasets.Dataset.from_dict,
}
NAMES = [
    ("query", "document", "negative", "negative_2"),
    ("anchor", "positive", "negative_1", "negative_2"),
    ("query", "positive", "negative", "negative_10"),
    ("query", "pos", "neg", "neg_1"),
    ("anchor", "document", "neg2", "neg10"),
    ("anchor", "pos", "negative", "neg_3"),
]


def named(rows, names, order=1):
    """Columns of rows with these names, from left to right or from right to left."""
    columns = zip(names, map(list, zip(*rows, strict=True)), strict=True)
    return dict(list(columns)[::order])


@pytest.mark.parametrize("container", FRAMES)
@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_names_of_columns(static_model, texts, container, names):
    X, _ = FORMS["wide_table"](*texts)
    expected = fitted_vectors(adapter(static_model, loss="triplet"), X)
    for order in (1, -1):
        frame = FRAMES[container](named(X, names, order))
        found = adapter(static_model, loss="triplet").fit(frame)
        np.testing.assert_array_equal(found.transform(frame), expected)
        assert found.score(frame) == found.score(X)


@pytest.mark.parametrize("container", FRAMES)
@pytest.mark.parametrize("name", ["label", "labels", "score", "scores"])
def test_columns_of_labels(static_model, texts, container, name):
    rows, labels = FORMS["similarity_table"](*texts)
    X, y = rows[::-1], labels[::-1]
    names = ("anchor", "positive", name)
    cells = [(*row, label) for row, label in zip(X, y, strict=True)]
    frame = FRAMES[container](named(cells, names, -1))
    for loss in ADAPTER_LOSSES:
        expected = adapter(static_model, loss=loss).fit(X, y)
        found = adapter(static_model, loss=loss).fit(frame)
        np.testing.assert_array_equal(found.transform(frame), expected.transform(X))
        assert found.score(frame) == expected.score(X, y)


def labelled_frame(texts, make=pd.DataFrame):
    X, y = FORMS["labelled_table"](*texts)
    cells = [(*row, label) for row, label in zip(X, y, strict=True)]
    return X, y, make(named(cells, ("query", "document", "label")))


@pytest.mark.parametrize("loss", MODEL_LOSSES)
def test_whole_model_on_a_column_of_labels(static_model, texts, loss):
    X, y, frame = labelled_frame(texts)
    expected = model(static_model, loss=loss).fit(X, y).transform(X)
    found = model(static_model, loss=loss).fit(frame).transform(frame)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_columns_of_labels_wherever_data_are_read(static_model, texts, make):
    X, y, frame = labelled_frame(texts, make)
    validated = {"epochs": 2, "validation_fraction": 0.3}
    expected = adapter(static_model, **validated).fit(X, y)
    found = adapter(static_model, **validated).fit(frame)
    assert found.history_ == expected.history_
    expected = adapter(static_model).fit(X, y, X_val=X, y_val=y)
    found = adapter(static_model).fit(frame, X_val=frame)
    assert found.history_ == expected.history_
    scorer = RetrievalScorer("ndcg@3")
    assert scorer(expected, frame) == scorer(expected, X, y)
    search = GridSearchCV(adapter(static_model), {"epochs": [1, 2]}, cv=3)
    scores = search.fit(X, y).cv_results_["mean_test_score"]
    found = search.set_params(error_score="raise").fit(frame)
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], scores)
    assert describe(frame) == describe(X, y)
    assert describe(frame).n_judged_negatives == len(y) / 2
    groups = document_groups(y, X)
    np.testing.assert_array_equal(document_groups(None, frame), groups)
    mined = mine_hard_negatives(expected, X, y)
    assert mine_hard_negatives(expected, frame) == mined
    train, test = train_test_split(frame, random_state=0)
    assert describe(train).n_judged_negatives == describe(train).n_rows / 2
    assert len(train) + len(test) == len(y)


COLUMN_ERRORS = {
    "other": (["query", "document", "id", "url"], r"not expected: \['id', 'url'\]"),
    "neg_scores": (["query", "pos", "neg_scores"], r"not expected: \['neg_scores'\]"),
    "neglected": (["query", "pos", "neglected"], r"not expected: \['neglected'\]"),
    "case": (["Query", "document"], r"missing: \['query'\]; not expected: \['Query'\]"),
    "none": (["question", "answer"], r"missing: \['query', 'document'\]; not expected"),
    "queries": (["query", "anchor", "pos"], r"one of a kind: \['query', 'anchor'\]"),
    "documents": (["query", "pos", "document"], r"of a kind: \['pos', 'document'\]"),
    "labels": (["query", "pos", "label", "score"], r"a kind: \['label', 'score'\]"),
    "label and negative": (
        ["query", "pos", "neg", "negative_2", "label"],
        r"labels go with pairs, without negatives: \['neg', 'negative_2'\]",
    ),
}


@pytest.mark.parametrize("case", COLUMN_ERRORS)
@pytest.mark.parametrize("container", FRAMES)
def test_columns_that_are_refused(static_model, container, case):
    names, message = COLUMN_ERRORS[case]
    frame = FRAMES[container]({name: ["a", "b"] for name in names})
    table = r"'query', 'anchor'.*'document', 'positive', 'pos'.*'neg'.*'label', .*; "
    message = rf"A table holds .*{table}.*{message}.*Rename or select columns"
    with pytest.raises(ValueError, match=message):
        adapter(static_model).fit(frame)


def test_labels_twice(static_model, texts):
    X, y, frame = labelled_frame(texts)
    message = "X has a column 'label', the labels of its pairs, and y is passed too"
    with pytest.raises(ValueError, match=message):
        adapter(static_model).fit(frame, y)
    with pytest.raises(ValueError, match="X_val has a column 'label'.* and y_val is"):
        adapter(static_model).fit(X, y, X_val=frame, y_val=y)


@pytest.mark.parametrize(
    "bad, error, message",
    [
        ("high", TypeError, "must be a number, got 'high'"),
        (np.inf, ValueError, "must be finite, got inf"),
        ([0.5], TypeError, r"must be a number, got \[0\.5\]"),
    ],
)
def test_labels_that_are_refused(static_model, bad, error, message):
    frame = pd.DataFrame({"query": ["a", "b"], "pos": ["c", "d"], "score": [1, bad]})
    with pytest.raises(error, match=rf"X\['score'\]\[1\] {message}"):
        adapter(static_model).fit(frame)
    rows, y = [("a", "c")], [1]
    with pytest.raises(error, match=rf"X_val\['score'\]\[1\] {message}"):
        adapter(static_model).fit(rows, y, X_val=frame)


@pytest.mark.parametrize("make", [list, tuple, np.array])
def test_lists_in_a_table_are_refused(static_model, make):
    message = r"must be a single item, got .*'c'.*\{document: grade\} dicts where 0 is"
    rows = [("a", "b", "c"), ("a", "b", make(["c", "d"]))]
    with pytest.raises(TypeError, match=rf"X\[1\]\[2\] {message}"):
        adapter(static_model).fit(rows)
    frame = pd.DataFrame(rows, columns=["query", "pos", "neg"])
    with pytest.raises(TypeError, match=rf"X\[1\]\[2\] {message}"):
        adapter(static_model).fit(frame)


@pytest.mark.parametrize("make", [pl.DataFrame, pa.table, datasets.Dataset.from_dict])
def test_lists_in_a_column_are_refused(static_model, make):
    frame = make({"query": ["a", "b"], "pos": [["c"], ["d"]]})
    with pytest.raises(TypeError, match=r"X\[0\]\[1\] must be a single item, .*'c'"):
        adapter(static_model).fit(frame)
    assert adapter(static_model).fit(frame["query"], frame["pos"]).n_iter_ > 0


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


@pytest.mark.filterwarnings("ignore:Training did not help")
def test_labels_of_a_column_reach_a_finetuner_inside_of_another(static_model, texts):
    """It is fitted on the rows that validation leaves, and they keep their labels."""
    X, y, frame = labelled_frame(texts)

    def nested():
        options = {"loss": "cosine_similarity", "random_state": 0, "epochs": 5}
        inner = AdapterFinetuner(static_model, learning_rate=0.05, **options)
        return AdapterFinetuner(inner, validation_fraction=0.3, **options)

    assert nested().fit(frame).history_ == nested().fit(X, y).history_
