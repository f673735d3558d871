"""Probabilities of relevance, and what passes a threshold on them."""

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibrationDisplay
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.calibration import RelevanceCalibrator
from tests.test_common import DATA_FREE

METHODS = ["sigmoid", "isotonic"]


def make_data(n=120, noise=0.6, width=8, seed=0):
    """An index of n documents, and the query of each, of the same name."""
    rng = np.random.RandomState(seed)
    documents = rng.normal(size=(n, width))
    queries = documents + noise * rng.normal(size=documents.shape)
    names = [f"t{i}" for i in range(n)]
    return names, queries, documents


@pytest.fixture(scope="module")
def names():
    return make_data()[0]


@pytest.fixture(scope="module")
def index():
    names, queries, documents = make_data()
    return PrecomputedEncoder((names, queries), (names, documents))


def fitted(index, names, n=60, **options):
    return RelevanceCalibrator(index, **options).fit(names[:n], names[:n], corpus=names)


def cosines(index, names):
    queries, documents = index.transform(names), index.transform_documents(names)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    documents = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    return queries @ documents.T


# ---- probabilities


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_are_those_of_scikit_learn_on_the_pairs_that_are_retrieved(
    index, names, method
):
    calibrator = fitted(index, names, method=method, k=5)
    scores = cosines(index, names)
    best = np.argsort(-scores[:60], axis=1)[:, :5]
    rows = np.arange(60)[:, None]
    column, relevant = scores[rows, best].ravel(), (best == rows).ravel()
    np.testing.assert_allclose(calibrator.scores_, column, atol=1e-6)
    np.testing.assert_array_equal(calibrator.relevant_, relevant)
    if method == "isotonic":
        oracle = IsotonicRegression(out_of_bounds="clip").fit(column, relevant)
        expected = oracle.predict(scores[70:80].ravel())
    else:  # Platt's targets, as weights of both classes
        low, high = 1 / ((~relevant).sum() + 2), 1 - 1 / (relevant.sum() + 2)
        target = np.where(relevant, high, low)
        oracle = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
            np.tile(column, 2)[:, None],
            np.repeat([1, 0], len(column)),
            np.concatenate([target, 1 - target]),
        )
        expected = oracle.predict_proba(scores[70:80].reshape(-1, 1))[:, 1]
    pairs = [(query, document) for query in names[70:80] for document in names]
    found = calibrator.predict_proba(pairs)
    assert found.shape == (800 + 400, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found[:, 1], expected, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_hold_for_other_queries(method):
    names, queries, documents = make_data(n=1200, noise=1.2)
    index = PrecomputedEncoder((names, queries), (names, documents))
    calibrator = fitted(index, names, n=600, method=method)
    relevant, probability = calibrator.judge(names[600:], names[600:], corpus=names)
    assert len(relevant) == 6000 and set(relevant) == {0, 1}
    scores = np.sort(cosines(index, names)[600:], axis=1)[:, :-11:-1]
    before = brier_score_loss(relevant, scores.ravel().clip(0, 1))
    assert brier_score_loss(relevant, probability) < before / 2
    display = CalibrationDisplay.from_predictions(relevant, probability, n_bins=5)
    # the largest bin has 4,000 pairs
    assert abs(relevant.mean() - probability.mean()) < 0.02
    assert np.abs(display.prob_true - display.prob_pred)[:2].max() < 0.05


def test_pairs_come_in_every_form(index, names):
    calibrator = fitted(index, names)
    pairs = [(names[70], names[70]), (names[70], names[3]), (names[70], names[70])]
    expected = calibrator.predict_proba(pairs)
    assert expected[0, 1] == expected[2, 1] > expected[1, 1]
    for form in (
        np.array(pairs),
        list(map(list, pairs)),
        pd.DataFrame(pairs, columns=["query", "document"]),
        [{"query": q, "document": d} for q, d in pairs],
    ):
        np.testing.assert_array_equal(calibrator.predict_proba(form), expected)
    for bad in (names[:3], [(*pair, names[0]) for pair in pairs]):
        with pytest.raises(ValueError, match=r"\(query, document\) rows"):
            calibrator.predict_proba(bad)


def test_forms_of_y(index, names):
    X = names[:60]
    expected = fitted(index, names).scores_, fitted(index, names).relevant_
    other = names[100]
    for y in (
        [[document] for document in X],
        [{document: 2} for document in X],
        [{document: 1, other: 0} for document in X],
        pd.Series(X),
        np.array(X),
    ):
        calibrator = RelevanceCalibrator(index).fit(X, y, corpus=pd.Series(names))
        np.testing.assert_allclose(calibrator.scores_, expected[0], atol=1e-6)
        np.testing.assert_array_equal(calibrator.relevant_, expected[1])
    table = RelevanceCalibrator(index).fit(list(zip(X, X, strict=True)), corpus=names)
    np.testing.assert_allclose(table.scores_, expected[0], atol=1e-6)


def test_queries_that_nothing_answers_count_as_pairs_and_not_as_answers(index, names):
    X, y = names[:60], [{names[i]: int(i < 50)} for i in range(60)]
    calibrator = RelevanceCalibrator(index, k=5).fit(X, y, corpus=names)
    assert len(calibrator.scores_) == 300
    assert not calibrator.relevant_[250:].any()
    assert calibrator.n_relevant_ == len(calibrator.answer_scores_) == 50


def test_several_answers_and_repeated_queries(index, names):
    X, y = [*names[:40], *names[:40]], [*names[:40], *names[1:41]]
    calibrator = RelevanceCalibrator(index, k=120).fit(X, y, corpus=names)
    assert calibrator.n_relevant_ == calibrator.relevant_.sum() == 80
    scores, rows = cosines(index, names), np.arange(40)
    best = np.maximum(scores[rows, rows], scores[rows, rows + 1])
    np.testing.assert_allclose(calibrator.answer_scores_, best, atol=1e-6)


# ---- retrievers


def test_finetuners_encoders_and_what_holds_them(static_model, pairs):
    queries, documents = pairs
    options = {"validation_fraction": None, "epochs": 1, "random_state": 0}
    adapter = AdapterFinetuner(static_model, **options).fit(queries, documents)
    search = GridSearchCV(
        AdapterFinetuner(static_model, **options), {"epochs": [1]}, cv=2
    ).fit(queries, documents)
    upper = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    shouted = [query.upper() for query in queries]
    for retriever, X in (
        (static_model, queries),
        (SentenceEncoder(static_model), queries),
        (adapter, queries),
        (FrozenEstimator(adapter), queries),
        (search, queries),
        (make_pipeline(upper, adapter), shouted),
        (CorpusFinetuner(static_model, gamma=0.2).fit(queries, documents), queries),
        (EmbeddingFinetuner(static_model, **options).fit(queries, documents), queries),
    ):
        calibrator = RelevanceCalibrator(retriever, k=3).fit(X, documents)
        indices, probabilities = calibrator.retrieve(X, documents)
        assert indices.shape == probabilities.shape == (len(X), 3)
        shown = [
            (query, documents[i])
            for query, row in zip(X, indices, strict=True)
            for i in row
        ]
        np.testing.assert_allclose(
            calibrator.predict_proba(shown)[:, 1], probabilities.ravel(), atol=1e-4
        )


def test_prepared_documents(index, names):
    adapter = AdapterFinetuner(index, validation_fraction=None, epochs=1)
    for retriever in (index, adapter.fit(names, names)):
        calibrator = fitted(retriever, names)
        prepared = retriever.transform_documents(names)
        expected = calibrator.retrieve(names[:5], names)
        found = calibrator.retrieve(names[:5], prepared)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors(dtype):
    _, queries, documents = make_data()
    queries, documents = queries.astype(dtype), documents.astype(dtype)
    adapter = AdapterFinetuner(encoder=None, validation_fraction=None, epochs=1)
    adapter.fit(queries[60:], documents[60:])
    calibrator = RelevanceCalibrator(adapter, k=5)
    calibrator.fit(queries[:60], documents[:60], corpus=documents)
    indices, probabilities = calibrator.retrieve(queries[:60], documents)
    shown = np.stack([queries[:60], documents[indices[:, 0]]], axis=1)
    expected = probabilities[:, 0]
    found = calibrator.predict_proba(shown)[:, 1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_vectors_with_class_labels_never_find_themselves():
    rng = np.random.RandomState(0)
    labels = np.repeat(np.arange(10), 8)
    X = rng.normal(size=(10, 6))[labels] + 0.8 * rng.normal(size=(80, 6))
    adapter = AdapterFinetuner(encoder=None, validation_fraction=None, epochs=1)
    calibrator = RelevanceCalibrator(adapter.fit(X, labels), k=79).fit(X, labels)
    assert len(calibrator.scores_) == 80 * 79
    assert calibrator.relevant_.sum() == calibrator.n_relevant_ == 80 * 7


def test_a_query_that_is_a_document_does_not_find_itself():
    names, vectors, _ = make_data(60)
    vectors[30:] = vectors[:30] + 0.1
    index = PrecomputedEncoder(documents=(names, vectors))
    y = [*names[30:], *names[:30]]
    adapter = AdapterFinetuner(
        index, exclude_self=True, validation_fraction=None, epochs=1
    ).fit(names, y)
    calibrator = RelevanceCalibrator(adapter, k=60).fit(names, y)
    assert len(calibrator.scores_) == 60 * 59
    indices, probabilities = calibrator.retrieve(names, names)
    assert (indices[:, -1] == -1).all() and (probabilities[:, -1] == 0).all()
    assert not (indices == np.arange(60)[:, None]).any()


def test_dot_products(static_model, pairs):
    encoder = SentenceEncoder(static_model, normalize=False)
    queries, documents = pairs
    calibrator = RelevanceCalibrator(encoder, k=5).fit(queries, documents)
    indices, probabilities = calibrator.retrieve(queries, documents)
    shown = [(q, documents[row[0]]) for q, row in zip(queries, indices, strict=True)]
    np.testing.assert_allclose(
        calibrator.predict_proba(shown)[:, 1], probabilities[:, 0], atol=1e-4
    )


# ---- thresholds


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", [0.3, 0.5, 0.8])
def test_threshold_of_precision_is_the_lowest(index, names, method, precision):
    calibrator = fitted(index, names, method=method)
    threshold = calibrator.threshold(precision=precision)
    relevant, probability = calibrator.judge(names[:60], names[:60], corpus=names)
    assert relevant[probability >= threshold].mean() >= precision
    lower = [level for level in np.unique(probability) if level < threshold]
    assert all(relevant[probability >= level].mean() < precision for level in lower)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recall", [0.2, 0.5, 0.75])
def test_threshold_of_recall_is_the_highest(index, names, method, recall):
    calibrator = fitted(index, names, method=method, k=4)
    threshold = calibrator.threshold(recall=recall)
    relevant, probability = calibrator.judge(names[:60], names[:60], corpus=names)
    assert relevant[probability >= threshold].sum() >= recall * 60
    assert relevant[probability > threshold].sum() < recall * 60


def test_recall_counts_what_is_not_retrieved(index, names):
    calibrator = fitted(index, names, k=1)
    found = calibrator.relevant_.sum()
    assert 0 < found < 60
    calibrator.threshold(recall=found / 60)
    with pytest.raises(ValueError, match=rf"{found} of the 60 .*a recall of 0\.\d"):
        calibrator.threshold(recall=(found + 1) / 60)


def test_a_precision_that_is_too_high_names_the_highest():
    names, queries, documents = make_data(noise=1.2)
    index = PrecomputedEncoder((names, queries), (names, documents))
    calibrator = fitted(index, names)
    with pytest.raises(ValueError, match="the highest of the held-out pairs is 0") as e:
        calibrator.threshold(precision=1.0)
    highest = float(str(e.value).split(" is ")[-1].split(",")[0])
    calibrator.threshold(precision=highest)


def test_exactly_one_thing_is_asked_for(index, names):
    calibrator = fitted(index, names)
    with pytest.raises(ValueError, match="exactly one of precision, recall"):
        calibrator.threshold()
    with pytest.raises(ValueError, match="exactly one of precision, recall"):
        calibrator.threshold(precision=0.5, recall=0.5)
    for name in ("precision", "recall", "coverage"):
        for value in (0, 1.5, -1, np.nan):
            with pytest.raises(ValueError, match=name):
                calibrator.threshold(**{name: value})
        with pytest.raises(TypeError, match=name):
            calibrator.threshold(**{name: "0.5"})
    with pytest.raises(ValueError, match="coverage"):
        calibrator.threshold(coverage=1)


@pytest.mark.parametrize("method", METHODS)
def test_what_passes_is_what_is_at_least_as_probable(index, names, method):
    calibrator = fitted(index, names, method=method)
    everything = calibrator.retrieve(names[60:], names)
    threshold = everything[1][3, 2]  # one of them has exactly this
    indices, probabilities = calibrator.retrieve(names[60:], names, threshold=threshold)
    passes = everything[1] >= threshold
    np.testing.assert_array_equal(indices, np.where(passes, everything[0], -1))
    np.testing.assert_array_equal(probabilities, np.where(passes, everything[1], 0))
    assert indices[3, 2] >= 0 and not passes.all()
    for bad in (1.1, -0.1, np.nan):
        with pytest.raises(ValueError, match="threshold"):
            calibrator.retrieve(names[60:], names, threshold=bad)


def test_k_of_retrieve(index, names):
    calibrator = fitted(index, names, k=7)
    assert calibrator.retrieve(names[:2], names)[0].shape == (2, 7)
    assert calibrator.retrieve(names[:2], names, 3)[0].shape == (2, 3)
    assert calibrator.retrieve(names[:2], names[:4])[0].shape == (2, 4)
    with pytest.raises(ValueError, match="k == 0, must be >= 1"):
        calibrator.retrieve(names[:2], names, 0)


def test_equal_documents_pass_together(index, names):
    calibrator = fitted(index, names)
    twice = [*names, *names]
    threshold = calibrator.threshold(precision=0.6)
    indices, _ = calibrator.retrieve(names[60:], twice, k=20, threshold=threshold)
    for row in indices:
        passing = row[row >= 0]
        assert sorted(passing[passing < 120] + 120) == sorted(passing[passing >= 120])


# ---- errors


def test_a_retriever_that_is_not_fitted(static_model, pairs):
    queries, documents = pairs
    adapter = AdapterFinetuner(static_model)
    with pytest.raises(NotFittedError, match=r"fit it on other queries.*Frozen"):
        RelevanceCalibrator(adapter).fit(queries, documents)
    with pytest.raises(TypeError, match="makes no vectors"):
        RelevanceCalibrator(LogisticRegression()).fit(queries, documents)
    calibrator = RelevanceCalibrator(static_model)
    for method in ("predict_proba", "threshold", "retrieve", "judge"):
        arguments = {"threshold": [], "predict_proba": [pairs]}.get(method, pairs)
        with pytest.raises(NotFittedError):
            getattr(calibrator, method)(*arguments)


def test_scores_that_tell_nothing(index, names):
    with pytest.raises(ValueError, match="none are relevant"):
        RelevanceCalibrator(index, k=1).fit(names[:1], [{names[5]: 0}], corpus=names)
    with pytest.raises(ValueError, match="all are relevant"):
        RelevanceCalibrator(index).fit(names[:5], [names] * 5)
    names, queries, documents = make_data()
    against = PrecomputedEncoder((names, -queries), (names, documents))
    with pytest.raises(ValueError, match="score lower than others"):
        fitted(against, names, k=120)


def test_vectors_that_are_not_finite(names):
    _, queries, documents = make_data()

    class Broken(PrecomputedEncoder):
        def transform(self, X):
            vectors = super().transform(X)
            vectors[1] = np.nan
            return vectors

    broken = Broken((names, queries), (names, documents))
    with pytest.raises(ValueError, match="NaN or infinity, first in row 1"):
        fitted(broken, names)


def test_parameters_are_checked(index, names):
    with pytest.raises(ValueError, match="method"):
        fitted(index, names, method="temperature")
    with pytest.raises(ValueError, match="'k'"):
        fitted(index, names, k=0)


# ---- an estimator of scikit-learn


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in DATA_FREE
        if name
        not in (
            "check_parameters_default_constructible",  # the retriever has no default
            "check_get_feature_names_out_error",  # no transformer
            "check_transformers_unfitted",
        )
    ],
)
def test_sklearn_checks(index, name):
    check = getattr(estimator_checks, name)
    check("RelevanceCalibrator", RelevanceCalibrator(index))


def test_clone_and_frozen_retrievers(index, names):
    adapter = AdapterFinetuner(index, validation_fraction=None, epochs=1)
    adapter.fit(names, names)
    calibrator = fitted(adapter, names, method="isotonic", k=5)
    copied = clone(calibrator)
    assert copied.get_params()["method"] == "isotonic" and copied.k == 5
    with pytest.raises(NotFittedError):
        copied.fit(names, names)
    frozen = clone(RelevanceCalibrator(FrozenEstimator(adapter)))
    before = adapter.transform(names[:2])
    frozen.fit(names[:60], names[:60], corpus=names)
    np.testing.assert_array_equal(adapter.transform(names[:2]), before)
    np.testing.assert_array_equal(
        frozen.retrieve(names[60:], names)[1],
        fitted(adapter, names).retrieve(names[60:], names)[1],
    )
    assert "RelevanceCalibrator(retriever=FrozenEstimator" in repr(frozen)
    assert "api.html#skembft.calibration.RelevanceCalibrator" in frozen._repr_html_()
    assert calibrator.set_params(k=np.int64(3)).get_params()["k"] == 3


@pytest.mark.parametrize("method", METHODS)
def test_joblib(index, names, method, tmp_path):
    calibrator = fitted(index, names, method=method)
    joblib.dump(calibrator, tmp_path / "calibrator.joblib")
    loaded = joblib.load(tmp_path / "calibrator.joblib")
    threshold = calibrator.threshold(coverage=0.8)
    assert loaded.threshold(coverage=0.8) == threshold
    for found, expected in zip(
        loaded.retrieve(names[60:], names, threshold=threshold),
        calibrator.retrieve(names[60:], names, threshold=threshold),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("asked", ["precision", "recall"])
@pytest.mark.parametrize("method", METHODS)
def test_a_threshold_is_reached_by_whatever_product(method, asked):
    """One query at a time scores with other last digits, as pairs do."""
    for seed in range(20):
        rng = np.random.RandomState(seed)
        documents = rng.normal(size=(200, 384))
        queries = documents[:20] + 2 * rng.normal(size=(20, 384))
        names, asking = np.arange(200), np.arange(1000, 1020)
        index = PrecomputedEncoder((asking, queries), (names, documents))
        calibrator = RelevanceCalibrator(index, method=method)
        calibrator.fit(asking, names[:20], corpus=names)
        recall = calibrator.relevant_.sum() / calibrator.n_relevant_
        share = {"recall": recall} if asked == "recall" else {"precision": 0.5}
        threshold = calibrator.threshold(**share)

        def passing(asking, index=calibrator, names=names, at=threshold):
            indices, _ = index.retrieve(asking, names, threshold=at)
            return [set(row[row >= 0].tolist()) for row in indices]

        together = passing(asking)
        assert [passing(asking[i : i + 1])[0] for i in range(20)] == together
        best, _ = calibrator.retrieve(asking, names)
        for query, row, passes in zip(asking, best, together, strict=True):
            pairs = [(int(query), int(document)) for document in row]
            enough = calibrator.predict_proba(pairs)[:, 1] >= threshold
            assert set(row[enough].tolist()) == passes


def test_vectors_of_other_widths_are_refused(index, names):
    other = PrecomputedEncoder({"q": [1, 0, 0]}, {"a": [1, 0], "b": [0, 1]})
    with pytest.raises(ValueError, match="3 dimensions, those of documents 2"):
        RelevanceCalibrator(other, k=1).fit(["q"], ["a"], corpus=["b"])
    calibrator = fitted(index, names)
    with pytest.raises(ValueError, match="8 dimensions, those of documents 5"):
        calibrator.retrieve(names[:3], np.ones((4, 5)))
    narrow = PrecomputedEncoder({"t0": [1, 0, 0]}, {"t0": [1, 0], "t1": [0, 1]})
    with pytest.raises(ValueError, match="3 dimensions, those of documents 2"):
        calibrator.set_params(retriever=narrow).predict_proba([("t0", "t1")])
