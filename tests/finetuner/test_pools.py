"""The documents that validation and scores rank: all that there are, or it is told."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
)
from skembft._finetuner import retriever
from skembft.exceptions import NoGainWarning
from skembft.metrics import RetrievalScorer

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")


TOLD = "ranks the documents of y alone"
RNG = np.random.RandomState(0)
IDS = [f"d{i}" for i in range(90)]
QUERIES = [f"q{i}" for i in range(60)]
DOCUMENTS = RNG.normal(size=(90, 4))
INDEX = PrecomputedEncoder(
    (QUERIES, DOCUMENTS[:60] + RNG.normal(size=(60, 4))), (IDS, DOCUMENTS)
)
TRAIN, TEST = (QUERIES[:40], IDS[:40]), (QUERIES[40:], IDS[40:60])


@pytest.fixture(autouse=True)
def forget():
    retriever._told.clear()


def untouched(corpus):
    return RetrievalScorer("ndcg@10", corpus=corpus)(INDEX, *TEST)


@pytest.mark.parametrize("cls", [AdapterFinetuner, CorpusFinetuner])
@pytest.mark.parametrize(
    ("corpus", "corpus_val", "pool"),
    [
        (None, None, IDS[:60]),
        (IDS, None, IDS),
        (IDS[60:], None, IDS),
        (IDS, IDS[40:70], IDS[40:70]),
        (None, IDS[60:], IDS[40:]),
    ],
)
def test_validation_ranks_all_that_is_known(cls, corpus, corpus_val, pool):
    finetuner = cls(INDEX, random_state=0)
    data = {"X_val": TEST[0], "y_val": TEST[1], "corpus_val": corpus_val}
    finetuner.fit(*TRAIN, corpus=corpus, **data)
    assert finetuner.base_score_ == pytest.approx(untouched(pool))


def test_vectors_and_whole_models_too(static_model, pairs):
    vectors = INDEX.transform(QUERIES)
    finetuner = AdapterFinetuner(None, epochs=1).fit(
        vectors[:40], DOCUMENTS[:40], X_val=vectors[40:], y_val=DOCUMENTS[40:60]
    )
    assert finetuner.base_score_ == pytest.approx(untouched(IDS[:60]))
    queries, documents = pairs
    finetuner = EmbeddingFinetuner(static_model, epochs=1, learning_rate=1e-9)
    data = {"X_val": queries[30:], "y_val": documents[30:]}
    finetuner.fit(queries[:30], documents[:30], **data)
    scorer = RetrievalScorer("ndcg@10", corpus=documents)
    score = scorer(finetuner, queries[30:], documents[30:])
    assert finetuner.base_score_ == pytest.approx(score, abs=1e-6)


def test_class_labels_rank_their_rows():
    labels = np.arange(60) % 6
    vectors = DOCUMENTS[:60]
    finetuner = AdapterFinetuner(None, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Training did not help")
        finetuner.fit(vectors[:50], labels[:50], X_val=vectors[50:], y_val=labels[50:])
        score = finetuner.set_params(scoring="mrr@10").score(vectors[50:], labels[50:])
    assert finetuner.history_[0]["mrr@10"] > 0 and score > 0


@pytest.mark.parametrize("cls", [AdapterFinetuner, CorpusFinetuner])
def test_a_score_over_few_documents_is_told(cls):
    finetuner = cls(INDEX, random_state=0)
    if cls is CorpusFinetuner:
        finetuner.set_params(gamma=0.1, validation_fraction=None)
    finetuner.fit(*TRAIN, corpus=IDS)
    with pytest.warns(UserWarning, match=TOLD):
        finetuner.score(*TEST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetuner.score(*TEST, corpus=IDS)
        finetuner.score(*TEST, corpus=IDS[:30])  # what is passed is meant
        warnings.simplefilter("ignore", NoGainWarning)
        finetuner.fit(*TRAIN).score(*TEST)
        RetrievalScorer("ndcg@10", corpus=IDS)(finetuner, *TEST)


def test_a_plain_search_tells_once():
    search = GridSearchCV(
        AdapterFinetuner(INDEX, epochs=1), {"side": ["query", "both"]}
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        search.fit(QUERIES, IDS[:60])
    assert sum(TOLD in str(w.message) for w in told) == 1


def test_a_finetuner_of_another_process_tells():
    finetuner = AdapterFinetuner(INDEX, random_state=0).fit(*TRAIN, corpus=IDS)
    with pytest.warns(UserWarning, match=TOLD):
        pickle.loads(pickle.dumps(finetuner)).score(*TEST)


def test_documents_of_training_are_no_collection(static_model, pairs):
    """Validation has documents of its own, as a development set does."""
    queries, documents = pairs
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Of the .*")
        finetuner = EmbeddingFinetuner(static_model, epochs=1)
        data = {"X_val": queries[28:], "y_val": documents[28:]}
        finetuner.fit(queries[:28], documents[:28], **data)
    collection = [f"shy1 {i}" for i in range(50)]
    with pytest.warns(UserWarning, match="Of the .* documents of y_val"):
        finetuner.fit(queries[:28], documents[:28], corpus=collection, **data)


def test_labelled_rows_validate_pairs_of_vectors():
    vectors = DOCUMENTS[:60]
    finetuner = AdapterFinetuner(None, epochs=1)
    finetuner.fit(vectors, vectors, X_val=vectors, y_val=np.arange(60) % 6)
    assert finetuner.base_score_ > 0
