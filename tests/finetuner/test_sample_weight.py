"""What a query counts: in the loss, in validation, in scores; by metadata routing."""

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembft import (
    AdapterFinetuner,
    CorpusFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
)
from skembft._data.weights import draw_by_weight
from skembft._losses.table import LOSSES
from skembft.metrics import RetrievalScorer

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")

RNG = np.random.RandomState(0)
N, DIM = 60, 8
DOCUMENTS = RNG.normal(size=(N, DIM))
# the first half of the queries asks for another map than the second
ROTATIONS = [np.linalg.qr(RNG.normal(size=(DIM, DIM)))[0] for _ in range(2)]
HALF = np.arange(N) < N // 2
QUERIES = np.where(HALF[:, None], DOCUMENTS @ ROTATIONS[0], DOCUMENTS @ ROTATIONS[1])
Q, D = [f"q{i}" for i in range(N)], [f"d{i}" for i in range(N)]
INDEX = PrecomputedEncoder((Q, QUERIES), (D, DOCUMENTS))
SCORER = RetrievalScorer("ndcg@10", corpus=D)


def halves(finetuner):
    """By how much queries of each half are nearer to their document than to others."""
    cosines = finetuner.transform(Q) @ finetuner.transform_documents(D).T
    cosines = cosines / np.linalg.norm(DOCUMENTS, axis=1)
    values = np.diag(cosines) - cosines.mean(axis=1)
    return values[HALF].mean(), values[~HALF].mean()


# ---- the draw


def test_equal_weights_draw_each_once():
    for n in (1, 7, 1000):
        drawn = draw_by_weight(np.full(n, 0.3), np.random.RandomState(n))
        np.testing.assert_array_equal(np.sort(drawn), np.arange(n))


def test_draws_are_in_proportion_to_weights():
    rng = np.random.RandomState(0)
    weights = np.array([0, 0.5, 1, 2, 6.5])
    counts = np.zeros(5)
    for _ in range(4000):
        drawn = np.bincount(draw_by_weight(weights, rng), minlength=5)
        exact = weights / weights.mean()
        assert drawn.sum() == 5 and (np.abs(drawn - exact) < 1).all()
        counts += drawn
    np.testing.assert_allclose(counts / 4000, weights / weights.mean(), atol=0.03)


# ---- the loss


def adapter(**params):
    params = {"epochs": 30, "validation_fraction": None, "random_state": 0} | params
    return AdapterFinetuner(INDEX, **params)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"negatives": "corpus"},
        {"solver": "closed_form", "adapter_params": {"ridge": 1e-4}},
        {"loss": "cosine_similarity"},
        {"loss": "triplet"},
        {"loss": "mse"},
        {"loss": "multiple_negatives_symmetric_ranking"},
    ],
    ids=lambda params: "-".join(map(str, params.values())) or "default",
)
def test_a_query_of_more_weight_is_learnt_better(params):
    weights = np.where(HALF, 1.0, 0.05)
    plain = halves(adapter(**params).fit(Q, D))
    first = halves(adapter(**params).fit(Q, D, weights))
    second = halves(adapter(**params).fit(Q, D, weights[::-1]))
    assert first[0] > plain[0] > second[0]
    assert first[1] < plain[1] < second[1]


@pytest.mark.parametrize("params", [{"solver": "closed_form"}, {"loss": "mse"}, {}])
def test_weights_count_by_their_ratios_alone(params):
    weights = RNG.rand(N)
    first = adapter(**params).fit(Q, D, weights)
    second = adapter(**params).fit(Q, D, list(8 * weights))
    np.testing.assert_allclose(first.transform(Q), second.transform(Q), atol=1e-6)
    equal = adapter(**params).fit(Q, D, np.full(N, 3.0))
    plain = adapter(**params).fit(Q, D)
    if params != {"loss": "mse"}:  # its rows are drawn in another order
        np.testing.assert_allclose(equal.transform(Q), plain.transform(Q), atol=1e-6)


def test_the_closed_form_is_weighted_ridge_regression():
    weights = RNG.rand(N)
    fitted = adapter(solver="closed_form", adapter_params={"ridge": 0.1})
    fitted.fit(Q, D, weights)
    q, d = (v / np.linalg.norm(v, axis=1)[:, None] for v in (QUERIES, DOCUMENTS))
    share, ridge = weights[:, None] / weights.sum(), 0.1 * np.eye(DIM)
    gram, cross = q.T @ (share * q), d.T @ (share * q)
    expected = (cross + ridge) @ np.linalg.inv(gram + ridge)
    weight = fitted.weights_["query"]["weight"]
    np.testing.assert_allclose(weight, expected, atol=1e-5)


@pytest.mark.parametrize("params", [{"solver": "closed_form"}, {"negatives": "corpus"}])
def test_weight_zero_teaches_nothing(params):
    """Its documents stay in the pool: they are passed as the corpus otherwise."""
    weights = HALF.astype(float)
    params |= {"batch_size": N}
    zero = adapter(**params).fit(Q, D, weights)
    without = adapter(**params).fit(Q[: N // 2], D[: N // 2], corpus=D)
    found, expected = zero.transform(Q), without.transform(Q)
    atol = 1e-6 if "solver" in params else 0.02  # the order of documents differs
    np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize("method", ["nudge_n", "nudge_m"])
def test_documents_move_toward_queries_of_more_weight(method):
    vectors = {"q0": [0.8, 0.6, 0], "q1": [0.8, 0, 0.6], "d5": [1, 0, 0]}
    index = PrecomputedEncoder(vectors)
    queries, documents = ["q0", "q1"], ["d5", "d5"]
    fixed = CorpusFinetuner(index, method=method, gamma=0.3, validation_fraction=None)

    def gain(weights):
        fixed.fit(queries, documents, weights)
        moved = fixed.transform_documents(["d5"])[0] @ fixed.transform(queries).T
        return moved[0] - moved[1]

    assert gain([1, 0]) > gain([2, 1]) > gain(None) > gain([1, 2]) > gain([0, 1])
    assert gain([3, 3]) == pytest.approx(gain(None), abs=1e-6)
    alone = CorpusFinetuner(index, method=method, gamma=0.3, validation_fraction=None)
    alone.fit(queries[:1], documents[:1])
    fixed.fit(queries, documents, [1, 0])
    found, expected = (f.transform_documents(["d5"]) for f in (fixed, alone))
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ---- whole models


@pytest.mark.parametrize(
    "loss", ["multiple_negatives_ranking", "cosine_similarity", "triplet"]
)
def test_a_whole_model_learns_by_weight(static_model, loss):
    from tests.conftest import WORDS

    queries = [f"{a} {b}" for a, b in zip(WORDS[:20], WORDS[20:40], strict=True)]
    documents = [f"{c}" for c in WORDS[40:]]
    weights = np.where(np.arange(20) < 10, 1.0, 0.0)
    params = {"epochs": 30, "batch_size": 5, "learning_rate": 0.05, "random_state": 0}
    finetuner = EmbeddingFinetuner(static_model, loss=loss, **params)
    scorer = RetrievalScorer("mrr@10", corpus=documents)
    before = finetuner.fit(queries, documents, weights)
    learnt = scorer.per_query(before, queries, documents)
    untouched = EmbeddingFinetuner(static_model, epochs=1, learning_rate=1e-9)
    known = scorer.per_query(untouched.fit(queries, documents), queries, documents)
    assert learnt[:10].mean() > known[:10].mean() + 0.2
    # words of the queries that count nothing have not been trained
    np.testing.assert_allclose(
        before.transform(queries[10:]), untouched.transform(queries[10:]), atol=1e-3
    )


def test_a_query_is_drawn_by_weight_in_every_epoch(static_model, pairs, monkeypatch):
    from sentence_transformers.base.data_collator import BaseDataCollator

    seen = []
    call = BaseDataCollator.__call__

    def spy(self, features):
        seen.extend(f["anchor"] for f in features)
        return call(self, features)

    monkeypatch.setattr(BaseDataCollator, "__call__", spy)
    queries, documents = pairs
    weights = np.ones(40)
    weights[3], weights[4] = 5, 0
    finetuner = EmbeddingFinetuner(static_model, epochs=4, random_state=0)
    finetuner.fit(queries, documents, weights)
    assert len(seen) == 4 * 40
    assert seen.count(queries[3]) in range(16, 21) and queries[4] not in seen


@pytest.mark.parametrize(
    "loss", [n for n, s in LOSSES.items() if s.needs in ("texts", "damaged")]
)
def test_losses_of_documents_have_no_place_for_weights(static_model, loss):
    finetuner = EmbeddingFinetuner(static_model, loss=loss)
    with pytest.raises(ValueError, match="has no place for sample_weight"):
        finetuner.fit(["red1", "old2"], ["wet1", "shy2"], [1, 2])


def test_losses_of_classes_have_no_place_for_weights():
    finetuner = AdapterFinetuner(None, loss="batch_all_triplet")
    with pytest.raises(ValueError, match="has no place for sample_weight"):
        finetuner.fit(DOCUMENTS, np.arange(N) % 5, np.ones(N))
    rows = np.arange(2 * N) % N  # copies, and no weights
    finetuner.fit(DOCUMENTS[rows], rows % 5)


# ---- validation


def test_validation_is_weighted():
    weights = RNG.rand(N)
    finetuner = adapter(epochs=1)
    finetuner.fit(Q, D, X_val=Q, y_val=D, sample_weight_val=weights)
    values = SCORER.per_query(INDEX, Q, D)
    expected = np.average(values, weights=weights)
    assert finetuner.base_score_ == pytest.approx(expected)
    assert finetuner.base_score_ != pytest.approx(values.mean(), abs=1e-4)
    # a weighted mean of independent values with the same variance
    share = weights / weights.sum()
    error = np.sqrt(N / (N - 1) * (share**2 @ (values - expected) ** 2))
    assert finetuner.history_[0]["standard_error"] == pytest.approx(error)


def test_queries_of_weight_zero_are_not_held_out():
    weights = np.zeros(N)
    weights[:4] = 1, 2, 3, 4
    finetuner = adapter(validation_fraction=0.5, epochs=1).fit(Q, D, weights)
    values = SCORER.per_query(INDEX, Q[:4], D[:4])
    pairs = [
        np.average(values[[i, j]], weights=weights[[i, j]])
        for i in range(4)
        for j in range(i)
    ]
    assert any(finetuner.base_score_ == pytest.approx(v) for v in pairs)


# ---- class labels


def test_copies_of_a_row_are_one_row_that_counts_more():
    labels = np.arange(N) % 6
    rows = np.repeat(np.arange(N), np.arange(N) % 3)
    finetuner = AdapterFinetuner(None, epochs=5, random_state=0)
    copied = finetuner.fit(DOCUMENTS[rows], labels[rows])
    vectors, history = copied.transform(DOCUMENTS), copied.history_
    weighted = finetuner.fit(DOCUMENTS, labels, np.arange(N) % 3)
    assert weighted.history_ == history
    np.testing.assert_array_equal(weighted.transform(DOCUMENTS), vectors)


# ---- scores and routing


def test_scorer_takes_weights():
    weights = RNG.rand(N)
    values = SCORER.per_query(INDEX, Q, D)
    found = SCORER(INDEX, Q, D, sample_weight=weights)
    assert found == pytest.approx(np.average(values, weights=weights))
    several = RetrievalScorer(["ndcg@10", "mrr@10"], corpus=D)
    assert several(INDEX, Q, D, weights)["ndcg@10"] == pytest.approx(found)
    assert SCORER(INDEX, Q, D, np.full(N, 2.0)) == pytest.approx(SCORER(INDEX, Q, D))


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_weights_go_to_fit_without_routing():
    fits = []

    class Recording(AdapterFinetuner):
        def fit(self, X, y=None, sample_weight=None, **options):
            fits.append((X, sample_weight))
            return super().fit(X, y, sample_weight, **options)

    weights = dict(zip(Q, RNG.rand(N), strict=True))
    search = GridSearchCV(
        Recording(INDEX, epochs=1), {"side": ["query"]}, scoring=SCORER, cv=KFold(3)
    )
    search.fit(Q, D, sample_weight=np.array(list(weights.values())))
    assert len(fits) == 4
    for X, given in fits:
        np.testing.assert_array_equal(given, [weights[q] for q in X])


def test_routing_takes_weights_to_fit_and_scorer(routing):
    weights = RNG.rand(N)
    finetuner = adapter(epochs=1).set_fit_request(sample_weight=True)
    scorer = RetrievalScorer("ndcg@10", corpus=D).set_score_request(sample_weight=True)
    options = {"scoring": scorer, "cv": KFold(3), "return_indices": True}
    params = {"params": {"sample_weight": weights}}
    found = cross_validate(finetuner, Q, D, **options, **params, error_score="raise")
    test = found["indices"]["test"][0]
    train = found["indices"]["train"][0]

    def take(values, at):
        return [values[i] for i in at]

    fitted = adapter(epochs=1).fit(take(Q, train), take(D, train), weights[train])
    values = SCORER.per_query(fitted, take(Q, test), take(D, test))
    expected = np.average(values, weights=weights[test])
    assert found["test_score"][0] == pytest.approx(expected)


def test_weights_that_no_one_asked_for_are_refused(routing):
    finetuner = adapter(epochs=1).set_fit_request(sample_weight=True)
    search = GridSearchCV(finetuner, {"side": ["query"]}, scoring=SCORER)
    with pytest.raises(ValueError, match="sample_weight.*not explicitly set"):
        search.fit(Q, D, sample_weight=np.ones(N))


def test_weights_in_a_pipeline():
    pipeline = make_pipeline(FunctionTransformer(), adapter(epochs=3))
    weights = RNG.rand(N)
    pipeline.fit(Q, D, adapterfinetuner__sample_weight=weights)
    expected = adapter(epochs=3).fit(Q, D, weights).transform(Q)
    np.testing.assert_array_equal(pipeline.transform(Q), expected)


def test_an_inner_finetuner_gets_the_weights_of_its_rows():
    fits = []

    class Recording(AdapterFinetuner):
        def fit(self, X, y=None, sample_weight=None, **options):
            fits.append(dict(zip(X, sample_weight, strict=True)))
            return super().fit(X, y, sample_weight, **options)

    weights = dict(zip(Q, RNG.rand(N), strict=True))
    inner = Recording(INDEX, epochs=1)
    AdapterFinetuner(inner, epochs=1, random_state=0).fit(Q, D, list(weights.values()))
    assert [len(fit) for fit in fits] == [30, 60]
    assert all(fit.items() <= weights.items() for fit in fits)


# ---- bad weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(N - 1), r"sample_weight has shape \(59,\), expected .*\(60,\)"),
        (np.ones((N, 2)), "sample_weight has shape"),
        (np.full(N, np.nan), "must be finite and not negative"),
        (-np.ones(N), "must be finite and not negative"),
        (np.zeros(N), "sample_weight is zero in every row"),
        (["heavy"] * N, "sample_weight"),
    ],
)
@pytest.mark.parametrize("cls", [AdapterFinetuner, CorpusFinetuner])
def test_wrong_weights(cls, weights, message):
    with pytest.raises((ValueError, TypeError), match=message):
        cls(INDEX).fit(Q, D, weights)


def test_weights_of_validation_go_with_it():
    with pytest.raises(ValueError, match="sample_weight_val goes with X_val"):
        adapter().fit(Q, D, sample_weight_val=np.ones(N))
    with pytest.raises(ValueError, match="sample_weight_val has shape"):
        adapter().fit(Q, D, X_val=Q, y_val=D, sample_weight_val=np.ones(3))


# ---- grades


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"negatives": "corpus"},
        {"negatives": "batch"},
        {"solver": "closed_form", "adapter_params": {"ridge": 1e-3}},
    ],
)
def test_a_document_of_a_higher_grade_is_nearer(params):
    """Two documents answer each query; which of them is nearer follows the grades."""

    def nearer(first, second):
        y = [{D[i]: first, D[(i + 1) % N]: second} for i in range(N)]
        fitted = adapter(side="query", **params).fit(Q, y)
        cosines = (
            fitted.transform(Q)
            @ (DOCUMENTS / np.linalg.norm(DOCUMENTS, axis=1)[:, None]).T
        )
        return np.mean(np.diag(cosines) - np.diag(np.roll(cosines, -1, axis=1)))

    assert nearer(5, 1) > nearer(1, 1) > nearer(1, 5)
    assert nearer(2, 2) == pytest.approx(nearer(1, 1), abs=1e-5)


def test_the_closed_form_counts_grades():
    y = [{D[i]: 3.0, D[(i + 7) % N]: 1.0} for i in range(N)]
    fitted = adapter(solver="closed_form", adapter_params={"ridge": 0.1}).fit(Q, y)
    repeated = adapter(solver="closed_form", adapter_params={"ridge": 0.1})
    rows = [
        (query, document)
        for query, graded in zip(Q, y, strict=True)
        for document, grade in graded.items()
        for _ in range(int(grade))
    ]
    repeated.fit(rows)
    found, expected = fitted.transform(Q), repeated.transform(Q)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_of_weight_zero_are_no_answers():
    with pytest.raises(ValueError, match="nothing to learn"):
        AdapterFinetuner(None).fit(np.eye(4), [0, 0, 1, 1], [1, 0, 1, 0])


def test_no_example_has_a_weight():
    graded = [{D[0]: 1, D[1]: 2}, {D[2]: 1}, {D[0]: 1}]
    finetuner = adapter(loss="margin_mse")
    with pytest.raises(ValueError, match="nothing to learn"):
        finetuner.fit(Q[:3], graded, [0, 1, 1])


def test_no_example_of_a_whole_model_has_a_weight(static_model):
    graded = [{"red1": 1, "red2": 2}, {"old1": 1}, {"red1": 1}]
    finetuner = EmbeddingFinetuner(static_model, loss="margin_mse")
    with pytest.raises(ValueError, match="nothing to learn"):
        finetuner.fit(["wet1", "wet2", "wet3"], graded, [0, 1, 1])


def test_weights_whose_sum_overflows():
    encoder = PrecomputedEncoder({"q": [1, 0.0], "r": [1, 0.5], "a": [0.9, 0.3]})
    scorer = RetrievalScorer("mrr@10")
    for X in ["q", "r"], ["q", "q"]:
        with pytest.raises(ValueError, match="sum of sample_weight overflows"):
            scorer(encoder, X, ["a", "a"], sample_weight=[1e308, 1e308])


@pytest.mark.parametrize("scale", [1e-310, 1e-170, 1e-50, 1e40, 1e200])
@pytest.mark.filterwarnings("ignore:The vectors of documents stay:UserWarning")
def test_only_ratios_of_weights_count(rotated, scale):
    queries, documents = (vectors[:80] for vectors in rotated)
    weights = np.random.RandomState(0).randint(1, 5, size=80).astype(float)
    names = list(range(80))
    index = PrecomputedEncoder((names, queries), (names, documents))
    plain, scaled = weights, weights * scale
    if scale == 1e-310:  # whose digits are few
        plain, scaled = np.ones(80), np.full(80, scale)
    for make in (
        lambda: AdapterFinetuner(index, epochs=20, validation_fraction=0.3),
        lambda: AdapterFinetuner(index, epochs=3, loss="triplet"),
        lambda: CorpusFinetuner(index, gamma=0.3, validation_fraction=None),
        lambda: CorpusFinetuner(index, method="nudge_m"),
    ):
        finetuners = []
        for given in (plain, scaled):
            finetuner = make()
            if hasattr(finetuner, "random_state"):
                finetuner.set_params(random_state=0)
            finetuners.append(finetuner.fit(names, names[::-1], given))
        a, b = finetuners
        assert getattr(a, "best_step_", None) == getattr(b, "best_step_", None)
        for name in ("transform", "transform_documents"):
            found, expected = (getattr(each, name)(names) for each in (b, a))
            np.testing.assert_allclose(found, expected, atol=1e-5)
