import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV, KFold

from skembft import (
    AdapterFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.metrics import RetrievalScorer, evaluate

N = 12
ADAPTER_LOSSES = ["multiple_negatives_ranking", "triplet", "cosine_similarity"]
MODEL_LOSSES = [*ADAPTER_LOSSES, "contrastive"]


# every form, through fit, score and a search


def document(q, d):
    return q, d


def documents(q, d):
    return q, [[d[i], d[i - 1]] for i in range(N)]


def graded(q, d):
    return q, [{d[i - 1]: 1, d[i]: 3, d[i - 2]: 0, d[i - 3]: -1} for i in range(N)]


def pair_table(q, d):
    return list(zip(q, d, strict=True)), None


def labelled_table(q, d):
    rows = [(q[i], d[j]) for i in range(N) for j in (i, i - 1)]
    return rows, [1.0, 0.0] * N


def similarity_table(q, d):
    rows = [(q[i], d[j]) for i in range(N) for j in (i, i - 1, i - 5)]
    return rows, [0.9, 0.4, -0.1] * N


def triplet_table(q, d):
    return [(q[i], d[i], d[i - 1]) for i in range(N)], None


def wide_table(q, d):
    return [(q[i], d[i], d[i - 1], d[i - 4]) for i in range(N)], None


FORMS = {
    f.__name__: f
    for f in (
        document,
        documents,
        graded,
        pair_table,
        labelled_table,
        similarity_table,
        triplet_table,
        wide_table,
    )
}
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


@pytest.fixture(scope="module")
def texts(pairs):
    queries, documents = pairs
    assert len(set(documents[:N])) == N
    return queries[:N], documents[:N]


def adapter(encoder, **params):
    params = {
        "epochs": 3,
        "validation_fraction": None,
        "random_state": 0,
        "batch_size": 8,
    } | params
    return AdapterFinetuner(encoder, **params)


def model(static_model, **params):
    params = {"epochs": 1, "random_state": 0, "device": "cpu"} | params
    return EmbeddingFinetuner(static_model, **params)


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


@pytest.fixture(scope="module")
def vectors():
    """Queries that are rotated documents, and classes of documents."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((40, 6))
    return X, X @ np.linalg.qr(rng.standard_normal((6, 6)))[0], rng.randint(4, size=40)


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


def fitted_vectors(estimator, X, y=None, **fit_params):
    return estimator.fit(X, y, **fit_params).transform(X)


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


# containers


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


# what is first, highest, repeated


def unit(*items, dim=8):
    """Orthogonal unit vectors for names; names joined by "=" share one."""
    return {
        name: np.eye(dim)[i]
        for i, group in enumerate(items)
        for name in group.split("=")
    }


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


# known positives and negatives in training


def is_identity(estimator):
    weight = estimator.weights_["query"]["weight"]
    return np.array_equal(weight, np.eye(len(weight)))


@pytest.mark.parametrize("negatives", ["batch", "corpus"])
@pytest.mark.parametrize("side", ["query", "both"])
def test_a_shared_document_is_no_negative(negatives, side):
    rng = np.random.RandomState(0)
    vectors = {name: rng.standard_normal(4) for name in ("p", "q", "a", "b")}
    encoder = PrecomputedEncoder(vectors)
    estimator = adapter(
        encoder, negatives=negatives, side=side, loss_params={"scale": 1}
    )
    estimator.fit(["p", "q"], ["a", "a"])
    assert is_identity(estimator)
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0, 0, 0]
    estimator.fit(["p", "q"], [["a", "b"], ["b", "a"]])
    assert is_identity(estimator)
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0, 0, 0]
    estimator.fit(["p", "q"], [["a", "b"], ["b"]])  # "a" is a negative of q
    assert not is_identity(estimator)
    assert estimator.history_[1]["loss"] > 0


@pytest.mark.parametrize("negatives", ["batch", "corpus"])
def test_rows_of_one_class_are_no_negatives(negatives):
    X = np.random.RandomState(0).standard_normal((9, 4))
    estimator = adapter(None, negatives=negatives).fit(X, [1] * 9)
    assert is_identity(estimator)
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0, 0, 0]
    estimator.fit(X, [1] * 6 + [2] * 3)
    assert not is_identity(estimator)


@pytest.mark.parametrize("use_all_docs", [False, True])
def test_whole_model_with_all_documents_relevant(static_model, texts, use_all_docs):
    queries, d = texts
    # learning that d[0] answers queries[0] would need a negative, and there is none
    y = [[d[i % 3], d[(i + 1) % 3], d[(i + 2) % 3]] for i in range(6)]
    estimator = model(static_model, epochs=2, use_all_docs=use_all_docs)
    with pytest.warns(UserWarning, match="batches hold 1 pairs on average"):
        estimator.fit(queries[:6], y)
    assert {entry["loss"] for entry in estimator.history_[1:]} == {0.0}


def test_whole_model_with_a_repeated_document(static_model, texts):
    queries, d = texts
    estimator = model(static_model).fit(queries, [d[0]] * N)
    assert estimator.history_[-1]["loss"] == 0
    estimator.fit(queries, [d[0], *d[1:2] * (N - 1)])
    assert estimator.history_[-1]["loss"] > 0


# "a" … "e" equal their query: whoever took one as its negative would have a loss
TWINS = unit("q=a=b=c=d=e", "other", "p=r", "s")


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
@pytest.mark.parametrize("seed", range(3))
def test_sampled_negatives_are_never_known_positives(loss, seed):
    encoder = PrecomputedEncoder(TWINS)
    estimator = adapter(encoder, loss=loss, epochs=10, random_state=seed)
    relevant = ["a", "b", "c", "d", "e"]
    estimator.fit(["q"], [relevant], corpus=["other"])
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0] * 10
    estimator.set_params(use_all_docs=False).fit(["q"], [relevant], corpus=["other"])
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0] * 10
    # said in several rows, and of a document that is not the first
    estimator.fit(["q", "p", "q"], [["a", "b", "c"], "r", ["d", "e"]])
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0] * 10
    # unknown positives do get drawn
    estimator.fit(["q"], ["a"], corpus=["b", "c", "d", "e"])
    assert estimator.history_[1]["loss"] > 0.1


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
def test_sampled_negatives_are_never_of_the_same_class(loss):
    X = np.eye(4)[[0] * 10 + [1]]
    estimator = adapter(None, loss=loss, epochs=10).fit(X, [0] * 10 + [1])
    assert [entry["loss"] for entry in estimator.history_[1:]] == [0] * 10
    estimator.fit(X, [0] * 5 + [1] * 6)
    assert estimator.history_[1]["loss"] > 0.1


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
def test_judged_negatives_are_used(loss):
    # of the five documents that q may get, only the judged one is its twin
    encoder = PrecomputedEncoder(TWINS)
    wrong = {"triplet": 0.3, "cosine_similarity": 0.5}[loss]
    corpus = ["other", "r", "s"]
    for X, y in (
        (["q"], [{"a": 1, "b": 0}]),
        (["q"], [{"a": 1, "b": -2}]),
        (["q", "q"], [{"a": 1}, {"b": 0}]),
        ([("q", "a", "b")], None),
    ):
        estimator = adapter(encoder, loss=loss, epochs=1).fit(X, y, corpus=corpus)
        assert estimator.history_[-1]["loss"] == pytest.approx(wrong)
    estimator = adapter(encoder, loss=loss, epochs=1).fit(["q"], ["a"], corpus=corpus)
    assert estimator.history_[-1]["loss"] == 0


def test_labels_of_pairs_are_used_as_negatives_of_triplets():
    rows, labels = [("q", "a"), ("q", "b"), ("p", "r")], [1, 0, 1]
    estimator = adapter(PrecomputedEncoder(TWINS), loss="triplet", epochs=1)
    estimator.fit(rows, labels, corpus=["other", "s"])
    assert estimator.history_[-1]["loss"] == pytest.approx(0.15)  # q's, not p's


@pytest.mark.parametrize("negatives", ["batch", "corpus"])
def test_explicit_negatives_compete_in_infonce(negatives):
    estimator = adapter(PrecomputedEncoder(TWINS), negatives=negatives, epochs=1)
    estimator.fit([("q", "a", "b")])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(2))
    estimator.fit([("q", "a", "b", "c")])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(3))
    estimator.fit(["q"], [{"a": 1, "b": 0, "c": -1}])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(3))
    estimator.fit([("q", "a")])
    assert estimator.history_[-1]["loss"] == 0


@pytest.fixture
def twins():
    """Texts of the same words, and so of the same vector; the last is another."""
    q = "red0 old1 wet2 shy3"
    words = q.split()
    same = [" ".join(words[i:] + words[:i]) for i in (1, 2, 3)]
    return q, [*same, " ".join(words[::-1])], "big5 big6"


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity", "contrastive"])
@pytest.mark.parametrize("use_all_docs", [False, True])
def test_negatives_of_the_whole_model_are_no_positives(
    static_model, twins, loss, use_all_docs
):
    q, same, other = twins
    encoder = SentenceEncoder(static_model)
    cosine = float((encoder.transform([q]) @ encoder.transform([other]).T).item())
    expected = {  # of the positives 0
        "triplet": max(0, 0.3 - np.sqrt(2 - 2 * cosine)),
        "cosine_similarity": cosine**2 / 2,
        "contrastive": max(0, 0.5 - (1 - cosine)) ** 2 / 4,
    }[loss]
    estimator = model(static_model, loss=loss, use_all_docs=use_all_docs)
    estimator.fit([q], [same], corpus=[other])
    assert estimator.history_[-1]["loss"] == pytest.approx(expected, abs=1e-5)
    estimator.fit([q], [same[:1]], corpus=same[1:])
    assert estimator.history_[-1]["loss"] > expected + 0.01


def test_explicit_negatives_of_the_whole_model(static_model, twins):
    q, same, other = twins
    estimator = model(static_model)
    estimator.fit([(q, same[0], same[1])])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    estimator.fit([q], [{same[0]: 1, same[1]: 0}])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    estimator.fit([(q, same[0], same[1], same[2])])
    assert estimator.history_[-1]["loss"] == pytest.approx(np.log(3), abs=1e-4)
    estimator.set_params(loss="triplet").fit([(q, same[0], same[1], other)])
    loss = estimator.history_[-1]["loss"]  # both negatives count, the twin for 0.3
    assert 0.14 < loss < 0.3


@pytest.mark.parametrize("make", [adapter, model])
def test_a_query_without_negatives_among_others_with_some(static_model, texts, make):
    # in-batch negatives need no negative for every query
    queries, d = texts
    y = [{d[0]: 1, d[1]: 1}, {d[0]: 1, d[1]: 0}]
    estimator = make(static_model).fit(queries[:2], y)
    assert estimator.history_[-1]["loss"] > 0


def known_positives_are_no_negatives(estimator, X, y, expected):
    """Either all losses are as expected, or an error says that negatives lack."""
    try:
        estimator.fit(X, y)
    except ValueError as error:
        assert "negative" in str(error)
    else:
        losses = [entry["loss"] for entry in estimator.history_[1:]]
        np.testing.assert_allclose(losses, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Training did not help")
@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
def test_holding_out_queries_makes_no_positive_a_negative(loss):
    # the documents left for training are all relevant to the query that is left
    estimator = adapter(
        PrecomputedEncoder(TWINS), loss=loss, validation_fraction=0.5, refit=False
    )
    known_positives_are_no_negatives(estimator, ["q", "p"], ["a", "r"], 0)
    X = np.eye(4)[[0, 0, 0, 1, 1]]
    estimator.set_params(encoder=None, validation_fraction=0.4)
    for seed in range(6):
        estimator.set_params(random_state=seed)
        known_positives_are_no_negatives(estimator, X, [0, 0, 0, 1, 1], 0)


def test_columns_of_validation_frames_are_named(static_model):
    frame = pd.DataFrame({"query": ["red0"], "document": ["red1"], "id": [1]})
    with pytest.raises(ValueError, match="not expected: .'id'.*as X_val"):
        adapter(static_model).fit(["red0"], ["red1"], X_val=frame)


@pytest.mark.filterwarnings("ignore:Training did not help")
def test_holding_out_queries_of_the_whole_model(static_model):
    queries, documents = ["red0 red1", "old0 old1"], ["red1 red0", "old1 old0"]
    estimator = model(static_model, loss="triplet", validation_fraction=0.5)
    known_positives_are_no_negatives(estimator, queries, documents, 0)
