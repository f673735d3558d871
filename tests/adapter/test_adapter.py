"""AdapterFinetuner: the training against plain numpy, validation, refit, callbacks."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skembft import AdapterFinetuner, PrecomputedEncoder, SentenceEncoder


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def numpy_infonce(Q, D, positives, target, *, scale, lr, decay, steps, bias=False):
    """Full-batch InfoNCE on the query side with AdamW, written from the formulas."""
    Q, D = unit(Q).astype(np.float64), unit(D).astype(np.float64)
    dim = Q.shape[1]
    parameters = [np.zeros((dim, dim))] + ([np.zeros(dim)] if bias else [])
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    for t in range(1, steps + 1):
        u = Q + Q @ parameters[0].T + (parameters[1] if bias else 0)
        norm = np.linalg.norm(u, axis=1, keepdims=True)
        y = u / norm
        logits = scale * y @ D.T
        masked = positives.copy()
        masked[np.arange(len(Q)), target] = False
        logits[masked] = -np.inf
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(Q)), target] -= 1
        g = scale * p @ D / len(Q)
        g = (g - y * (y * g).sum(axis=1, keepdims=True)) / norm
        gradients = [g.T @ Q, g.sum(axis=0)]
        for i, (m, v) in enumerate(moments):
            m = 0.9 * m + 0.1 * gradients[i]
            v = 0.999 * v + 0.001 * gradients[i] ** 2
            moments[i] = m, v
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            parameters[i] = parameters[i] * (1 - lr * decay) - lr * step
    return [np.eye(dim) + parameters[0], *parameters[1:]]


@pytest.mark.parametrize("negatives", ["corpus", "batch"])
@pytest.mark.parametrize("bias", [False, True])
def test_infonce_equals_plain_numpy(rotated, negatives, bias):
    """Weights after some full-batch steps, with several positives of a query masked."""
    Q, D = rotated[0][:30], rotated[1][:30]
    relevant = [
        [f"d{i}", f"d{(i + 1) % 30}"] if i % 3 else [f"d{i}"] for i in range(30)
    ]
    encoder = PrecomputedEncoder(
        ([f"q{i}" for i in range(30)], Q), ([f"d{i}" for i in range(30)], D)
    )
    finetuner = AdapterFinetuner(
        encoder,
        negatives=negatives,
        adapter_params={"bias": bias},
        validation_fraction=None,
        use_all_docs=False,
        epochs=5,
        batch_size=30,
        learning_rate=1e-2,
        weight_decay=0.5,
        loss_params={"scale": 10.0},
        random_state=0,
    ).fit([f"q{i}" for i in range(30)], relevant)
    positives = np.zeros((30, 30), dtype=bool)
    for i, documents in enumerate(relevant):
        positives[i, [int(d[1:]) for d in documents]] = True
    expected = numpy_infonce(
        Q, D, positives, np.arange(30), scale=10, lr=1e-2, decay=0.5, steps=5, bias=bias
    )
    weights = finetuner.weights_["query"]
    np.testing.assert_allclose(weights["weight"], expected[0], atol=1e-5)
    assert np.abs(expected[0] - np.eye(24)).max() > 0.02
    if bias:
        np.testing.assert_allclose(weights["bias"], expected[1], atol=1e-5)
    # and `transform` is those weights, in plain numpy
    vectors = unit(Q) @ expected[0].T + (expected[1] if bias else 0)
    np.testing.assert_allclose(
        finetuner.transform([f"q{i}" for i in range(30)]), unit(vectors), atol=1e-5
    )


@pytest.mark.parametrize("side", ["query", "both"])
@pytest.mark.parametrize("negatives", ["batch", "corpus"])
@pytest.mark.parametrize(
    "loss", ["multiple_negatives_ranking", "triplet", "cosine_similarity"]
)
def test_every_loss_learns_a_rotation(rotated, loss, negatives, side):
    queries, documents = rotated
    finetuner = AdapterFinetuner(
        None, loss=loss, negatives=negatives, side=side, learning_rate=6e-3, epochs=25,
        random_state=0, batch_size=32, n_iter_no_change=10,
    ).fit(queries[:180], documents[:180])  # fmt: skip
    before = AdapterFinetuner(
        None, epochs=1, learning_rate=1e-12, validation_fraction=None
    ).fit(queries[:180], documents[:180])
    gain = finetuner.score(queries[180:], documents[180:]) - before.score(
        queries[180:], documents[180:]
    )
    assert gain > 0.05
    assert finetuner.validation_score_ > finetuner.base_score_


def test_side_query_leaves_documents_exactly_as_they_are(rotated):
    queries, documents = rotated
    finetuner = AdapterFinetuner(None, epochs=2).fit(queries, documents)
    assert finetuner.transform_documents(documents).tobytes() == documents.tobytes()
    both = AdapterFinetuner(None, side="both", learning_rate=1e-2, random_state=0)
    both.fit(queries, documents)
    assert not np.allclose(both.transform_documents(documents), documents)
    np.testing.assert_array_equal(
        both.transform(queries), both.transform_documents(queries)
    )


def test_history_and_fitted_attributes(rotated):
    queries, documents = rotated
    finetuner = AdapterFinetuner(
        None,
        negatives="random",
        validation_fraction=0.1,
        epochs=4,
        batch_size=50,
        n_iter_no_change=None,
        random_state=0,
    ).fit(queries, documents)
    history = finetuner.history_
    assert [h["epoch"] for h in history] == [0, 1, 2, 3, 4]
    assert [h["step"] for h in history] == [0, 5, 10, 15, 20]  # 216 pairs, 5 batches
    assert history[0]["loss"] is None and all(h["loss"] > 0 for h in history[1:])
    assert history[0]["ndcg@10"] == finetuner.base_score_
    assert finetuner.validation_score_ == max(h["ndcg@10"] for h in history)
    best = next(h for h in history if h["ndcg@10"] == finetuner.validation_score_)
    assert (finetuner.best_step_, finetuner.best_epoch_) == (
        best["step"],
        best["epoch"],
    )
    assert finetuner.n_iter_ == 20 and finetuner.embedding_dim_ == 24
    assert {"mrr@10", "map@100", "recall@10", "hit_rate@10"} <= set(history[0])


def test_evaluation_steps(rotated):
    finetuner = AdapterFinetuner(
        None,
        negatives="random",
        validation_fraction=0.1,
        epochs=2,
        batch_size=50,
        evaluation_steps=2,
        n_iter_no_change=None,
        interpolation=None,
    ).fit(*rotated)
    steps = [h["step"] for h in finetuner.history_]
    assert steps == [0, 2, 4, 6, 8, 10]


def test_without_validation_scores_are_none(rotated):
    finetuner = AdapterFinetuner(None, epochs=2, validation_fraction=None).fit(*rotated)
    assert finetuner.base_score_ is None and finetuner.validation_score_ is None
    assert finetuner.best_epoch_ == 2.0
    assert finetuner.best_step_ == finetuner.n_iter_ == 4


def test_never_worse_than_the_untouched_model(rotated):
    """Perfect vectors cannot be improved: they are kept, with a warning."""
    _, documents = rotated
    with pytest.warns(UserWarning, match="Training did not help"):
        finetuner = AdapterFinetuner(None, random_state=0, epochs=3).fit(
            documents, documents
        )
    assert finetuner.best_step_ == 0 and finetuner.best_epoch_ == 0.0
    np.testing.assert_array_equal(finetuner.weights_["query"]["weight"], np.eye(24))


def test_huge_learning_rate_never_wins(rotated):
    queries, documents = rotated
    finetuner = AdapterFinetuner(
        None, learning_rate=1e6, weight_decay=1e30, epochs=3, random_state=0
    )
    with pytest.raises(ValueError, match="diverged"):
        finetuner.fit(documents + queries / 100, documents)
    finetuner.set_params(weight_decay=0.0)  # the weights stay finite
    with pytest.raises(ValueError, match="times as large as before training"):
        finetuner.fit(documents + queries / 100, documents)


def test_refit_trains_on_all_pairs_for_the_chosen_epochs(rotated):
    queries, documents = rotated
    options = {
        "negatives": "random",
        "epochs": 6,
        "batch_size": 60,
        "learning_rate": 1e-2,
        "random_state": 0,
    }
    validated = {**options, "validation_fraction": 0.1}
    chosen = AdapterFinetuner(None, **validated).fit(queries, documents)
    part = AdapterFinetuner(None, refit=False, **validated).fit(queries, documents)
    assert chosen.best_epoch_ == part.best_epoch_ > 0
    assert chosen.history_ == part.history_
    whole = AdapterFinetuner(
        None,
        validation_fraction=None,
        **{**options, "epochs": int(chosen.best_epoch_)},
    ).fit(queries, documents)
    distance = {
        name: np.abs(
            other.weights_["query"]["weight"] - chosen.weights_["query"]["weight"]
        ).max()
        for name, other in (("part", part), ("whole", whole))
    }
    # the same number of steps on the same pairs, in another order
    assert distance["whole"] < distance["part"]
    assert chosen.score(queries, documents) >= part.score(queries, documents)


def test_validation_data_win_over_the_fraction(rotated):
    queries, documents = rotated
    finetuner = AdapterFinetuner(None, epochs=2, random_state=0).fit(
        queries[:200],
        documents[:200],
        X_val=queries[200:],
        y_val=documents[200:],
        corpus_val=documents[:50],
    )
    untouched = AdapterFinetuner(
        None, epochs=1, learning_rate=1e-12, validation_fraction=None
    ).fit(queries[:200], documents[:200])
    expected = untouched.score(queries[200:], documents[200:], corpus=documents[:50])
    assert finetuner.base_score_ == pytest.approx(expected, abs=1e-9)


def test_corpus_adds_negatives_and_widens_the_validation_pool(rotated):
    queries, documents = rotated
    options = {"epochs": 2, "random_state": 0, "learning_rate": 1e-3}
    narrow = AdapterFinetuner(None, **options).fit(queries[:100], documents[:100])
    wide = AdapterFinetuner(None, **options).fit(
        queries[:100], documents[:100], corpus=documents[100:]
    )
    assert wide.base_score_ < narrow.base_score_
    assert wide.history_[1]["loss"] > narrow.history_[1]["loss"]


def test_same_seed_same_weights_bit_for_bit(rotated):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    weights = [
        AdapterFinetuner(
            None, epochs=3, batch_size=32, learning_rate=1e-2, random_state=seed
        )
        .fit(*rotated)
        .weights_["query"]["weight"]
        .tobytes()
        for seed in (0, 0, 1)
    ]
    assert weights[0] == weights[1] != weights[2]
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_fit_does_not_change_parameters_and_refits_from_scratch(static_model, pairs):
    finetuner = AdapterFinetuner(static_model, random_state=0, learning_rate=1e-2)
    before = finetuner.get_params()
    first = finetuner.fit(*pairs).weights_["query"]["weight"].copy()
    again = finetuner.fit(*pairs).weights_["query"]["weight"]
    np.testing.assert_array_equal(first, again)
    assert finetuner.get_params() == before
    assert isinstance(finetuner.encoder_, SentenceEncoder)


def test_class_labels_bring_rows_of_a_class_together():
    rng = np.random.RandomState(0)
    labels = np.repeat(["a", "b", "c"], 40)
    signal = rng.normal(size=(3, 12))[np.repeat([0, 1, 2], 40)]
    X = np.hstack([signal * 0.6, rng.normal(size=(120, 12)) * 2])
    finetuner = AdapterFinetuner(
        None, side="both", learning_rate=1e-2, scoring="precision@5", random_state=0
    ).fit(X[::2], labels[::2])
    assert finetuner.validation_score_ > finetuner.base_score_ + 0.1
    column = AdapterFinetuner(
        None, side="both", learning_rate=1e-2, scoring="precision@5", random_state=0
    ).fit(X[::2], labels[::2].reshape(-1, 1))
    np.testing.assert_array_equal(
        finetuner.transform(X), column.transform(X)
    )  # one column of labels is labels
    assert finetuner.score(X[1::2], labels[1::2]) > finetuner.base_score_


def test_an_unfitted_finetuner_as_encoder_is_fitted_first(rotated):
    queries, documents = rotated
    inner = AdapterFinetuner(
        PrecomputedEncoder(
            ([f"q{i}" for i in range(240)], queries),
            ([f"d{i}" for i in range(240)], documents),
        ),
        learning_rate=1e-2,
        random_state=0,
    )
    X, y = [f"q{i}" for i in range(240)], [f"d{i}" for i in range(240)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the inner layer may suffice
        outer = AdapterFinetuner(inner, epochs=1, random_state=0).fit(X, y)
    assert not hasattr(inner, "weights_")
    assert outer.encoder_.weights_ and outer.score(X, y) > 0.5


def test_epochs_are_reported_to_callbacks_which_may_stop(rotated):
    class Watch:
        def __init__(self, stop_after):
            self.stop_after, self.tasks, self.scores = stop_after, [], []

        def setup(self, estimator, context):
            self.tasks.append("setup")

        def teardown(self, estimator, context):
            self.tasks.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            self.tasks.append(context.task_name)
            if context.task_name == "epoch":
                self.scores.append(fitted_estimator.score(X, y))
            return len(self.scores) >= self.stop_after

    watch = Watch(stop_after=3)
    finetuner = AdapterFinetuner(
        None, epochs=10, validation_fraction=None, learning_rate=1e-2
    )
    finetuner.set_callbacks(watch).fit(*rotated)
    assert watch.tasks == ["setup", "epoch", "epoch", "epoch", "fit", "teardown"]
    assert watch.scores[-1] > watch.scores[0]
    assert watch.scores[-1] == finetuner.score(*rotated)
    assert finetuner.best_epoch_ == 3.0


def test_retrieve_gives_indices_into_the_corpus(static_model):
    corpus = ["red1 red2", "old1 old2", "wet1 wet2", "old1 old2"]
    finetuner = AdapterFinetuner(static_model, epochs=1, validation_fraction=None)
    finetuner.fit(["red1", "old1"], ["red1 red2", "old1 old2"])
    indices, scores = finetuner.retrieve(["old1 old2", "wet2 wet1"], corpus, k=3)
    assert indices.shape == scores.shape == (2, 3) and scores.dtype == np.float32
    assert indices[0, :2].tolist() == [1, 3]  # equal documents in the order of corpus
    assert indices[1, 0] == 2
    assert (np.diff(scores, axis=1) <= 0).all()
    assert finetuner.retrieve(["old1"], corpus, k=99)[0].shape == (1, 4)
    with pytest.raises(ValueError, match="k must be a positive whole number"):
        finetuner.retrieve(["old1"], corpus, k=0)


def test_fit_again_with_another_kind_of_encoder(rotated, static_model, pairs):
    finetuner = AdapterFinetuner(None, epochs=1, validation_fraction=None)
    finetuner.fit(*rotated)
    finetuner.set_params(encoder=static_model).fit(*pairs)
    assert finetuner.transform(pairs[0]).shape == (40, 16)
    finetuner.set_params(encoder=None).fit(*rotated)
    assert finetuner.transform(rotated[0]).shape == (240, 24)


def test_a_callback_that_stops_does_not_cut_the_refit(rotated):
    class StopAfter:
        def __init__(self, epochs):
            self.epochs, self.seen = epochs, 0

        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context):
            self.seen += context.task_name == "epoch"
            return self.seen >= self.epochs

    options = {"learning_rate": 1e-3, "n_iter_no_change": None, "random_state": 0}
    stopped = AdapterFinetuner(None, epochs=30, **options)
    stopped.set_callbacks(StopAfter(4)).fit(*rotated)
    planned = AdapterFinetuner(None, epochs=4, **options).fit(*rotated)
    assert stopped.best_epoch_ == planned.best_epoch_ > 1
    np.testing.assert_array_equal(
        stopped.weights_["query"]["weight"], planned.weights_["query"]["weight"]
    )


def test_validation_data_of_their_own_are_not_trained_on(rotated):
    """With X_val nothing was held out of X, so there is nothing to refit."""
    queries, documents = rotated
    options = {"epochs": 3, "learning_rate": 1e-2, "random_state": 0}
    weights = [
        AdapterFinetuner(None, refit=refit, **options)
        .fit(queries[:180], documents[:180], X_val=queries[180:], y_val=documents[180:])
        .weights_["query"]["weight"]
        for refit in (True, False)
    ]
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize("loss", ["triplet", "cosine_similarity"])
def test_most_rows_of_one_class(loss):
    """The few rows of the other class are negatives enough, also after holding out."""
    X = np.random.RandomState(0).normal(size=(60, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for labels, fraction in (([0] * 57 + [1] * 3, 0.1), ([0, 1] * 30, 0.5)):
            finetuner = AdapterFinetuner(
                None, loss=loss, validation_fraction=fraction, epochs=1, random_state=0
            ).fit(X, labels)
            assert finetuner.n_iter_ >= 1


def test_divergence_in_the_last_step_is_an_error(rotated):
    with pytest.raises(ValueError, match="diverged|NaN or infinity"):
        AdapterFinetuner(
            None,
            learning_rate=3e37,
            epochs=2,
            validation_fraction=None,
            batch_size=240,
            weight_decay=1.0,
        ).fit(*rotated)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_vectors_of_extreme_length_mean_their_direction(rotated, scale):
    queries, documents = rotated
    finetuner = AdapterFinetuner(None, epochs=1, validation_fraction=None)
    finetuner.fit(queries, documents)
    np.testing.assert_allclose(
        finetuner.transform(queries.astype(np.float64) * scale),
        finetuner.transform(queries),
        atol=1e-6,
    )
    large = documents * np.float32(scale)  # squares over- or underflow float32
    assert finetuner.score(queries, large) == finetuner.score(queries, documents)


def test_documents_named_in_corpus_stay_in_the_pool(rotated):
    """Held-out queries take their documents along, but not those of `corpus`."""
    queries, documents = rotated
    options = {
        "negatives": "corpus",
        "epochs": 1,
        "refit": False,
        "random_state": 0,
        "learning_rate": 1e-9,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        alone = AdapterFinetuner(None, **options).fit(queries, documents)
        named = AdapterFinetuner(None, **options).fit(
            queries, documents, corpus=documents
        )
    assert named.history_[1]["loss"] > alone.history_[1]["loss"]


class Scaled(torch.nn.Module):
    """A user's module."""

    def __init__(self, dim):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * self.scale


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "linear", "adapter_params": {"bias": True}},
        {"adapter": "linear", "adapter_params": {"output_dim": 5}, "side": "both"},
        {"adapter": "low_rank", "adapter_params": {"rank": 3}},
        {"adapter": "mlp", "adapter_params": {"hidden_dim": 7}, "side": "separate"},
        {"adapter": Scaled},
    ],
)
def test_warm_start_goes_on_from_the_fitted_weights(options):
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(60, 12)).astype(np.float32)
    queries = documents @ rng.normal(size=(12, 12)).astype(np.float32)
    options = {"epochs": 5, "learning_rate": 1e-2, "random_state": 0, **options}
    finetuner = AdapterFinetuner(
        None, warm_start=True, validation_fraction=None, evaluation_steps=1, **options
    ).fit(queries, documents)
    before, losses = finetuner.transform(queries), finetuner.history_[1:]
    finetuner.set_params(learning_rate=1e-12, epochs=1).fit(queries, documents)
    np.testing.assert_allclose(finetuner.transform(queries), before, atol=1e-5)
    assert finetuner.history_[1]["loss"] < losses[-1]["loss"] < losses[0]["loss"]
    cold = clone(finetuner).set_params(learning_rate=1e-2, epochs=5)
    assert cold.fit(queries, documents).history_[1:] == losses


def test_warm_start_of_another_adapter():
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(60, 12))
    finetuner = AdapterFinetuner(None, warm_start=True).fit(documents, documents)
    finetuner.set_params(side="both")
    with pytest.raises(ValueError, match="adapter_params or side have changed since"):
        finetuner.fit(documents, documents)
