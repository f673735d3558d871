"""What validation costs follows what the training between two evaluations costs."""

import numpy as np
import pytest

from skembft import AdapterFinetuner, CorpusFinetuner, EmbeddingFinetuner
from skembft import PrecomputedEncoder as Vectors
from skembft._finetuner import validation
from skembft.inspection import TrainingHistoryDisplay
from skembft.metrics import RetrievalScorer

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


@pytest.fixture
def ranked(monkeypatch):
    """Sizes (queries, documents) of every ranking in validation."""
    from skembft._corpus import trainer as corpus
    from skembft._finetuner import trainer as gradient

    sizes = []

    def counted(function, queries, documents):
        def count(*args, **kwargs):
            sizes.append((len(args[queries]), len(args[documents])))
            return function(*args, **kwargs)

        return count

    monkeypatch.setattr(gradient, "rank", counted(gradient.rank, 0, 1))
    monkeypatch.setattr(corpus, "score_gammas", counted(corpus.score_gammas, 2, 3))
    return sizes


@pytest.fixture
def many():
    """4,000 queries that 200,000 vectors are ranked for."""
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(200_000, 3)).astype(np.float32)
    return documents[:4000] + 0.1, documents


def test_a_large_corpus_is_ranked_for_a_few_queries_and_less_often(many, ranked):
    queries, documents = many
    adapter = AdapterFinetuner(
        None,
        negatives="random",
        interpolation=None,
        epochs=9,
        refit=False,
        random_state=1,
    )
    adapter.fit(queries, documents[:4000], corpus=documents)
    # 300 × 200,000 products cost as much as four epochs of 3,700 pairs
    assert ranked == [(300, 200_000)] * 4
    assert [e["epoch"] for e in adapter.history_] == [0, 4, 8, 9]
    assert all(0 < e["standard_error"] < 0.05 for e in adapter.history_)


def test_steps_that_are_asked_for_are_kept(many, ranked):
    queries, documents = many
    adapter = AdapterFinetuner(
        None,
        negatives="random",
        interpolation=None,
        epochs=1,
        refit=False,
        evaluation_steps=20,
        random_state=0,
    )
    adapter.fit(queries, documents[:4000], corpus=documents)
    assert [e["step"] for e in adapter.history_] == [0, 20, 29]


def test_as_many_queries_as_training_pays_for(ranked):
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(30_000, 2))
    adapter = AdapterFinetuner(None, epochs=1, refit=False, random_state=0)
    adapter.fit(documents, documents)
    assert ranked == [(2000, 30_000)] * 2  # and not 3,000


def test_validation_data_are_sampled_too(many, ranked):
    queries, documents = many
    options = {
        "negatives": "random",
        "interpolation": None,
        "epochs": 1,
        "random_state": 0,
    }
    adapter = AdapterFinetuner(None, **options)
    held_out = {"X_val": queries, "y_val": documents[:4000]}
    adapter.fit(queries, documents[:4000], corpus=documents, **held_out)
    assert ranked == [(300, 200_000)] * 2
    again = AdapterFinetuner(None, **options)
    again.fit(queries, documents[:4000], corpus=documents, **held_out)
    assert again.history_ == adapter.history_


def test_the_corpus_is_moved_by_a_few_queries(ranked):
    rng = np.random.RandomState(0)
    ids = [f"d{i}" for i in range(100_000)]
    documents = rng.normal(size=(len(ids), 2))
    queries = [f"q{i}" for i in range(8000)]
    vectors = documents[np.arange(8000) % 4000] + 0.1
    finetuner = CorpusFinetuner(Vectors((queries, vectors), (ids, documents)))
    finetuner.fit(queries, ids[:4000] * 2, corpus=ids)
    assert ranked == [(300, 100_000)]


def test_a_whole_model_is_evaluated_by_its_texts(
    static_model, pairs, ranked, monkeypatch
):
    monkeypatch.setattr(validation, "_CHEAP", 1)
    queries, documents = pairs
    corpus = [f"red1 old{i % 12} wet{i % 7} n{i}" for i in range(1000)]
    params = {"epochs": 5, "validation_fraction": 0.1, "evaluation_steps": 0}
    finetuner = EmbeddingFinetuner(static_model, random_state=0, **params)
    finetuner.fit(queries, documents, corpus=corpus)
    # 1,044 texts cost as much as 4.8 times 36 pairs, forward and backward
    assert [e["epoch"] for e in finetuner.history_] == [0, 5]
    finetuner.set_params(epochs=1).fit(queries, documents, corpus=corpus[:100])
    assert [e["epoch"] for e in finetuner.history_] == [0, 1]


def test_the_standard_error_is_that_of_the_metric(pairs):
    rng = np.random.RandomState(0)
    queries = rng.normal(size=(60, 4))
    documents = queries + rng.normal(size=(60, 4))
    adapter = AdapterFinetuner(None, epochs=2, scoring="mrr@10")
    adapter.fit(queries[:40], documents[:40], X_val=queries[40:], y_val=documents[40:])
    scorer = RetrievalScorer("mrr@10", corpus=documents[:40])
    values = scorer.per_query(
        AdapterFinetuner(None, epochs=1, learning_rate=1e-12).fit(queries, documents),
        queries[40:],
        documents[40:],
    )
    first = adapter.history_[0]
    assert first["mrr@10"] == pytest.approx(values.mean())
    assert first["standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(20))


def test_a_single_query_has_no_standard_error():
    vectors = np.random.RandomState(0).normal(size=(8, 3))
    adapter = AdapterFinetuner(None, epochs=1).fit(
        vectors[:6], vectors[:6], X_val=vectors[6:7], y_val=vectors[7:]
    )
    assert [e["standard_error"] for e in adapter.history_] == [None, None]
    TrainingHistoryDisplay.from_estimator(adapter)


def test_the_picture_shows_the_standard_error():
    vectors = np.random.RandomState(0).normal(size=(80, 3))
    adapter = AdapterFinetuner(None, epochs=3, random_state=0).fit(vectors, vectors)
    chosen = adapter.history_.plot().ax_.collections
    other = adapter.history_.plot("mrr@10").ax_.collections
    assert len(chosen) == 1 and len(other) == 0


@pytest.mark.parametrize(("n", "advice"), [(12, "So few queries"), (40, "More data")])
def test_the_warning_says_how_many_queries_decided(n, advice):
    vectors = np.random.RandomState(0).normal(size=(n, 3))
    with pytest.warns(UserWarning, match=f"over {n} queries, .* kept. {advice}"):
        AdapterFinetuner(None, epochs=2).fit(
            vectors, vectors, X_val=vectors, y_val=vectors
        )
