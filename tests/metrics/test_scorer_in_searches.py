"""RetrievalScorer as scikit-learn sees it."""

import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft.metrics import RetrievalScorer


def clean(X):
    return [text.replace("#", "") for text in X]


@pytest.fixture(scope="module")
def noisy(pairs):
    """Queries that only a cleaning step makes readable, documents and a corpus."""
    queries, documents = pairs
    rng = np.random.RandomState(1)
    corpus = [" ".join(d.split()[::-1][:2]) for d in documents]
    noisy = ["".join(c + "#" * (rng.rand() < 0.3) for c in q) for q in queries]
    return noisy, queries, documents, corpus


def adapter(static_model, **params):
    params = {"epochs": 2, "random_state": 0, "validation_fraction": None} | params
    return AdapterFinetuner(static_model, **params)


def test_scorer_gives_a_float_or_a_dict(static_model, pairs):
    encoder = SentenceEncoder(static_model)
    one = RetrievalScorer("ndcg@10")(encoder, *pairs)
    assert type(one) is float
    assert RetrievalScorer()(encoder, *pairs) == one  # the default
    assert RetrievalScorer(["ndcg@10"])(encoder, *pairs) == {"ndcg@10": one}
    both = RetrievalScorer(["nDCG@10", "mrr@1"])(encoder, *pairs)
    assert list(both) == ["nDCG@10", "mrr@1"]
    assert both["nDCG@10"] == one
    assert all(type(value) is float for value in both.values())


def test_scorer_can_be_pickled(static_model, pairs):
    corpus = [*pairs[1], "red0 red1"]
    scorer = RetrievalScorer(["ndcg@10", "R@2"], corpus=corpus)
    again = pickle.loads(pickle.dumps(scorer))
    assert again.metrics == scorer.metrics and again.corpus == corpus
    encoder = SentenceEncoder(static_model)
    assert again(encoder, *pairs) == scorer(encoder, *pairs)
    assert repr(again) == "RetrievalScorer(['ndcg@10', 'R@2'], corpus=<41 documents>)"


def test_corpus_widens_the_pool(static_model, pairs):
    queries, documents = pairs
    encoder = SentenceEncoder(static_model)
    few = RetrievalScorer("mrr@10")(encoder, queries[:5], documents[:5])
    scorer = RetrievalScorer("mrr@10", corpus=[*documents, *queries])
    assert scorer(encoder, queries[:5], documents[:5]) < few
    same = RetrievalScorer("mrr@10", corpus=documents[:5])
    assert same(encoder, queries[:5], documents[:5]) == few


def test_scorer_of_a_finetuner_is_its_score(static_model, pairs):
    model = adapter(static_model, scoring="map@20", epochs=5).fit(*pairs)
    corpus = [*pairs[1], *pairs[0]]
    assert RetrievalScorer("map@20")(model, *pairs) == model.score(*pairs)
    widened = RetrievalScorer("map@20", corpus=corpus)(model, *pairs)
    assert widened == model.score(*pairs, corpus=corpus)


def test_scorer_of_a_whole_model_is_its_score(static_model, pairs):
    queries, documents = pairs
    model = EmbeddingFinetuner(
        static_model, epochs=1, scoring="mrr@4", device="cpu", random_state=0
    ).fit(queries, documents)
    expected = model.score(queries, documents, corpus=queries)
    scorer = RetrievalScorer(["mrr@4", "R@1"], corpus=queries)
    found = scorer(model, queries, documents)
    assert found["mrr@4"] == expected
    cleaned = make_pipeline(FunctionTransformer(clean), model)
    assert scorer(cleaned, [q + "#" for q in queries], documents) == found


def test_scorer_sees_through_pipelines_and_searches(static_model, noisy):
    noisy, queries, documents, corpus = noisy
    scorer = RetrievalScorer(["ndcg@10", "mrr@5"], corpus=corpus)
    plain = adapter(static_model).fit(queries, documents)
    expected = scorer(plain, queries, documents)
    pipeline = make_pipeline(FunctionTransformer(clean), adapter(static_model))
    pipeline.fit(noisy, documents)
    assert scorer(pipeline, noisy, documents) == expected
    assert scorer(plain, noisy, documents) != expected  # cleaning does matter
    passing = Pipeline([("skip", "passthrough"), ("model", adapter(static_model))])
    assert scorer(passing.fit(queries, documents), queries, documents) == expected

    grid = {"adapterfinetuner__epochs": [2]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring=RetrievalScorer("ndcg@10"))
    assert scorer(search.fit(noisy, documents), noisy, documents) == expected
    search = GridSearchCV(adapter(static_model), {"epochs": [2]}, cv=2)
    assert scorer(search.fit(queries, documents), queries, documents) == expected
    inside = make_pipeline(FunctionTransformer(clean), search)
    assert scorer(inside.fit(noisy, documents), noisy, documents) == expected


def test_scorer_on_a_pipeline_ending_in_an_encoder(static_model, noisy):
    noisy, queries, documents, corpus = noisy
    encoder = SentenceEncoder(static_model)
    scorer = RetrievalScorer("ndcg@10", corpus=corpus)
    pipeline = make_pipeline(FunctionTransformer(clean), encoder).fit(noisy)
    assert scorer(pipeline, noisy, documents) == scorer(encoder, queries, documents)


def test_pipeline_score_cleans_queries_only(static_model, noisy):
    noisy, queries, documents, _ = noisy
    pipeline = make_pipeline(
        FunctionTransformer(clean), adapter(static_model, scoring="mrr@3")
    ).fit(noisy, documents)
    marked = [d + " #" for d in documents]
    expected = RetrievalScorer("mrr@3")(pipeline[-1], queries, marked)
    assert pipeline.score(noisy, marked) == expected
    assert RetrievalScorer("mrr@3")(pipeline, noisy, marked) == expected


def test_unfitted_estimators(static_model, pairs):
    model = adapter(static_model)
    for estimator in (model, GridSearchCV(model, {"epochs": [1]})):
        with pytest.raises(NotFittedError):
            RetrievalScorer()(estimator, *pairs)


def by_hand(static_model, pairs, metric, corpus):
    """Scores of the folds without any of scikit-learn's searching machinery."""
    queries, documents = map(np.array, pairs)
    scores = []
    for train, test in KFold(4).split(queries):
        model = adapter(static_model).fit(queries[train], documents[train])
        model.set_params(scoring=metric)
        scores.append(model.score(queries[test], documents[test], corpus=corpus))
    return scores


@pytest.mark.parametrize("routing", [False, True])
def test_cross_validate(static_model, pairs, routing):
    queries, documents = pairs
    # exactly as long as X, and a document that is found by accident stands last
    corpus = [" ".join(d.split()[:2]) for d in documents]
    assert len(corpus) == len(queries)
    with config_context(enable_metadata_routing=routing):
        found = cross_validate(
            adapter(static_model),
            queries,
            documents,
            cv=KFold(4),
            scoring=RetrievalScorer("ndcg@10", corpus=corpus),
            error_score="raise",
        )
        several = cross_validate(
            adapter(static_model),
            queries,
            documents,
            cv=KFold(4),
            scoring=RetrievalScorer(["ndcg@10", "mrr@2"], corpus=corpus),
            error_score="raise",
        )
    expected = by_hand(static_model, pairs, "ndcg@10", corpus)
    np.testing.assert_array_equal(found["test_score"], expected)
    np.testing.assert_array_equal(several["test_ndcg@10"], expected)
    expected = by_hand(static_model, pairs, "mrr@2", corpus)
    np.testing.assert_array_equal(several["test_mrr@2"], expected)
    # a sliced corpus would have given something else
    assert list(found["test_score"]) != by_hand(
        static_model, pairs, "ndcg@10", corpus[:10]
    )


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("cleaning", [False, True])
def test_grid_search(static_model, noisy, routing, cleaning):
    noisy, queries, documents, corpus = noisy
    assert len(corpus) == len(queries)
    estimator, name = adapter(static_model), "epochs"
    if cleaning:
        estimator = make_pipeline(FunctionTransformer(clean), estimator)
        name = "adapterfinetuner__epochs"
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            estimator,
            {name: [1, 2]},
            cv=KFold(4),
            scoring=RetrievalScorer(["mrr@2", "ndcg@10"], corpus=corpus),
            refit="ndcg@10",
            error_score="raise",
        ).fit(noisy if cleaning else queries, documents)
        single = GridSearchCV(
            estimator,
            {name: [2]},
            cv=KFold(4),
            scoring=RetrievalScorer("ndcg@10", corpus=corpus),
            error_score="raise",
        ).fit(noisy if cleaning else queries, documents)
    pairs = queries, documents
    for metric in ("mrr@2", "ndcg@10"):
        found = search.cv_results_[f"mean_test_{metric}"][1]  # 2 epochs
        expected = np.mean(by_hand(static_model, pairs, metric, corpus))
        assert found == pytest.approx(expected, abs=1e-12)
    assert search.best_index_ == search.cv_results_["mean_test_ndcg@10"].argmax()
    assert search.best_score_ == search.cv_results_["mean_test_ndcg@10"].max()
    assert single.best_score_ == pytest.approx(
        search.cv_results_["mean_test_ndcg@10"][1], abs=1e-12
    )
    if not cleaning:
        # scikit-learn's score of a search is that of the metric that chose
        assert search.score(queries, documents) == RetrievalScorer(
            "ndcg@10", corpus=corpus
        )(search, queries, documents)
