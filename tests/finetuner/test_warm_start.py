"""A warm start goes on from fitted weights; what taught them does not validate it."""

import numpy as np
import pytest

import skembft
from skembft import AdapterFinetuner, EmbeddingFinetuner, PrecomputedEncoder
from skembft.metrics import RetrievalScorer

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help")


@pytest.fixture(scope="module")
def noisy():
    """Queries from which the little that can be learned is soon learned by heart."""
    rng = np.random.RandomState(0)
    n, d = 300, 64
    D = rng.normal(size=(n + 300, d))
    R = np.linalg.qr(rng.normal(size=(d, d)))[0]
    Q = 0.4 * D + 0.3 * D @ R + 0.9 * rng.normal(size=D.shape)
    queries = [f"q{i}" for i in range(len(D))]
    documents = [f"d{i}" for i in range(len(D))]
    return PrecomputedEncoder((queries, Q), (documents, D)), queries, documents


def adapter(noisy, **options):
    options = {"warm_start": True, "epochs": 30, "random_state": 0} | options
    return AdapterFinetuner(noisy[0], **options)


@pytest.mark.parametrize("refit", [True, False])
def test_validation_of_a_second_fit_tells_the_truth(noisy, refit):
    encoder, queries, documents = noisy
    train = queries[:300], documents[:300]
    scorer = RetrievalScorer("ndcg@10", corpus=documents)
    finetuner = adapter(noisy, refit=refit)
    for seed in range(3):
        before = getattr(finetuner, "validation_score_", None)
        finetuner.set_params(random_state=seed).fit(*train, corpus=documents)
        # the same queries, by the weights that have not seen them
        assert before in (None, finetuner.base_score_)
        truth = scorer(finetuner, queries[300:], documents[300:])
        assert finetuner.validation_score_ < truth + 0.07


def test_what_did_not_help_leaves_the_refitted_weights(noisy):
    _, queries, documents = noisy
    finetuner = adapter(noisy).fit(queries[:300], documents[:300])
    before = finetuner.weights_["query"]["weight"].copy()
    finetuner.set_params(learning_rate=1e-12, weight_decay=0.0)
    finetuner.fit(queries[:300], documents[:300])
    assert finetuner.best_step_ == 0
    np.testing.assert_array_equal(finetuner.weights_["query"]["weight"], before)


def test_new_queries_validate_beside_those_held_out_before(noisy):
    _, queries, documents = noisy
    finetuner = adapter(noisy, refit=False).fit(queries[:200], documents[:200])
    first = set(finetuner._trained_queries)
    finetuner.fit(queries[100:500], documents[100:500])
    assert first < set(finetuner._trained_queries)
    # 20 of 200 were held out at first; of the 400 at least the 300 new ones could be
    assert len(finetuner._trained_queries) <= 500 - 40


@pytest.mark.parametrize("cls", [AdapterFinetuner, EmbeddingFinetuner])
def test_nothing_is_left_to_validate_by(static_model, pairs, cls, tmp_path):
    options = {"epochs": 1, "refit": True, "random_state": 0}
    finetuner = cls(static_model, validation_fraction=0.2, **options).fit(*pairs)
    finetuner.set_params(warm_start=True)
    before = finetuner.transform(pairs[0])
    finetuner.save_pretrained(tmp_path / "saved")
    for one in (finetuner, skembft.load(tmp_path / "saved")):
        with pytest.raises(ValueError, match="earlier fits .* Pass X_val, or"):
            one.set_params(warm_start=True).fit(*pairs)
        np.testing.assert_allclose(one.transform(pairs[0]), before, atol=1e-6)
    # the three ways out
    X, y = ["a query of its own", "and another"], pairs[1][:2]
    finetuner.fit(*pairs, X_val=X, y_val=y)
    finetuner.fit([*pairs[0], *X], [*pairs[1], *y])
    finetuner.set_params(validation_fraction=None).fit(*pairs)


@pytest.mark.parametrize("cls", [AdapterFinetuner, EmbeddingFinetuner])
def test_what_a_fit_holds_out_is_left_to_the_next(static_model, pairs, cls, tmp_path):
    options = {"epochs": 1, "refit": False, "warm_start": True}
    finetuner = cls(static_model, validation_fraction=0.3, random_state=0, **options)
    finetuner.fit(*pairs).save_pretrained(tmp_path / "saved")
    for one in (skembft.load(tmp_path / "saved"), finetuner):
        score = one.validation_score_
        one.set_params(random_state=7).fit(*pairs)
        assert one.base_score_ == pytest.approx(score, abs=1e-6)


def test_class_labels(rotated):
    X, labels = rotated[0][:60], np.arange(60) % 6
    finetuner = AdapterFinetuner(
        None, warm_start=True, epochs=2, refit=False, random_state=0
    )
    score = finetuner.fit(X, labels).validation_score_
    assert finetuner.set_params(random_state=1).fit(X, labels).base_score_ == score


@pytest.mark.parametrize("side", ["query", "both", "separate"])
@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "linear"},
        {"adapter": "linear", "adapter_params": {"bias": True}},
        {"adapter": "low_rank"},
        {"adapter": "low_rank", "adapter_params": {"rank": 3}},
        {"adapter": "mlp"},
    ],
)
@pytest.mark.parametrize("first", ["untouched", "learned little"])
def test_an_adapter_that_is_nearly_the_identity_learns(rotated, options, side, first):
    """A low-rank one had no gradients there, ever."""
    queries, documents = (vectors[:60] for vectors in rotated)
    finetuner = AdapterFinetuner(
        None, side=side, warm_start=True, epochs=2, random_state=0, **options
    )
    if first == "untouched":
        finetuner.fit(documents, documents)
        assert finetuner.best_step_ == 0
    else:
        finetuner.set_params(validation_fraction=None, learning_rate=1e-7)
        finetuner.fit(queries, documents)
    finetuner.set_params(validation_fraction=None, epochs=40, learning_rate=1e-2)
    warm = [e["loss"] for e in finetuner.fit(queries, documents).history_[1:]]
    fresh = AdapterFinetuner(**finetuner.get_params()).fit(queries, documents)
    cold = [e["loss"] for e in fresh.history_[1:]]
    assert warm[-1] < cold[-1] + 0.1 * (cold[0] - cold[-1])
