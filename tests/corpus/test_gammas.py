"""CorpusFinetuner: the choice of gamma, against a brute force."""

import itertools

import numpy as np
import pytest

import skembft._corpus.gammas as gammas_module
import skembft._corpus.trainer as trainer_module
import skembft._finetuner.base as base_module
from skembft import CorpusFinetuner, PrecomputedEncoder
from skembft._finetuner.validation import cross_fitted
from skembft.metrics import RetrievalScorer
from tests.corpus.toy import METHODS, fixed, nudge_m, nudge_n, quiet, unit


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
        monkeypatch.setattr(gammas_module, "_QUERIES", block[0])
        monkeypatch.setattr(gammas_module, "_BLOCK", block[1])
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
            monkeypatch.setattr(gammas_module, name, value)
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
def test_a_copy_that_does_not_move_ties_as_scores_do(method):
    vectors = {"q": [1, 0, 0], "t": [0, 0, 1], "a": [0.6, 0.8, 0], "b": [0.6, 0.8, 0]}
    vectors |= {f"far{i}": [-1, 0, 0] for i in range(6)}
    encoder, found = PrecomputedEncoder(vectors), set()
    for first, second in ("ab", "ba"):
        finetuner = CorpusFinetuner(encoder, method=method, scoring="hit_rate@1")
        for n in range(2, 6):
            corpus = [second, *(f"far{i}" for i in range(n))]
            finetuner.fit(["t"], ["b"], X_val=["q"], y_val=[first], corpus_val=corpus)
            scorer = RetrievalScorer("hit_rate@1", corpus=corpus)
            assert finetuner.base_score_ == scorer(encoder, ["q"], [first])
            found.add(finetuner.base_score_)
    assert found == {0.0, 1.0}


def test_a_document_that_is_best_halfway_only(monkeypatch):
    """It turns toward a query, and on past it, between gammas tried together."""
    monkeypatch.setattr(gammas_module, "_WAY", 10)
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
    options = {"method": method, "random_state": 0, "validation_fraction": 0.1}
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
    names = [f"{d}, {i}" for d in toy.documents for i in range(2)]
    encoder = PrecomputedEncoder(
        (names, np.repeat(toy.D, 2, axis=0)), (toy.documents, toy.D)
    )
    finetuner = CorpusFinetuner(encoder, method=method, gamma=gamma, random_state=0)
    with pytest.warns(
        UserWarning, match="Training did not help.*so the untouched model is kept"
    ):
        finetuner.fit(names, np.repeat(toy.documents, 2))
    assert (finetuner.best_step_, finetuner.best_epoch_, finetuner.gamma_) == (0, 0, 0)
    assert finetuner.moved_documents_ == []
    assert finetuner.score(names, np.repeat(toy.documents, 2)) == 1.0


# ---- which queries can tell


def problem(seed, *, n, times, bias=0.0, noise=1.0, dim=16):
    """Of n documents, each asked for so many times, and new queries for all.

    With a bias a document is asked for from one side, where it should go; without,
    moving it can only harm.
    """
    rng = np.random.RandomState(seed)
    D = rng.normal(size=(n, dim))
    side = bias * rng.normal(size=(n, dim))
    who = np.repeat(np.arange(n), times)
    train, test = (
        (D + side)[index] + noise * rng.normal(size=(len(index), dim))
        for index in (who, np.arange(n))
    )
    names = [f"q{i}" for i in range(len(train))], [f"t{i}" for i in range(n)]
    documents = [f"d{i}" for i in range(n)]
    encoder = PrecomputedEncoder(
        ([*names[0], *names[1]], np.concatenate([train, test])), (documents, D)
    )
    scorer = RetrievalScorer("ndcg@10", corpus=documents)
    return encoder, names[0], [documents[i] for i in who], names[1], documents, scorer


@pytest.mark.parametrize("method", METHODS)
def test_one_query_a_document_tells_no_gamma(method):
    """The document of a held-out query never moves: its rivals do, and harm it."""
    for seed in range(5):
        encoder, X, y, X_test, documents, scorer = problem(seed, n=300, times=1)
        finetuner = CorpusFinetuner(encoder, method=method, random_state=seed)
        with pytest.warns(UserWarning, match="of the 300 queries fewer than 10 were"):
            finetuner.fit(X, y, corpus=documents)
        assert (finetuner.gamma_, finetuner.best_step_, finetuner.n_iter_) == (0, 0, 0)
        assert finetuner.moved_documents_ == []
        assert finetuner.base_score_ == finetuner.validation_score_ > 0
        assert finetuner.history_[0]["ndcg@10"] == finetuner.base_score_
        before = scorer(encoder, X_test, documents)
        assert scorer(finetuner, X_test, documents) == before


@quiet
@pytest.mark.parametrize("times", [2, 4, "mixed"])
def test_a_gamma_is_chosen_by_those_that_can_tell(times):
    """Isotropic: the vectors stay, nearly. Asked for from one side: they go there."""
    changes = {0.0: [], 0.8: []}
    count = times
    if times == "mixed":  # most documents are asked for once
        count = np.where(np.arange(300) < 240, 1, 4)
    for bias, seed in itertools.product(changes, range(5)):
        encoder, X, y, X_test, documents, scorer = problem(
            seed, n=300, times=count, bias=bias
        )
        finetuner = CorpusFinetuner(encoder, random_state=seed)
        finetuner.fit(X, y, corpus=documents)
        before = scorer(encoder, X_test, documents)
        changes[bias].append(scorer(finetuner, X_test, documents) - before)
    assert np.mean(changes[0.0]) > -0.01
    assert np.mean(changes[0.8]) > 0.03


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metric", ["ndcg@10", "hit_rate@1"])
def test_each_query_is_held_out_once(toy, method, metric, monkeypatch):
    """History equals brute force: every gamma, fitted on the other parts, and scored.

    Weights count in the fit and in the mean of all.
    """
    splits = []

    def recorded(*args):
        splits.append(cross_fitted(*args))
        return splits[-1]

    monkeypatch.setattr(base_module, "cross_fitted", recorded)
    X, y = toy.queries[:100], toy.relevant[:100]
    weights = np.random.RandomState(0).randint(1, 4, len(X)).astype(float)
    options = {"method": method, "scoring": metric}
    finetuner = CorpusFinetuner(toy.encoder, random_state=0, **options)
    finetuner.fit(X, y, weights, corpus=toy.documents)
    [folds] = splits
    queries = list(dict.fromkeys(X))  # as the indices of splits count them
    assert sorted(i for _, part in folds for i in part) == list(range(len(queries)))
    for entry in finetuner.history_[::6]:
        sums = np.zeros(2)
        for _, part in folds:
            inside = np.isin(X, [queries[i] for i in part])
            train, test = (
                [[values[i] for i in np.flatnonzero(rows)] for values in (X, y)]
                for rows in (~inside, inside)
            )
            alone = fixed(toy.encoder, entry["gamma"], **options)
            alone.fit(*train, weights[~inside])
            scorer = RetrievalScorer(metric, corpus=toy.documents)
            score = scorer(alone, *test, sample_weight=weights[inside])
            sums += weights[inside].sum() * np.array([score, 1])
        assert entry[metric] == pytest.approx(sums[0] / sums[1], abs=1e-9)


@quiet
@pytest.mark.parametrize(
    ("options", "n_held_out"),
    [
        ({}, 100),
        ({"refit": False}, 10),
        ({"validation_fraction": 0.3}, 30),
        ({"validation_fraction": 0.03}, 10),  # fewer could not tell
    ],
    ids=str,
)
def test_how_many_are_held_out(toy, options, n_held_out, monkeypatch):
    sizes = []
    score_gammas = trainer_module.score_gammas

    def counted(moves, gammas, queries, *args, **kwargs):
        sizes.append(len(queries))
        return score_gammas(moves, gammas, queries, *args, **kwargs)

    monkeypatch.setattr(trainer_module, "score_gammas", counted)
    X, y = list(toy.queries[:100]), list(toy.relevant[:100])
    CorpusFinetuner(toy.encoder, random_state=0, **options).fit(X, y)
    assert sum(sizes) == n_held_out * len(set(X)) // 100


@quiet
@pytest.mark.parametrize("fraction", ["auto", 0.3])
def test_queries_of_documents_that_stay_count(fraction):
    """Queries resemble each other, so that what moves toward some nears them all.

    Judged only by queries of documents that move, 0.15 would be lost: a third is about
    documents that nobody has asked for, and that fall behind.
    """
    documents = [f"d{i}" for i in range(300)]
    scorer = RetrievalScorer("ndcg@10", corpus=documents)
    for seed in range(5):
        rng = np.random.RandomState(seed)
        D, style = unit(rng.randn(300, 32)), unit(rng.randn(1, 32))
        who = rng.randint(300, size=600)
        Q = unit(D[who] + 1.5 * style + 0.8 * unit(rng.randn(600, 32)))
        X, y = [f"q{i}" for i in range(600)], [documents[i] for i in who]
        encoder = PrecomputedEncoder((X, Q), (documents, D))
        finetuner = CorpusFinetuner(
            encoder, validation_fraction=fraction, random_state=seed
        ).fit(X[:300], y[:300], corpus=documents)
        test = X[300:], y[300:]
        assert scorer(finetuner, *test) > scorer(encoder, *test) - 0.01


@pytest.mark.parametrize("times", [1, 2])
def test_a_given_gamma_is_taken_where_none_can_tell(times):
    """A second query of every document tells nothing if it weighs nothing."""
    encoder, X, y, _, documents, _ = problem(0, n=60, times=times)
    finetuner = CorpusFinetuner(encoder, gamma=0.1, random_state=0)
    seen = set()
    first = [name not in seen and not seen.add(name) for name in y]
    finetuner.fit(X, y, np.array(first, dtype=float), corpus=documents)
    assert finetuner.gamma_ == 0.1 and len(finetuner.moved_documents_) > 50
    assert finetuner.validation_score_ is None


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
