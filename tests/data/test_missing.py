"""Documents of y that the corpus has in another form, or has not: said once."""

import unicodedata
import warnings

import numpy as np
import pytest

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft._data import missing
from skembft.datasets import describe
from skembft.exceptions import MissingDocumentsWarning
from skembft.inspection import compare_retrieval
from skembft.metrics import RetrievalScorer
from skembft.mining import mine_hard_negatives

QUERIES = [f"red{i} old{i} q{i}" for i in range(12)]
DOCUMENTS = [f"wet{i} Crème brûlée ﬁnished\nbig{i}" for i in range(12)]
OTHERS = [f"shy{i} big{i}" for i in range(12)]


def messages(function, *args, **kwargs):
    """The warnings of documents that the corpus lacks."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*args, **kwargs)
    category = MissingDocumentsWarning
    return [str(w.message) for w in caught if issubclass(w.category, category)]


@pytest.fixture
def adapter(static_model):
    return AdapterFinetuner(static_model, epochs=1, random_state=0)


CHANGES = {
    "spaces": lambda text: text.replace(" ", "  "),
    "line break": lambda text: text.replace("\n", "\r\n"),
    "no-break space": lambda text: text.replace(" ", "\u00a0"),
    "around": lambda text: f" {text}\n",
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "compatibility": lambda text: unicodedata.normalize("NFKC", text),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("n", [1, 12])
def test_documents_in_another_form_are_told(adapter, change, n):
    corpus = [*map(CHANGES[change], DOCUMENTS[:n]), *DOCUMENTS[n:], *OTHERS]
    (message,) = messages(adapter.fit, QUERIES, DOCUMENTS, corpus=corpus)
    assert f"{n} of the 12 documents of y are in the corpus in another" in message
    assert repr(corpus[0])[-8:] in message and repr(DOCUMENTS[0])[-8:] in message


def test_what_differs_is_shown(adapter):
    start = "red0 old0 wet0 shy0 " * 10
    y, corpus = [f"{start}one  two"], [f"{start}one two"]
    (message,) = messages(adapter.fit, ["red0"], y, corpus=corpus)
    assert "one  two'" in message and "one two'" in message and len(message) < 500


def test_it_is_told_once_wherever_data_are_read(adapter, static_model):
    corpus = [*map(CHANGES["spaces"], DOCUMENTS), *OTHERS]
    data, table = (QUERIES, DOCUMENTS), list(zip(QUERIES, DOCUMENTS, strict=True))
    whole = EmbeddingFinetuner(static_model, epochs=1, random_state=0)
    moved = CorpusFinetuner(static_model, random_state=0, gamma=0.1)
    for finetuner in (adapter, whole, moved, CorpusFinetuner(adapter, gamma=0.1)):
        assert len(messages(finetuner.fit, *data, corpus=corpus)) == 1, finetuner
        assert len(messages(finetuner.score, *data, corpus=corpus)) == 1, finetuner
    (of_table,) = messages(adapter.fit, table, corpus=corpus)
    assert "documents of X" in of_table
    scorer, encoder = RetrievalScorer(corpus=corpus), SentenceEncoder(static_model)
    assert len(messages(scorer, adapter, *data)) == 1
    assert len(messages(scorer, encoder, *data)) == 1
    assert len(messages(compare_retrieval, encoder, adapter, *data, corpus)) == 1
    assert len(messages(mine_hard_negatives, encoder, *data, corpus=corpus)) == 1
    assert len(messages(describe, *data, corpus=corpus)) == 1
    of_validation = {"X_val": QUERIES[:3], "y_val": DOCUMENTS[:3]}
    (named,) = messages(adapter.fit, *data, corpus_val=corpus, **of_validation)
    assert "3 of the 3 documents of y_val" in named


@pytest.mark.parametrize("corpus", [None, DOCUMENTS, DOCUMENTS[::-1] + OTHERS])
def test_no_text_is_normalised_where_none_is_missing(adapter, corpus, monkeypatch):
    monkeypatch.setattr(missing, "_plain", None)
    monkeypatch.setattr(missing, "_ends", None)
    assert not messages(adapter.fit, QUERIES, DOCUMENTS, corpus=corpus)


def test_only_texts_with_the_same_ends_are_compared(adapter, monkeypatch):
    """Of a large corpus the words of few texts are taken apart."""
    seen = []
    plain = missing._plain
    monkeypatch.setattr(
        missing, "_plain", lambda text: seen.append(text) or plain(text)
    )
    corpus = [f"a{i} {'long text ' * 20} z{i}" for i in range(500)]
    messages(adapter.fit, QUERIES, DOCUMENTS, corpus=corpus + [f" {DOCUMENTS[0]}"])
    assert sum("long" in text for text in seen) == 0
    assert max(map(len, seen)) < 60


def test_a_corpus_without_the_documents_is_told(adapter):
    corpus = [f"Title {i}: {text}" for i, text in enumerate(DOCUMENTS + OTHERS)]
    (message,) = messages(adapter.fit, QUERIES, DOCUMENTS, corpus=corpus)
    assert "12 documents of y the corpus holds 0" in message
    assert "right where corpus only adds" in message


@pytest.mark.parametrize(
    "corpus",
    [OTHERS[:11], [*OTHERS, DOCUMENTS[0]]],  # fewer than y; one in twelve is there
)
def test_a_corpus_that_adds_documents_is_not_told(adapter, corpus):
    assert not messages(adapter.fit, QUERIES, DOCUMENTS, corpus=corpus)


@pytest.mark.parametrize("n", [1, 3, 12])
def test_ids_in_place_of_texts_are_told(adapter, n):
    """However few they are, and however small the corpus is."""
    ids = [[f"node-{i}"] for i in range(n)]
    corpus = DOCUMENTS[:n]
    encoder = adapter.encoder
    for function, args in [
        (adapter.set_params(validation_fraction=None).fit, (QUERIES[:n], ids, corpus)),
        (RetrievalScorer(corpus=corpus), (SentenceEncoder(encoder), QUERIES[:n], ids)),
    ]:
        arguments = args[:2], {"corpus": corpus}
        if function.__class__ is RetrievalScorer:
            arguments = args, {}
        (message,) = messages(function, *arguments[0], **arguments[1])
        assert f"None of the {n} documents of y is in the corpus, and they" in message
        assert "look like ids: 'node-0'" in message and "texts[i] for i" in message


@pytest.mark.parametrize(
    "documents, corpus",
    [
        (["short", "words"], ["other", "single", "tokens"]),
        (["a text", "single"], ["some other text", "and more"]),
        (["文章甲", "文章乙"], ["其他文章", "更多文章", "文章丙"]),
        (["same", "there too"], ["same", "some other text", "and more"]),
    ],
)
def test_short_documents_are_no_ids(adapter, documents, corpus):
    adapter.set_params(validation_fraction=None)
    assert not messages(adapter.fit, QUERIES[:2], documents, corpus=corpus)


def test_ids_of_a_corpus_have_vectors_or_raise():
    """An id that is written in another way is an error, so that none is suspicious."""
    ids = [f"d{i}" for i in range(40)]
    index = PrecomputedEncoder((ids, np.random.RandomState(0).normal(size=(40, 4))))
    adapter = AdapterFinetuner(index, epochs=1, random_state=0)
    assert not messages(adapter.fit, ids[:12], ids[:12], corpus=ids[12:])
    with pytest.raises(ValueError, match="have no vector"):
        adapter.fit(ids[:12], ids[:12], corpus=[f" {i}" for i in ids])


# ---- vectors: equal numbers are equal


def zeros(sign):
    X = np.random.RandomState(0).normal(size=(30, 6))
    X[:, 2] = sign * 0.0
    return X


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_equal_vectors_are_one_document(dtype, sign):
    """Of any type and with any sign of zero."""
    adapter = AdapterFinetuner(None, epochs=1, random_state=0)
    adapter.fit(zeros(1), zeros(1))
    X, corpus = zeros(1), zeros(sign).astype(dtype)
    assert compare_retrieval(adapter, adapter, X, X, corpus).n_documents == 30


def test_equal_vectors_are_one_query():
    X, y = np.r_[zeros(1), zeros(-1)], np.r_[zeros(1), zeros(-1)]
    adapter = AdapterFinetuner(None, epochs=1, random_state=0).fit(X, y)
    assert len(RetrievalScorer("mrr@1").per_query(adapter, X, y)) == 30


def test_a_vector_beyond_float32_changes_no_other():
    X = zeros(1)
    adapter = AdapterFinetuner(None, epochs=1, random_state=0).fit(X, X)
    X, y = np.r_[X, X[:1] * 1e-60], np.r_[X, np.ones((1, 6))]
    corpus = zeros(-1)
    corpus[:, 2] = -1e-60  # as float32 it is -0.0
    assert compare_retrieval(adapter, adapter, X, y, corpus).n_documents == 31
    assert len(RetrievalScorer("mrr@1").per_query(adapter, X, y)) == 31


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_vectors_beyond_float32_are_not_all_one(scale):
    """As float32 all would be zero, or infinite."""
    adapter = AdapterFinetuner(None, epochs=1, random_state=0).fit(zeros(1), zeros(1))
    values = RetrievalScorer("mrr@1").per_query(adapter, zeros(1) * scale, zeros(1))
    assert len(values) == 30 and values.mean() == 1.0
