"""Matrices on disk and of float16 are used where they lie, as they are."""

import numpy as np
import pytest

from skembft import AdapterFinetuner, CorpusFinetuner, PrecomputedEncoder
from skembft._utils.vectors import TakenRows
from skembft.inspection import compare_retrieval
from skembft.metrics import RetrievalScorer
from skembft.mining import mine_hard_negatives

N, DIM = 400, 16
QUERIES = [f"q{i}" for i in range(60)]
DOCUMENTS = list(range(N))
y = [(7 * i) % N for i in range(len(QUERIES))]


@pytest.fixture(scope="module")
def matrices():
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(N, DIM)).astype(np.float16)
    documents[5] *= 3e4 / np.abs(documents[5]).max()  # its norm is none of float16
    queries = documents[y] + 0.5 * rng.normal(size=(len(y), DIM))
    return queries.astype(np.float16), documents


def mapped(matrix, path):
    np.save(path, matrix)
    return np.load(path, mmap_mode="r")


@pytest.fixture(params=["float16", "mapped float16", "mapped float32"])
def encoder(request, matrices, tmp_path):
    queries, documents = matrices
    if request.param.endswith("32"):
        queries, documents = queries.astype(np.float32), documents.astype(np.float32)
    if request.param.startswith("mapped"):
        queries = mapped(queries, tmp_path / "queries.npy")
        documents = mapped(documents, tmp_path / "documents.npy")
    return PrecomputedEncoder((QUERIES, queries), (DOCUMENTS, documents))


@pytest.fixture
def plain(matrices):
    queries, documents = (m.astype(np.float32) for m in matrices)
    return PrecomputedEncoder((QUERIES, queries), (DOCUMENTS, documents))


FINETUNERS = {
    "query": lambda e: AdapterFinetuner(e, epochs=2, random_state=0),
    "both": lambda e: AdapterFinetuner(
        e, side="both", negatives="hard", epochs=2, random_state=0
    ),
    "ridge": lambda e: AdapterFinetuner(e, solver="closed_form", random_state=0),
    "corpus": lambda e: CorpusFinetuner(e, random_state=0),
    "stack": lambda e: CorpusFinetuner(
        AdapterFinetuner(e, epochs=2, random_state=0), random_state=0
    ),
}


@pytest.mark.parametrize("name", FINETUNERS)
def test_the_same_as_float32(encoder, plain, any_gain, name):
    make = FINETUNERS[name]
    found = make(encoder).fit(QUERIES, y, corpus=DOCUMENTS)
    expected = make(plain).fit(QUERIES, y, corpus=DOCUMENTS)
    for method, items in ("transform", QUERIES), ("transform_documents", DOCUMENTS):
        vectors = getattr(found, method)(items)
        np.testing.assert_array_equal(vectors, getattr(expected, method)(items))
        assert vectors.dtype == np.float32
        vectors[:] = 0  # a copy
    assert found.score(QUERIES, y, corpus=DOCUMENTS) == expected.score(
        QUERIES, y, corpus=DOCUMENTS
    )
    for corpus in DOCUMENTS, encoder.transform_documents(DOCUMENTS).astype(np.float16):
        if name in ("query", "ridge") or corpus is DOCUMENTS:
            indices, scores = found.retrieve(QUERIES[:9], corpus, k=4)
            known = expected.retrieve(QUERIES[:9], DOCUMENTS, k=4)
            np.testing.assert_array_equal(indices, known[0])
            np.testing.assert_array_equal(scores, known[1])


def test_the_same_elsewhere(encoder, plain):
    scorer = RetrievalScorer("ndcg@10", corpus=DOCUMENTS)
    assert scorer(encoder, QUERIES, y) == scorer(plain, QUERIES, y)
    mined = mine_hard_negatives(encoder, QUERIES, y, corpus=DOCUMENTS)
    assert mined == mine_hard_negatives(plain, QUERIES, y, corpus=DOCUMENTS)
    found = compare_retrieval(encoder, plain, QUERIES, y, DOCUMENTS)
    assert not found.gains("ndcg@10").any()


def test_vectors_as_x_and_y(matrices):
    queries, documents = matrices
    fits = [
        AdapterFinetuner(None, epochs=2, random_state=0).fit(
            queries.astype(dtype), documents[y].astype(dtype)
        )
        for dtype in (np.float16, np.float32)
    ]
    weights = [fit.weights_["query"]["weight"] for fit in fits]
    np.testing.assert_array_equal(*weights)
    np.testing.assert_array_equal(*(fit.transform(queries) for fit in fits))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_matrix_is_not_copied(tmp_path, monkeypatch, dtype):
    n, taken = 80_000, []
    documents = np.random.default_rng(0).random((n, 256), np.float32).astype(dtype)
    documents = mapped(documents, tmp_path / "documents.npy")
    take = TakenRows.__getitem__

    def counted(self, rows):
        found = take(self, rows)
        taken.append(len(found))
        return found

    monkeypatch.setattr(TakenRows, "__getitem__", counted)
    ids, queries = list(range(n)), list(range(0, n, 800))
    index = PrecomputedEncoder(documents=(ids, documents))
    adapter = AdapterFinetuner(index, negatives="random", epochs=1, random_state=0)
    adapter.fit(queries, queries[::-1], corpus=ids)
    adapter.score(queries, queries[::-1], corpus=ids)
    adapter.retrieve(queries, ids)
    compare_retrieval(index, adapter, queries, queries[::-1], ids)
    mine_hard_negatives(index, queries, queries[::-1], corpus=ids)
    assert sum(taken) > 5 * n
    assert max(taken) < n / 2


def test_a_subclass_transforms_in_its_own_way(matrices):
    class Backwards(PrecomputedEncoder):
        def transform_documents(self, D):
            return super().transform_documents(D)[:, ::-1]

    queries, documents = matrices
    index = PrecomputedEncoder((QUERIES, queries), (DOCUMENTS, documents))
    turned = Backwards((QUERIES, queries), (DOCUMENTS, documents))
    expected = PrecomputedEncoder((QUERIES, queries), (DOCUMENTS, documents[:, ::-1]))
    scorer = RetrievalScorer("ndcg@10", corpus=DOCUMENTS)
    assert scorer(turned, QUERIES, y) == scorer(expected, QUERIES, y)
    assert scorer(turned, QUERIES, y) != scorer(index, QUERIES, y)
