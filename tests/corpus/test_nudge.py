"""CorpusFinetuner: where documents go, by the paper's formulas."""

import numpy as np
import pytest

from skembft import CorpusFinetuner, PrecomputedEncoder
from tests.corpus.toy import METHODS, fixed, nudge_m, nudge_n, unit


@pytest.mark.parametrize("gamma", [0.02, 0.3, 1.0, 1.9])
@pytest.mark.parametrize("method", METHODS)
def test_vectors_equal_the_formulas_of_the_paper(toy, method, gamma):
    finetuner = fixed(toy.encoder, gamma, method=method)
    finetuner.fit(toy.queries, toy.relevant)
    formula = nudge_n if method == "nudge_n" else nudge_m
    expected = formula(unit(toy.D.astype(np.float64)), toy.sums(range(160)), gamma)
    got = finetuner.transform_documents(toy.documents)
    if method == "nudge_n":
        got = unit(got)  # documents that have not moved are as long as they were
        opposite = (unit(toy.D) * toy.sums(range(160))).sum(axis=1) < 0
        assert opposite.any()  # the case of no move is among them
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert finetuner.gamma_ == gamma and finetuner.embedding_dim_ == 12
    np.testing.assert_array_equal(
        finetuner.transform_documents(finetuner.moved_documents_),
        finetuner.moved_vectors_,
    )


@pytest.mark.parametrize("method", METHODS)
def test_equals_nudge_ft(method):
    """Its own choice of gamma included: NUDGE-N by its metric, hits at 1."""
    nudge = pytest.importorskip("nudge")
    rng = np.random.RandomState(0)
    D = unit(rng.normal(size=(200, 16))).astype(np.float32)
    answers = rng.randint(100, size=400)
    away = rng.normal(size=(200, 16)) / 4
    noise = rng.normal(size=(400, 16)) / 8
    Q = unit(D[answers] + away[answers] + noise).astype(np.float32)
    sets = [
        {"q_embs": Q[part], "q_ans_indx": [[int(j)] for j in answers[part]]}
        for part in (slice(0, 300), slice(300, None))
    ]
    peer = nudge.NUDGEN if method == "nudge_n" else nudge.NUDGEM
    theirs = peer(device="cpu").finetune_embeddings(D, *sets)
    gamma = None
    if method == "nudge_m":  # found by an exact sweep: the length of every move
        gamma = float(np.linalg.norm(theirs - D, axis=1).max())
    ids = list(range(600))
    encoder = PrecomputedEncoder((ids[200:], Q), (ids[:200], D))
    finetuner = CorpusFinetuner(
        encoder, method=method, gamma=gamma, scoring="hit_rate@1"
    ).fit(
        ids[200:500],
        answers[:300],
        corpus=ids[:200],
        X_val=ids[500:],
        y_val=answers[300:],
        corpus_val=ids[:200],
    )
    assert finetuner.gamma_ > 0
    ours = finetuner.transform_documents(ids[:200])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_documents_opposite_parallel_or_without_direction_stay(toy):
    vectors = {
        "q": [1, 0, 0], "minus q": [-1, 0, 0], "opposite": [-0.9, 0.1, 0],
        "parallel": [2, 0, 0], "zero": [0, 0, 0], "orthogonal": [0, 3, 0],
    }  # fmt: skip
    encoder = PrecomputedEncoder(vectors)
    y = ["opposite", "parallel", "zero", "orthogonal"]
    finetuner = fixed(encoder, 0.4).fit(["q"] * 4, y)
    assert finetuner.moved_documents_ == ["orthogonal"]
    np.testing.assert_allclose(finetuner.moved_vectors_, [[0.6, 0.8, 0]], atol=1e-6)
    for method in METHODS:  # its queries have no mean direction
        finetuner = fixed(encoder, 0.4, method=method)
        finetuner.fit(["q", "minus q"], ["orthogonal"] * 2)
        assert finetuner.moved_documents_ == []
        assert finetuner.moved_vectors_.shape == (0, 3)
        assert finetuner.score(["q"], ["parallel"]) == 1.0


def test_gamma_zero_moves_nothing(toy):
    finetuner = fixed(toy.encoder, 0).fit(toy.queries, toy.relevant)
    assert finetuner.gamma_ == 0 and finetuner.moved_documents_ == []
    np.testing.assert_array_equal(finetuner.transform_documents(toy.documents), toy.D)


def test_unseen_documents_keep_their_vectors_to_the_bit(toy):
    before = toy.D.tobytes(), toy.Q.tobytes()
    finetuner = fixed(toy.encoder, 0.3)
    finetuner.fit(toy.queries, toy.relevant, corpus=toy.documents)
    got = finetuner.transform_documents(toy.documents)
    unmoved = [j for j, d in enumerate(toy.documents)
               if d not in finetuner.moved_documents_]  # fmt: skip
    assert set(range(50, 60)) < set(unmoved) and len(unmoved) < 30
    assert got[unmoved].tobytes() == toy.D[unmoved].tobytes()
    np.testing.assert_allclose(np.linalg.norm(finetuner.moved_vectors_, axis=1), 1)
    assert (toy.D.tobytes(), toy.Q.tobytes()) == before
    np.testing.assert_allclose(finetuner.transform(toy.queries), unit(toy.Q), atol=1e-6)
    assert got.dtype == finetuner.transform(toy.queries).dtype == np.float32
    # unit vectors are given on as they are, also for a ranking by dot product
    encoder = PrecomputedEncoder(
        (toy.queries, toy.Q), (toy.documents, unit(toy.D)[::-1].copy())
    )
    finetuner = fixed(encoder, 0.3, method="nudge_m").fit(toy.queries, ["d0"] * 160)
    got = finetuner.transform_documents(toy.documents[1:])
    assert got.tobytes() == encoder.transform_documents(toy.documents[1:]).tobytes()
