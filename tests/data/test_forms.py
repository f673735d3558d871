"""Every form of data through fit, score and a search, and forms that say the same."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV, KFold

from skembft import PrecomputedEncoder, SentenceEncoder
from skembft.metrics import RetrievalScorer, evaluate
from tests.data.forms import (
    ADAPTER_LOSSES,
    FORMS,
    MODEL_LOSSES,
    N,
    adapter,
    fitted_vectors,
    model,
    triplet_table,
)

forms = pytest.mark.parametrize("form", FORMS)


def relevant_of(X, y):
    """What a form says, by hand: {query: {document: grade}}."""
    qrels = {}
    for i, row in enumerate(X):
        if isinstance(row, tuple):
            query, positive, *negatives = row
            grades = {positive: 1 if y is None else y[i]} | dict.fromkeys(negatives, 0)
        elif isinstance(y[i], dict):
            query, grades = row, y[i]
        else:
            query, grades = row, dict.fromkeys([y[i]] if type(y[i]) is str else y[i], 1)
        qrels.setdefault(query, {}).update(grades)
    return qrels


def check_search(estimator, X, y, *, metric="mrr@3"):
    """A search gives what slicing by hand gives."""
    estimator = estimator.set_params(scoring=metric)
    search = GridSearchCV(
        estimator, {"epochs": [1]}, cv=KFold(2), refit=False, error_score="raise"
    ).fit(X, y)
    train, test = next(KFold(2).split(X))
    half = estimator.set_params(epochs=1).fit(take(X, train), take(y, train))
    by_hand = half.score(take(X, test), take(y, test))
    assert search.cv_results_["split0_test_score"][0] == by_hand


def take(values, index):
    return None if values is None else [values[i] for i in index]


@forms
@pytest.mark.parametrize("loss", ADAPTER_LOSSES)
def test_adapter_takes_every_form(static_model, texts, form, loss):
    X, y = FORMS[form](*texts)
    estimator = adapter(static_model, loss=loss)
    assert estimator.fit(X, y) is estimator
    assert estimator.history_[-1]["loss"] > 0
    vectors = estimator.transform(X)
    assert vectors.shape == (len(X), 16) and vectors.dtype == np.float32
    queries = [row[0] if isinstance(row, tuple) else row for row in X]
    np.testing.assert_array_equal(estimator.transform(queries), vectors)
    base = SentenceEncoder(static_model).transform(X)
    assert np.abs(vectors - base).max() > 1e-5  # something was learnt
    if loss == "multiple_negatives_ranking":
        check_search(estimator, X, y)


@forms
@pytest.mark.parametrize("metric", ["ndcg@3", "recall@1", "map@5"])
def test_score_of_every_form_is_that_of_its_judgements(
    static_model, texts, form, metric
):
    X, y = FORMS[form](*texts)
    encoder = SentenceEncoder(static_model)
    qrels = relevant_of(X, y)
    pool = list(dict.fromkeys(d for grades in qrels.values() for d in grades))
    similarity = encoder.transform(list(qrels)) @ encoder.transform_documents(pool).T
    run = {
        q: dict(zip(pool, map(float, row), strict=True))
        for q, row in zip(qrels, similarity, strict=True)
    }
    expected = evaluate(qrels, run, metric)[metric]
    assert 0 < expected < 1
    found = RetrievalScorer(metric)(encoder, X, y)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="module")
def ids(static_model, texts):
    """Ids of the texts, of both types, and the encoder that knows their vectors."""
    queries, documents = texts
    encoder = SentenceEncoder(static_model)
    query_ids = [i if i % 2 else str(i) for i in range(N)]
    document_ids = [f"d{i}" if i % 2 else 100 + i for i in range(N)]
    return (
        query_ids,
        document_ids,
        PrecomputedEncoder(
            (query_ids, encoder.transform(queries)),
            (document_ids, encoder.transform_documents(documents)),
        ),
    )


@forms
@pytest.mark.parametrize("loss", ADAPTER_LOSSES)
def test_ids_are_as_good_as_texts(static_model, texts, ids, form, loss):
    query_ids, document_ids, index = ids
    X, y = FORMS[form](*texts)
    X_ids, y_ids = FORMS[form](query_ids, document_ids)
    from_texts = adapter(static_model, loss=loss).fit(X, y)
    from_ids = adapter(index, loss=loss).fit(X_ids, y_ids)
    np.testing.assert_array_equal(from_ids.transform(X_ids), from_texts.transform(X))
    assert from_ids.score(X_ids, y_ids) == from_texts.score(X, y)
    assert from_ids.history_ == from_texts.history_
    if form == "graded":
        check_search(from_ids, X_ids, y_ids)


@forms
@pytest.mark.parametrize("loss", MODEL_LOSSES)
def test_whole_model_takes_every_form(static_model, texts, form, loss):
    X, y = FORMS[form](*texts)
    estimator = model(static_model, loss=loss, learning_rate=0.01).fit(X, y)
    assert 0 < estimator.history_[-1]["loss"] < np.inf
    vectors = estimator.transform(X)
    assert vectors.shape == (len(X), 16) and vectors.dtype == np.float32
    base = SentenceEncoder(static_model).transform(X)
    assert np.abs(vectors - base).max() > 1e-4
    assert 0 < estimator.score(X, y) <= 1


@forms
def test_whole_model_in_a_search(static_model, texts, form):
    X, y = FORMS[form](*texts)
    check_search(model(static_model, learning_rate=0.01), X, y)


@pytest.mark.parametrize("loss", ADAPTER_LOSSES)
@pytest.mark.parametrize("target", ["paired", "labels", "names", "column"])
def test_vectors_in_every_form(vectors, loss, target):
    X, Y, labels = vectors
    names = np.array(["red", "old", "wet", "shy"])[labels]
    y = {"paired": Y, "labels": labels, "names": names, "column": labels[:, None]}
    y = y[target]
    options = {"loss": loss, "epochs": 20, "learning_rate": 0.05, "weight_decay": 0}
    estimator = adapter(None, **options).fit(X, y)
    assert estimator.transform(X).shape == (40, 6)
    untrained = adapter(None, epochs=1, learning_rate=1e-300, weight_decay=0).fit(X, y)
    assert estimator.score(X, y) > untrained.score(X, y)
    if target != "paired":  # names are numbered in alphabetical order: only renamed
        same = adapter(None, **options).fit(X, labels)
        assert estimator.score(X, y) == same.score(X, labels)


@pytest.mark.parametrize("target", ["paired", "labels", "column"])
def test_vectors_in_a_search(vectors, target):
    X, Y, labels = vectors
    y = {"paired": Y, "labels": labels, "column": labels[:, None]}[target]
    search = GridSearchCV(
        adapter(None), {"epochs": [1, 2]}, cv=KFold(2), error_score="raise"
    ).fit(X, y)
    train, test = next(KFold(2).split(X))
    half = adapter(None, epochs=1).fit(X[train], y[train])
    by_hand = half.score(X[test], y[test])
    assert search.cv_results_["split0_test_score"][0] == by_hand
    assert search.score(X, y) == search.best_estimator_.score(X, y)


def test_one_number_a_row_is_a_label_two_are_a_vector(vectors):
    X, _, labels = vectors
    as_labels = adapter(None).fit(X[:, :1], labels[:, None])
    assert as_labels.score(X[:, :1], labels) == as_labels.score(
        X[:, :1], labels[:, None]
    )
    as_vectors = adapter(None, scoring="recall@1").fit(X[:, :2], X[:, :2])
    assert as_vectors.score(X[:, :2], X[:, :2]) > 0.7  # each finds its own


# forms that say the same


def test_one_document_in_every_form(static_model, texts):
    queries, documents = texts
    expected = fitted_vectors(adapter(static_model), queries, documents)
    for X, y in (
        (queries, [[d] for d in documents]),
        (queries, [(d,) for d in documents]),
        (queries, [{d: 1} for d in documents]),
        (queries, [{d: 0.5} for d in documents]),
        (queries, [{d: True} for d in documents]),
        (queries, [np.array([d]) for d in documents]),
        (queries, [pd.Series([d]) for d in documents]),
        (list(zip(queries, documents, strict=True)), None),
        (list(zip(queries, documents, strict=True)), [1] * N),
    ):
        np.testing.assert_array_equal(
            fitted_vectors(adapter(static_model), X, y), expected
        )


def test_explicit_negatives_are_grades_of_zero(static_model, texts):
    queries, documents = texts
    rows, _ = triplet_table(queries, documents)
    for loss in ADAPTER_LOSSES:
        expected = fitted_vectors(adapter(static_model, loss=loss), rows)
        for grade in (0, -1, False):
            y = [{p: 1, n: grade} for _, p, n in rows]
            found = fitted_vectors(adapter(static_model, loss=loss), queries, y)
            np.testing.assert_array_equal(found, expected)


def test_a_row_of_several_documents_is_several_rows(static_model, texts):
    queries, documents = texts
    y = [[documents[i], documents[i - 1]] for i in range(N)]
    expected = fitted_vectors(adapter(static_model), queries, y)[0]
    X = [q for q in queries for _ in range(2)]
    found = fitted_vectors(adapter(static_model), X, [d for pair in y for d in pair])
    np.testing.assert_array_equal(found[0], expected)


QUERIES, DOCUMENTS = "abcdef", "stuvwxyz"
JUDGEMENTS = st.dictionaries(
    st.sampled_from(QUERIES),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1),
    min_size=1,
).filter(lambda qrels: any(g > 0 for v in qrels.values() for g in v.values()))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(qrels=JUDGEMENTS, data=st.data())
def test_all_forms_of_the_same_judgements_score_alike(qrels, data):
    rng = np.random.RandomState(0)
    index = {item: rng.standard_normal(5) for item in QUERIES + DOCUMENTS}
    encoder = PrecomputedEncoder(index)
    names = ["ndcg@3", "map@8", "recall@2", "mrr@8"]
    scorer = RetrievalScorer(names, corpus=list(DOCUMENTS))
    answerable = {q: g for q, g in qrels.items() if max(g.values()) > 0}
    unit = {k: v / np.linalg.norm(v) for k, v in index.items()}
    run = {q: {d: float(unit[q] @ unit[d]) for d in DOCUMENTS} for q in answerable}
    expected = pytest.approx(evaluate(answerable, run, names), abs=1e-9)
    # a dict for every query
    assert scorer(encoder, list(qrels), list(qrels.values())) == expected
    # a row for every judgement, in any order, some of them twice
    rows = [(q, d, g) for q, grades in qrels.items() for d, g in grades.items()]
    rows = data.draw(st.permutations(rows + rows[::2]))
    grades = [g for *_, g in rows]
    assert scorer(encoder, [(q, d) for q, d, _ in rows], grades) == expected
    assert scorer(encoder, [q for q, *_ in rows], [{d: g} for _, d, g in rows]) == (
        expected
    )
    # lower grades of a repeated judgement do not matter
    more = [{d: g - data.draw(st.integers(0, 2))} for _, d, g in rows]
    y = [{d: g} for _, d, g in rows] + more
    assert scorer(encoder, [q for q, *_ in rows] * 2, y) == expected
