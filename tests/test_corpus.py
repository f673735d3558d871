"""CorpusFinetuner: the paper's formulas, the choice of gamma, stacking, pickling."""

import io
import itertools
import pickle
import shutil
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils._param_validation import InvalidParameterError

import skembft._corpus.nudge as nudge_module
from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.metrics import RetrievalScorer

quiet = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
METHODS = ["nudge_n", "nudge_m"]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class Toy:
    """160 queries that lean away from their documents, 1 to 3 of 60, in one direction.

    Documents 50 to 59 are relevant to none.
    """

    def __init__(self):
        rng = np.random.RandomState(0)
        self.D = rng.normal(size=(60, 12)).astype(np.float32)
        self.relevant, vectors = [], []
        away = rng.normal(size=(60, 12))
        for i in range(160):
            documents = rng.choice(50, 1 + i % 3, replace=False)
            self.relevant.append(
                {f"d{j}": float(1 + n) for n, j in enumerate(documents)}
            )
            mean = (0.5 * self.D[documents] + away[documents]).mean(axis=0)
            vectors.append(mean + rng.normal(size=12) * 0.6)
        self.Q = np.asarray(vectors, dtype=np.float32)
        self.queries = [f"q{i}" for i in range(160)]
        self.documents = [f"d{j}" for j in range(60)]
        self.encoder = PrecomputedEncoder(
            (self.queries, self.Q), (self.documents, self.D)
        )

    def sums(self, rows):
        """Of every document the sum of the unit vectors of its queries."""
        G = np.zeros((60, 12))
        for i in rows:
            for document in self.relevant[i]:
                G[int(document[1:])] += unit(self.Q.astype(np.float64))[i]
        return G


@pytest.fixture(scope="module")
def toy():
    return Toy()


def fixed(encoder, gamma, **options):
    return CorpusFinetuner(encoder, gamma=gamma, validation_fraction=None, **options)


# ---- where documents go


def nudge_n(D, G, gamma):
    """The closed form of NUDGE-N as the paper has it, with its multiplier μ."""
    out = D.copy()
    for j, (d, g) in enumerate(zip(D, G, strict=True)):
        along, square = d @ g, g @ g
        if along < 0 or square - along**2 < 1e-12:
            continue
        if along / np.sqrt(square) >= 1 - gamma / 2:
            out[j] = g / np.sqrt(square)
            continue
        mu = along + np.sqrt(gamma / (4 - gamma) * (square - along**2))
        out[j] = d + gamma * (g - mu * d) / (2 * (mu - along))
    return out


def nudge_m(D, G, gamma):
    norms = np.linalg.norm(G, axis=1, keepdims=True)
    return D + gamma * G / np.where(norms == 0, 1, norms)


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


# ---- the choice of gamma


@pytest.mark.parametrize(
    "metric, block",
    [
        ("ndcg@10", None),
        ("mrr@10", (3, 1)),
        ("map@100", (2, 100)),
        ("recall@10", None),
        ("precision@3", (3, 1)),
        ("hit_rate@1", None),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_history_equals_brute_force(toy, method, metric, block, monkeypatch):
    """Every gamma, fitted for itself and ranked in full; a pool of its own."""
    if block:
        monkeypatch.setattr(nudge_module, "_QUERIES", block[0])
        monkeypatch.setattr(nudge_module, "_BLOCK", block[1])
    pool = toy.documents[::-1] + ["other"]
    encoder = PrecomputedEncoder(
        (toy.queries, toy.Q), ([*toy.documents, "other"], [*toy.D, toy.D[3]])
    )
    options = {"method": method, "scoring": metric}
    train = toy.queries[:120], toy.relevant[:120]
    held_out = toy.queries[120:], toy.relevant[120:]
    finetuner = CorpusFinetuner(encoder, **options).fit(
        *train, X_val=held_out[0], y_val=held_out[1], corpus_val=pool
    )
    scorer = RetrievalScorer(metric, corpus=pool)
    for entry in finetuner.history_[:: 2 if block is None else 8]:
        alone = fixed(encoder, entry["gamma"], **options).fit(*train)
        assert entry[metric] == pytest.approx(scorer(alone, *held_out), abs=1e-9)
    scores = [entry[metric] for entry in finetuner.history_]
    assert finetuner.validation_score_ == max(scores) > scores[0] + 0.05
    assert finetuner.best_step_ == scores.index(max(scores))  # ties: the smallest gamma
    assert finetuner.gamma_ == finetuner.history_[finetuner.best_step_]["gamma"]


def test_pruning_is_exact_in_large_rankings():
    """Metrics of few of many documents: most rivals are never looked at."""
    rng = np.random.RandomState(0)
    D = rng.normal(size=(900, 8)).astype(np.float32)
    answers = rng.randint(800, size=500)
    away = rng.normal(size=(900, 8))
    Q = D[answers] + away[answers] + rng.normal(size=(500, 8))
    encoder = PrecomputedEncoder((list(range(500)), Q), (list(range(900)), D))
    train, held_out = (
        (list(range(400)), answers[:400]),
        (range(400, 500), answers[400:]),
    )
    for method, metric in itertools.product(METHODS, ["map@100", "ndcg@10"]):
        finetuner = CorpusFinetuner(encoder, method=method, scoring=metric).fit(
            *train, X_val=held_out[0], y_val=held_out[1], corpus_val=range(900)
        )
        scorer = RetrievalScorer(metric, corpus=range(900))
        for entry in finetuner.history_[::8]:
            alone = fixed(encoder, entry["gamma"], method=method).fit(*train)
            assert entry[metric] == pytest.approx(scorer(alone, *held_out), abs=1e-9)


def ndcg(scores, grades, k):
    """Of float64 scores; ties rank by column."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(grades, order, axis=1) @ discount
    best = -np.sort(-grades, axis=1)[:, :k] @ discount
    return (found / best).mean()


@pytest.mark.parametrize("metric", ["ndcg@4", "ndcg@30"])
@pytest.mark.parametrize("at_a_time", [None, (3, 2**20, 0), (256, 100, 0.3)])
@pytest.mark.parametrize("method", METHODS)
def test_every_gamma_ranks_as_the_paper_says(method, at_a_time, metric, monkeypatch):
    """With grades, with documents that do not move, and with copies, which tie."""
    if at_a_time:
        for name, value in zip(("_QUERIES", "_BLOCK", "_WAY"), at_a_time, strict=True):
            monkeypatch.setattr(nudge_module, name, value)
    rng = np.random.RandomState(0)
    D = unit(rng.normal(size=(30, 6)))
    away = rng.normal(size=(30, 6))
    D[10:15], D[28:] = D[:5], D[26:28]  # copies that move alike, and that do not move
    grades = np.zeros((70, 30))
    for row in grades:
        documents = np.append(rng.choice(10, 2, False), rng.choice(range(15, 24), 2))
        row[documents] = rng.randint(1, 4, size=4)
    grades[:, 10:15] = grades[:, :5]
    Q = unit(grades @ (0.4 * D + away) + rng.normal(size=(70, 6)))
    relevant = [
        {int(j): row[j] for j in np.argsort(-row)[: np.count_nonzero(row)]}
        for row in grades
    ]
    encoder = PrecomputedEncoder((range(100, 170), Q), (range(30), D))
    finetuner = CorpusFinetuner(encoder, method=method, scoring=metric).fit(
        range(100, 150), relevant[:50], corpus=range(30),
        X_val=range(150, 170), y_val=relevant[50:],
    )  # fmt: skip
    pool = [*dict.fromkeys(itertools.chain(*relevant[50:], range(30)))]
    formula = nudge_n if method == "nudge_n" else nudge_m
    G = (grades[:50] > 0).T.astype(float) @ Q[:50]
    for entry in finetuner.history_:
        moved = (formula(D, G, entry["gamma"]) if entry["gamma"] else D)[pool]
        scores = (Q[50:, None] * moved).sum(axis=2)
        expected = ndcg(scores, grades[50:, pool], int(metric.partition("@")[2]))
        assert entry[metric] == pytest.approx(expected, abs=1e-9)
    assert 0 < len(finetuner.moved_documents_) < 26  # others are opposite, or unknown


@quiet
@pytest.mark.parametrize("method", METHODS)
def test_a_copy_that_does_not_move_ties_in_the_order_of_the_pool(method):
    vectors = {"q": [1, 0, 0], "t": [0, 0, 1], "a": [0.6, 0.8, 0], "b": [0.6, 0.8, 0]}
    for first, second in ("ab", "ba"):
        finetuner = CorpusFinetuner(
            PrecomputedEncoder(vectors), method=method, scoring="hit_rate@1"
        ).fit(["t"], ["b"], X_val=["q"], y_val=[first], corpus_val=[second])
        assert finetuner.base_score_ == 1.0


def test_a_document_that_is_best_halfway_only(monkeypatch):
    """It turns toward a query, and on past it, between gammas tried together."""
    monkeypatch.setattr(nudge_module, "_WAY", 10)
    angle = np.deg2rad(20)
    vectors = {
        "train": [0, 1, 0],
        "val": [np.cos(angle), np.sin(angle), 0],
        "turns": [1, 0, 0],
        "stays": [0.97 * np.cos(angle), 0.97 * np.sin(angle), 0.243],
    }
    finetuner = CorpusFinetuner(PrecomputedEncoder(vectors), scoring="hit_rate@1").fit(
        ["train"], ["turns"], X_val=["val"], y_val=["turns"], corpus_val=["stays"]
    )
    hits = [entry["hit_rate@1"] for entry in finetuner.history_]
    turned = np.arccos(1 - np.arange(25) / 100)
    expected = np.cos(turned - angle) > 0.97
    assert hits == expected.tolist() and not expected[0] and not expected[-1]


def test_history_and_fitted_attributes(toy):
    finetuner = CorpusFinetuner(toy.encoder, random_state=0)
    before = finetuner.get_params()
    finetuner.fit(toy.queries, toy.relevant)
    assert finetuner.get_params() == before
    history = finetuner.history_
    assert [h["step"] for h in history] == list(range(25))
    assert [h["gamma"] for h in history] == [round(0.02 * i, 2) for i in range(25)]
    assert [h["epoch"] for h in history] == [0.0] + [1.0] * 24
    assert {h["loss"] for h in history} == {None}
    assert history[0]["ndcg@10"] == finetuner.base_score_ < finetuner.validation_score_
    assert finetuner.n_iter_ == 24 and finetuner.best_epoch_ == 1.0
    assert finetuner.similarity_ == "cosine"
    longer = CorpusFinetuner(toy.encoder, method="nudge_m", random_state=0)
    longer.fit(toy.queries, toy.relevant)
    assert longer.history_[-1]["gamma"] == 0.7 and longer.similarity_ == "dot"


@pytest.mark.parametrize("method", METHODS)
def test_refit_moves_by_the_chosen_gamma_with_all_queries(toy, method):
    options = {"method": method, "random_state": 0}
    chosen = CorpusFinetuner(toy.encoder, **options).fit(toy.queries, toy.relevant)
    part = CorpusFinetuner(toy.encoder, refit=False, **options)
    part.fit(toy.queries, toy.relevant)
    assert chosen.history_ == part.history_ and chosen.gamma_ == part.gamma_ > 0
    whole = fixed(toy.encoder, chosen.gamma_, method=method)
    whole.fit(toy.queries, toy.relevant)
    assert chosen.moved_documents_ == whole.moved_documents_
    np.testing.assert_array_equal(chosen.moved_vectors_, whole.moved_vectors_)
    assert not np.array_equal(
        *(f.transform_documents(toy.documents) for f in (chosen, part))
    )


@pytest.mark.parametrize("gamma", [None, 0.3])
@pytest.mark.parametrize("method", METHODS)
def test_never_worse_than_the_untouched_vectors(toy, method, gamma):
    """Perfect vectors cannot be improved: they are kept, with a warning."""
    encoder = PrecomputedEncoder((toy.documents, toy.D))
    finetuner = CorpusFinetuner(encoder, method=method, gamma=gamma, random_state=0)
    with pytest.warns(
        UserWarning, match="Training did not help.*so that model is kept"
    ):
        finetuner.fit(toy.documents, toy.documents)
    assert (finetuner.best_step_, finetuner.best_epoch_, finetuner.gamma_) == (0, 0, 0)
    assert finetuner.moved_documents_ == []
    assert finetuner.score(toy.documents, toy.documents) == 1.0


def test_without_validation_scores_are_none(toy):
    finetuner = fixed(toy.encoder, 0.2).fit(toy.queries, toy.relevant)
    assert finetuner.base_score_ is None and finetuner.validation_score_ is None
    assert [h["gamma"] for h in finetuner.history_] == [0.0, 0.2]
    assert finetuner.best_step_ == finetuner.n_iter_ == 1


def test_same_seed_same_bits(toy):
    results = [
        CorpusFinetuner(toy.encoder, random_state=seed).fit(toy.queries, toy.relevant)
        for seed in (0, 0, 1)
    ]
    vectors = [r.moved_vectors_.tobytes() for r in results]
    assert vectors[0] == vectors[1] and results[0].history_ == results[1].history_
    assert results[0].history_ != results[2].history_


# ---- ranking by dot product


def test_nudge_m_ranks_by_dot_product_everywhere(toy):
    finetuner = fixed(toy.encoder, 0.6, method="nudge_m")
    finetuner.fit(toy.queries[:120], toy.relevant[:120], corpus=toy.documents)
    Q = finetuner.transform(toy.queries[120:]).astype(np.float64)
    D = finetuner.transform_documents(toy.documents).astype(np.float64)
    order = np.argsort(-Q @ D.T, axis=1)
    assert (order[:, :10] != np.argsort(-Q @ unit(D).T, axis=1)[:, :10]).any()
    indices, scores = finetuner.retrieve(toy.queries[120:], toy.documents, k=10)
    np.testing.assert_array_equal(indices, order[:, :10])
    expected = np.take_along_axis(Q @ D.T, indices, axis=1)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    relevant = [list(graded) for graded in toy.relevant[120:]]
    first = [
        next(n for n, j in enumerate(row) if f"d{j}" in names) + 1
        for row, names in zip(order, relevant, strict=True)
    ]
    mrr = np.mean(1 / np.asarray(first))
    data = toy.queries[120:], toy.relevant[120:]
    finetuner.scoring = "mrr@60"
    assert finetuner.score(*data, corpus=toy.documents) == pytest.approx(mrr)
    scorer = RetrievalScorer("mrr@60", corpus=toy.documents)
    identity = make_pipeline(FunctionTransformer(), finetuner)
    for estimator in (finetuner, FrozenEstimator(finetuner), identity):
        assert scorer(estimator, *data) == pytest.approx(mrr)
    search = GridSearchCV(
        fixed(toy.encoder, 0.6, method="nudge_m"), {"gamma": [0.6]}, scoring=scorer,
        cv=[(np.arange(120), np.arange(120, 160))], error_score="raise",
    ).fit(toy.queries, toy.relevant)  # fmt: skip
    assert search.best_score_ == pytest.approx(mrr)


def test_grid_over_method_and_gamma(toy):
    search = GridSearchCV(
        CorpusFinetuner(toy.encoder, validation_fraction=None),
        {"method": METHODS, "gamma": [0.0, 0.1, 0.3]},
        scoring=RetrievalScorer("ndcg@10", corpus=toy.documents),
        cv=KFold(3, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(toy.queries, toy.relevant)
    scores = search.cv_results_["mean_test_score"].reshape(3, 2)  # gamma × method
    assert scores[0, 0] == scores[0, 1] and len(set(scores.ravel())) == 5
    assert search.best_params_["gamma"] > 0


# ---- over other finetuners


@quiet
def test_stacks_with_an_adapter_in_both_orders(toy):
    adapter = AdapterFinetuner(
        toy.encoder, epochs=3, learning_rate=1e-2, random_state=0
    )
    data = toy.queries, toy.relevant
    over = CorpusFinetuner(adapter, random_state=0).fit(*data)
    assert not hasattr(adapter, "weights_") and over.encoder_.weights_
    np.testing.assert_allclose(
        over.transform(toy.queries), over.encoder_.transform(toy.queries), atol=1e-6
    )
    fitted = clone(adapter).fit(*data)
    frozen = CorpusFinetuner(FrozenEstimator(fitted), random_state=0).fit(*data)
    assert frozen.encoder_.estimator is fitted
    under = AdapterFinetuner(
        CorpusFinetuner(toy.encoder, random_state=0), epochs=3, random_state=0
    ).fit(*data)
    assert under.encoder_.moved_documents_
    for finetuner in (over, frozen, under):
        assert finetuner.score(*data) > 0.2
    search = GridSearchCV(
        CorpusFinetuner(adapter, random_state=0),
        {"encoder__side": ["query", "both"]},
        cv=KFold(2),
        error_score="raise",
    ).fit(*data)
    assert len(set(search.cv_results_["mean_test_score"])) == 2


class Recording(AdapterFinetuner):
    """Records what it is fitted on."""

    fits = []

    def fit(self, X, y=None, **options):
        self.fits.append((X, y))
        return super().fit(X, y, **options)


def _forms(queries, relevant):
    """The same pairs in several forms of X and y."""
    first = [list(graded)[0] for graded in relevant]
    table = list(zip(queries, first, strict=True))
    return {
        "lists": (queries, relevant),
        "arrays": (np.array(queries), np.array(first, dtype=object)),
        "series": (pd.Series(queries), pd.Series(first)),
        "pairs": (table, None),
        "frame": (pd.DataFrame(table, columns=["query", "document"]), None),
        "labelled": (table, np.ones(len(table))),
    }


@quiet
@pytest.mark.parametrize("outer", [CorpusFinetuner, AdapterFinetuner])
@pytest.mark.parametrize(
    "form", ["lists", "arrays", "series", "pairs", "frame", "labelled"]
)
def test_an_inner_finetuner_never_sees_held_out_queries(toy, form, outer):
    """It is fitted on the training queries, and for the refit on all of them."""
    X, y = _forms(toy.queries[:40], toy.relevant[:40])[form]
    options = {"random_state": 0, "validation_fraction": 0.25}
    if outer is AdapterFinetuner:
        options["epochs"] = 1
    inner = Recording(toy.encoder, epochs=1, random_state=1)
    for refit, n_fits in ((True, 2), (False, 1)):
        Recording.fits = []
        outer(inner, refit=refit, **options).fit(X, y, corpus=toy.documents)
        assert len(Recording.fits) == n_fits
        seen = [q if isinstance(q, str) else q[0] for q in Recording.fits[0][0]]
        assert len(seen) == 30 and set(seen) < set(toy.queries[:40])
        if refit:
            assert Recording.fits[1][0] is X and Recording.fits[1][1] is y


@quiet
@pytest.mark.parametrize("outer", [CorpusFinetuner, AdapterFinetuner])
def test_base_score_is_that_of_the_inner_finetuner_on_held_out_queries(toy, outer):
    Recording.fits = []
    inner = Recording(toy.encoder, epochs=2, learning_rate=1e-2, random_state=1)
    stacked = outer(inner, refit=False, random_state=0)
    stacked.fit(toy.queries, toy.relevant, corpus=toy.documents)
    (X, y), *_ = Recording.fits
    held_out = [i for i, query in enumerate(toy.queries) if query not in X]
    alone = clone(inner).fit(X, y, corpus=toy.documents)
    scorer = RetrievalScorer(corpus=toy.documents)
    data = ([part[i] for i in held_out] for part in (toy.queries, toy.relevant))
    assert stacked.base_score_ == pytest.approx(scorer(alone, *data), abs=1e-9)


@quiet
def test_an_inner_finetuner_gets_all_rows_with_validation_data_of_their_own(toy):
    Recording.fits = []
    inner = Recording(toy.encoder, epochs=1, random_state=1)
    CorpusFinetuner(inner).fit(
        toy.queries[:100], toy.relevant[:100],
        X_val=toy.queries[100:], y_val=toy.relevant[100:],
    )  # fmt: skip
    assert [len(X) for X, _ in Recording.fits] == [100]


@quiet
def test_an_inner_finetuner_over_vectors():
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(60, 6)), np.repeat(np.arange(6), 10)
    Recording.fits = []
    inner = Recording(None, epochs=1, random_state=0)
    AdapterFinetuner(inner, epochs=1, random_state=0).fit(X, y)
    assert [len(part) for part, _ in Recording.fits] == [54, 60]


# ---- texts, pickles, bad input


def test_texts_are_encoded_once(static_model, pairs, encoded_rows):
    queries, documents = pairs
    SentenceEncoder(static_model).clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        finetuner = CorpusFinetuner(static_model, random_state=0).fit(*pairs)
    finetuner.score(*pairs)
    assert encoded_rows == dict.fromkeys({*queries, *documents}, 1)
    frame = finetuner.set_output(transform="pandas").transform(queries)
    assert list(frame.columns) == [f"corpusfinetuner{i}" for i in range(16)]
    assert isinstance(finetuner.score(*pairs), float)


def test_pickle_holds_no_model_and_notices_another(static_model, pairs, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(static_model, path)
    finetuner = fixed(str(path), 0.3).fit(*pairs)
    joblib.dump(finetuner, tmp_path / "finetuner.joblib")
    loaded = joblib.load(tmp_path / "finetuner.joblib")
    for method in ("transform_documents", "transform"):
        np.testing.assert_array_equal(
            getattr(loaded, method)(pairs[1]), getattr(finetuner, method)(pairs[1])
        )
    assert loaded.score(*pairs) == finetuner.score(*pairs)
    dumped, modules = pickle.dumps(finetuner), set()

    class Finding(pickle.Unpickler):
        def find_class(self, module, name):
            modules.add(module.partition(".")[0])
            return super().find_class(module, name)

    Finding(io.BytesIO(dumped)).load()
    assert modules <= {"skembft", "numpy", "builtins", "_codecs", "copyreg"}
    assert hasattr(finetuner, "moved_vectors_")
    assert not hasattr(clone(finetuner), "moved_vectors_")
    model = SentenceTransformer(str(path), device="cpu")
    next(model.parameters()).data += 0.01
    model.save_pretrained(str(path), create_model_card=False)
    with pytest.raises(ValueError, match="not the one this CorpusFinetuner was fitted"):
        pickle.loads(dumped).transform_documents(pairs[1])


def test_ids_are_str_or_int(toy):
    encoder = PrecomputedEncoder(
        {1: [1.0, 0], "1": [0, 1.0]}, {1: [0.9, 0.4], "1": [0.9, 0.4], 2: [0, 1.0]}
    )
    finetuner = fixed(encoder, 0.1).fit([1, "1"], [1, 2])
    assert finetuner.moved_documents_ == [1]  # 2 is where its query is
    one, text = finetuner.transform_documents([1, "1"])
    assert one[1] < 0.4 and text.tolist() == np.float32([0.9, 0.4]).tolist()


class Unloadable:
    """An encoder that must not be asked."""

    def transform(self, X):
        raise AssertionError("encoded before the data were checked")

    transform_documents = transform


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"encoder": None}, InvalidParameterError, "PrecomputedEncoder"),
        ({"encoder": AdapterFinetuner(None)}, InvalidParameterError, "takes vectors"),
        ({"encoder": object()}, InvalidParameterError, "without transform"),
        ({"validation_fraction": None}, InvalidParameterError, "gamma=None is chosen"),
        ({"method": "nudge"}, InvalidParameterError, "nudge_n"),
        ({"gamma": -0.1}, InvalidParameterError, "gamma"),
        ({"gamma": np.nan}, InvalidParameterError, "gamma"),
        ({"gamma": np.inf}, InvalidParameterError, "gamma"),
        ({"gamma": "0.1"}, InvalidParameterError, "gamma"),
        ({"scoring": "ndgc@10"}, InvalidParameterError, "scoring.*ndcg"),
    ],
)
def test_bad_parameters(options, error, message):
    with pytest.raises(error, match=message):
        CorpusFinetuner(**{"encoder": Unloadable(), **options}).fit(
            ["a", "b"], ["c", "d"]
        )


@pytest.mark.parametrize(
    "X, y, message",
    [
        (["a"], ["b"], "gamma=None is chosen on held-out queries.*single query"),
        (["a", "b"], [{"c": 0}, {"c": -1}], "nothing to learn"),
        (["a", None], ["b", "c"], r"X\[1\]"),
        (["a", "b"], None, "CorpusFinetuner requires y"),
        (["a", "b"], ["c"], "1 items"),
    ],
)
def test_bad_data(X, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CorpusFinetuner(Unloadable()).fit(X, y)


def test_vectors_that_are_not_finite_are_an_error(toy):
    class Broken(Unloadable):
        def transform(self, X):
            return np.full((len(X), 3), np.nan)

        transform_documents = transform

    with pytest.raises(ValueError, match="query vectors of the encoder contain NaN"):
        CorpusFinetuner(Broken()).fit(toy.queries, toy.relevant)


def test_what_works_on_cosines_refuses_nudge_m(toy):
    from skembft.mining import mine_hard_negatives

    inner = CorpusFinetuner(toy.encoder, method="nudge_m", random_state=0)
    fitted = clone(inner).fit(toy.queries, toy.relevant)
    for cls in (AdapterFinetuner, CorpusFinetuner):
        for encoder in (inner, FrozenEstimator(fitted)):
            with pytest.raises(ValueError, match="use method='nudge_n'"):
                cls(encoder).fit(toy.queries, toy.relevant)
    with pytest.raises(ValueError, match="ranks by dot product"):
        mine_hard_negatives(fitted, toy.queries, toy.relevant)
