"""What is first, highest, repeated, or the same id."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skembft import PrecomputedEncoder
from skembft.metrics import RetrievalScorer
from tests.data.forms import N, adapter, fitted_vectors, model, unit


def test_first_document_is_the_first_of_a_list(static_model, texts):
    queries, d = texts
    first_only = adapter(static_model, use_all_docs=False, negatives="batch")
    expected = fitted_vectors(first_only, queries[:4], d[:4])
    y = [[d[i], d[i + 4]] for i in range(4)]
    np.testing.assert_array_equal(fitted_vectors(first_only, queries[:4], y), expected)
    y = [[d[i + 4], d[i]] for i in range(4)]
    assert (fitted_vectors(first_only, queries[:4], y) != expected).any()
    everything = adapter(static_model, use_all_docs=True, negatives="batch")
    assert (fitted_vectors(everything, queries[:4], y) != expected).any()


@pytest.mark.parametrize(
    "grades, first",
    [
        ([3, 1], 0),
        ([1, 3], 1),
        ([0.5, 0.4], 0),
        ([2, 2], 0),  # ties: insertion order
        ([True, 2], 1),
    ],
)
def test_first_document_is_the_highest_grade_of_a_dict(
    static_model, texts, grades, first
):
    queries, d = texts
    options = [d[:4], d[4:8]]
    first_only = adapter(static_model, use_all_docs=False, negatives="batch")
    expected = fitted_vectors(first_only, queries[:4], options[first])
    y = [{options[0][i]: grades[0], options[1][i]: grades[1]} for i in range(4)]
    np.testing.assert_array_equal(fitted_vectors(first_only, queries[:4], y), expected)


def test_order_of_a_dict_does_not_matter_but_for_ties(static_model, texts):
    queries, d = texts
    y = [{d[i]: 3, d[i - 1]: 2, d[i - 2]: 1, d[i - 3]: 0} for i in range(N)]
    backwards = [dict(reversed(graded.items())) for graded in y]
    for use_all_docs in (False, True):
        estimator = adapter(static_model, use_all_docs=use_all_docs)
        expected = fitted_vectors(estimator, queries, y)
        score = estimator.score(queries, y)
        found = fitted_vectors(estimator, queries, backwards)
        np.testing.assert_array_equal(found, expected)
        assert estimator.score(queries, backwards) == score


def test_use_all_docs_of_the_whole_model(static_model, texts):
    queries, d = texts
    y = [[d[i], f"{d[i]} red1", f"{d[i]} old2"] for i in range(N)]
    steps = {
        use_all_docs: model(static_model, batch_size=4, use_all_docs=use_all_docs)
        .fit(queries, y)
        .n_iter_
        for use_all_docs in (False, True)
    }
    assert steps == {False: 3, True: 9}
    assert model(static_model, batch_size=4).fit(queries, y).n_iter_ == 3  # default


def test_highest_grade_of_a_repeated_document():
    encoder = PrecomputedEncoder(unit("q=a", "b", "c"))
    scorer = RetrievalScorer(["ndcg@1", "ndcg@2"], corpus=["a", "b", "c"])
    expected = scorer(encoder, ["q"], [{"a": 1, "b": 3}])
    assert expected["ndcg@1"] == pytest.approx(1 / 3)
    for y in (
        [{"a": 1, "b": 3}, {"b": 2}],
        [{"b": 2}, {"a": 1, "b": 3}],
        [{"b": 0}, {"a": 1, "b": 3}],
        [{"b": 3}, {"a": 1, "b": -1}],
    ):
        assert scorer(encoder, ["q", "q"], y) == expected
    rows = [("q", "b"), ("q", "a"), ("q", "b"), ("q", "b")]
    assert scorer(encoder, rows, [1, 1, 3, 0]) == expected


def test_a_positive_of_one_row_is_no_negative_of_another():
    # "b" is an explicit negative of q in one row and its positive in another
    rows = [("q", "a", "b"), ("q", "b", "c")]
    encoder = PrecomputedEncoder(unit("q=a=b", "c"))
    assert RetrievalScorer("recall@2")(encoder, rows) == 1.0
    for loss, limit in (("triplet", 0), ("cosine_similarity", 0)):
        estimator = adapter(encoder, loss=loss, epochs=5).fit(rows)
        assert [entry["loss"] for entry in estimator.history_[1:]] == [limit] * 5
    # unless the data say nothing of the kind
    estimator = adapter(encoder, loss="triplet", epochs=1).fit(rows[:1])
    assert estimator.history_[-1]["loss"] == pytest.approx(0.3)


def test_repeated_documents_are_one():
    encoder = PrecomputedEncoder({"q": [1, 0], "a": [0.6, 0.8], "b": [1, 0]})
    for corpus in (["b"], ["b"] * 5, ["a", "b", "b", "a", "b"]):
        scorer = RetrievalScorer(["mrr@9", "precision@2"], corpus=corpus)
        assert scorer(encoder, ["q"], ["a"]) == {"mrr@9": 0.5, "precision@2": 0.5}
        assert scorer(encoder, ["q"], [["a", "a"]])["precision@2"] == 0.5


@pytest.mark.parametrize("negatives", ["batch", "corpus"])
def test_repeated_documents_are_one_in_training(static_model, texts, negatives):
    queries, documents = texts
    estimator = adapter(static_model, negatives=negatives)
    expected = estimator.fit(queries, documents, corpus=queries).transform(queries)
    for corpus in (queries * 3, [*queries, *documents, *documents]):
        found = estimator.fit(queries, documents, corpus=corpus).transform(queries)
        np.testing.assert_array_equal(found, expected)


def test_a_document_repeated_in_a_list_is_one(static_model, texts):
    queries, d = texts
    estimator = adapter(static_model, epochs=10)
    expected = fitted_vectors(estimator, queries, [[d[i - 1], d[i]] for i in range(N)])
    y = [[d[i - 1], d[i], d[i - 1]] for i in range(N)]
    np.testing.assert_array_equal(fitted_vectors(estimator, queries, y), expected)


@pytest.mark.parametrize("first", [False, True])
def test_columns_of_negatives_are_in_natural_order(first):
    # ties go by pool order, so q2 finds n2 if it stands before n10
    rows = [("q", "d", "n", "n2", "n10"), ("q2", "n2", "d", "x", "y")]
    frame = {
        "negative_10": ["n10", "y"],
        "negative_2": ["n2", "x"],
        "negative": ["n", "d"],
        "document": ["d", "n2"],
        "query": ["q", "q2"],
    }
    if first:  # "n10" first: the answer of q2 is then the second
        rows[0] = ("q", "d", "n", "n10", "n2")
        frame["negative_10"][0], frame["negative_2"][0] = "n2", "n10"
    encoder = PrecomputedEncoder(unit("q=d", "q2=n2=n10", "n", "x", "y"))
    scorer = RetrievalScorer("mrr@10")
    expected = 0.75 if first else 1.0
    assert scorer(encoder, rows) == expected
    assert scorer(encoder, pd.DataFrame(frame)) == expected
    assert scorer(encoder, pl.DataFrame(frame)) == expected
    assert scorer(encoder, pa.table(frame)) == expected


def test_ids_one_and_one_as_str_differ():
    vectors = {1: [1, 0, 0], "1": [0, 1, 0], 2: [1, 0, 0], "2": [0, 1, 0]}
    encoder = PrecomputedEncoder(vectors)
    np.testing.assert_array_equal(encoder.transform([1, "1"]), np.eye(3)[:2])
    scorer = RetrievalScorer("recall@1", corpus=[2, "2"])
    assert scorer(encoder, [1, "1"], [2, "2"]) == 1.0
    assert scorer(encoder, [1, "1"], ["2", 2]) == 0.0
    assert scorer(encoder, [1, 1], [2, "2"]) == 0.5  # one query, two documents
    assert scorer(encoder, [1], [{2: 1, "2": 0}]) == 1.0
    estimator = adapter(encoder, scoring="recall@1").fit([1, "1"], [2, "2"])
    assert estimator.score([1, "1"], [2, "2"]) == 1.0


def test_ids_of_numpy_and_pandas_are_those_of_python():
    encoder = PrecomputedEncoder((np.arange(6), np.eye(6)))
    expected = fitted_vectors(adapter(encoder), [0, 1, 2], [3, 4, 5])
    for make in (np.array, np.uint8, pd.Series, pl.Series, pa.array, tuple):
        found = fitted_vectors(adapter(encoder), make([0, 1, 2]), make([3, 4, 5]))
        np.testing.assert_array_equal(found, expected)
    table = np.array([[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(fitted_vectors(adapter(encoder), table), expected)
    frame = pd.DataFrame(table, columns=["query", "document"])
    np.testing.assert_array_equal(fitted_vectors(adapter(encoder), frame), expected)
