"""The real all-MiniLM-L6-v2 on real data: loading, pooling and metrics are right."""

import pytest

from skembft import AdapterFinetuner, SentenceEncoder
from skembft.datasets import load_beir, load_qa_dataset
from skembft.metrics import RetrievalScorer

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def ten_k(data_folder):
    folder = data_folder / "llamaindex-10k"
    return (
        load_qa_dataset(folder / "train_dataset.json"),
        load_qa_dataset(folder / "val_dataset.json"),
    )


def test_untouched_model_on_llamaindex_10k(minilm, ten_k):
    """Published: nDCG@10 = 0.6407, MRR@10 = 0.594, hit rate@10 = 0.787."""
    _, val = ten_k
    scorer = RetrievalScorer(["ndcg@10", "mrr@10", "hit_rate@10"], corpus=val.corpus)
    scores = scorer(SentenceEncoder(minilm), val.queries, val.relevant)
    assert scores["ndcg@10"] == pytest.approx(0.6407, abs=5e-4)
    assert scores["mrr@10"] == pytest.approx(0.594, abs=5e-4)
    assert scores["hit_rate@10"] == pytest.approx(0.787, abs=5e-4)


def test_adapter_defaults_do_no_harm_on_llamaindex_10k(minilm, ten_k):
    """Another company's report: no document of the test set is seen in training."""
    train, val = ten_k
    scorer = RetrievalScorer("ndcg@10", corpus=val.corpus)
    base = scorer(SentenceEncoder(minilm), val.queries, val.relevant)
    finetuner = AdapterFinetuner(minilm, random_state=0)
    # enough of them: encoding the others takes longer than all the rest
    finetuner.fit(train.queries[:300], train.relevant[:300])
    assert scorer(finetuner, val.queries, val.relevant) > base - 0.005


@pytest.mark.slow
def test_untouched_model_and_adapter_on_nfcorpus(minilm, data_folder):
    """Published: nDCG@10 = 0.3165 with identical texts merged, 0.3159 without."""
    train = load_beir(data_folder / "nfcorpus", "train")
    test = load_beir(data_folder / "nfcorpus", "test")
    scorer = RetrievalScorer("ndcg@10", corpus=test.corpus)
    base = scorer(SentenceEncoder(minilm), test.queries, test.relevant)
    assert base == pytest.approx(0.3165, abs=5e-4)
    finetuner = AdapterFinetuner(minilm, random_state=0)
    finetuner.fit(train.queries, train.relevant)
    assert scorer(finetuner, test.queries, test.relevant) > base - 0.005
