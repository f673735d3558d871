"""Kinds of adapters, sides and solvers: plain numpy or torch as the oracle."""

import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import norm
from sklearn.base import clone
from torch import nn

from skembft import AdapterFinetuner, PrecomputedEncoder

pytestmark = pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
QUICK = {"epochs": 3, "validation_fraction": None, "learning_rate": 1e-2}


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class Tower(nn.Module):
    """A user's own adapter: it has dropout and does not start at the identity."""

    def __init__(self, dim, out=None, dropout=0.1):
        super().__init__()
        self.linear = nn.Linear(dim, out or dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.linear(x))


ADAPTERS = [
    ("linear", {"bias": True}),
    ("low_rank", {"rank": 8}),
    ("mlp", {"hidden_dim": 32}),
    ("mlp", {"activation": "gelu"}),
    (Tower, {"dropout": 0.2}),
]


@pytest.mark.parametrize("side", ["query", "both", "separate"])
@pytest.mark.parametrize("adapter, params", ADAPTERS, ids=str)
def test_every_adapter_learns_on_every_side(rotated, adapter, params, side):
    queries, documents = rotated
    finetuner = AdapterFinetuner(
        None, adapter=adapter, adapter_params=params, side=side, learning_rate=1e-2,
        epochs=25, batch_size=32, random_state=0, weight_decay=1.0,
        negatives="batch", validation_fraction=None,
    ).fit(queries[:180], documents[:180])  # fmt: skip
    untouched = unit(queries[180:]), unit(documents[180:])
    base = np.argsort(-(untouched[0] @ untouched[1].T), axis=1)[:, :5]
    base = (base == np.arange(60)[:, None]).any(axis=1).mean()
    finetuner.set_params(scoring="recall@5")
    assert finetuner.score(queries[180:], documents[180:]) > base + 0.1
    same = np.array_equal(finetuner.transform_documents(documents[:5]), documents[:5])
    assert same == (side == "query")
    shared = np.allclose(
        finetuner.transform(queries[:5]), finetuner.transform_documents(queries[:5])
    )
    assert shared == (side == "both")


@pytest.mark.parametrize("adapter", ["linear", "low_rank", "mlp"])
def test_adapters_start_at_the_identity(rotated, adapter):
    finetuner = AdapterFinetuner(
        None, adapter=adapter, **{**QUICK, "learning_rate": 1e-30}
    ).fit(*rotated)
    np.testing.assert_allclose(
        finetuner.transform(rotated[0]), unit(rotated[0]), atol=1e-6
    )


@pytest.mark.parametrize(
    "activation, function",
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("gelu", lambda x: x * norm.cdf(x)),
        ("silu", lambda x: x * expit(x)),
    ],
)
def test_mlp_is_its_formula(rotated, activation, function):
    """Trained by torch, applied by numpy: the formula is one."""
    finetuner = AdapterFinetuner(
        None, adapter="mlp", adapter_params={"activation": activation}, **QUICK
    ).fit(*rotated)
    w = finetuner.weights_["query"]
    x = unit(rotated[0]).astype(np.float64)
    hidden = function(x @ w["weight_1"].T + w["bias_1"])
    expected = unit(x + hidden @ w["weight_2"].T + w["bias_2"])
    np.testing.assert_allclose(finetuner.transform(rotated[0]), expected, atol=1e-5)
    assert np.abs(w["weight_2"]).max() > 1e-3
    with torch.no_grad():
        torch_layer = getattr(torch.nn.functional, activation)
        again = torch_layer(torch.from_numpy(x @ w["weight_1"].T + w["bias_1"]))
    np.testing.assert_allclose(again.numpy(), hidden, atol=1e-6)


def test_low_rank_changes_so_many_directions(rotated):
    finetuner = AdapterFinetuner(
        None, adapter="low_rank", adapter_params={"rank": 3}, **QUICK
    ).fit(*rotated)
    change = finetuner.weights_["query"]["weight"] - np.eye(24)
    values = np.linalg.svd(change, compute_uv=False)
    assert values[2] > 1e-3 and values[3] < 1e-5


@pytest.mark.parametrize("side", ["both", "separate"])
def test_output_dim_starts_at_principal_directions(rotated, side):
    queries, documents = rotated
    finetuner = AdapterFinetuner(
        None,
        side=side,
        adapter_params={"output_dim": 6},
        **{**QUICK, "learning_rate": 1e-30},
    ).fit(queries, documents)
    assert finetuner.embedding_dim_ == 6
    assert finetuner.transform(queries).shape == (240, 6)
    assert finetuner.transform_documents(documents).shape == (240, 6)
    assert len(finetuner.get_feature_names_out()) == 6
    stacked = np.concatenate([unit(queries), unit(documents)])
    _, _, directions = np.linalg.svd(stacked, full_matrices=False)
    expected = unit(queries) @ directions[:6].T
    expected = unit(expected) @ unit(expected).T  # signs are free
    vectors = finetuner.transform(queries)
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-4)


def test_training_a_projection_beats_its_start(rotated):
    queries, documents = rotated
    finetuner = AdapterFinetuner(
        None, side="separate", adapter_params={"output_dim": 12}, learning_rate=5e-3,
        epochs=60, batch_size=32, random_state=0,
    ).fit(queries, documents)  # fmt: skip
    assert finetuner.validation_score_ > finetuner.base_score_ + 0.1


def test_sides_have_their_own_weights(rotated):
    separate = AdapterFinetuner(None, side="separate", **QUICK).fit(*rotated)
    both = AdapterFinetuner(None, side="both", **QUICK).fit(*rotated)
    weights = [separate.weights_[side]["weight"] for side in ("query", "document")]
    assert not np.allclose(*weights)
    assert both.weights_["query"] is both.weights_["document"]
    assert set(AdapterFinetuner(None, **QUICK).fit(*rotated).weights_) == {"query"}


# ---- a module of the user's


def test_a_module_is_applied_as_torch_would(rotated):
    finetuner = AdapterFinetuner(None, adapter=Tower, random_state=0, **QUICK).fit(
        *rotated
    )
    weights = finetuner.weights_["query"]
    assert {name: type(v) for name, v in weights.items()} == {
        "linear.weight": np.ndarray,
        "linear.bias": np.ndarray,
    }
    expected = unit(rotated[0]) @ weights["linear.weight"].T + weights["linear.bias"]
    vectors = finetuner.transform(rotated[0])
    np.testing.assert_allclose(vectors, unit(expected), atol=1e-5)
    loaded = pickle.loads(pickle.dumps(finetuner))
    np.testing.assert_array_equal(loaded.transform(rotated[0]), vectors)
    assert b"torch" not in pickle.dumps(finetuner).replace(b"torch.nn.modules", b"")


def test_a_module_may_be_one_of_torchs(rotated):
    finetuner = AdapterFinetuner(
        None, adapter=nn.Linear, adapter_params={"out_features": 24}, **QUICK
    ).fit(*rotated)
    assert finetuner.transform(rotated[0]).shape == (240, 24)


def test_a_module_that_does_not_help_gives_way_to_the_untouched_vectors(rotated):
    """It starts anywhere, so the untouched vectors are those without it."""
    _, documents = rotated
    with pytest.warns(UserWarning, match="Training did not help"):
        finetuner = AdapterFinetuner(None, adapter=Tower, epochs=2, random_state=0).fit(
            documents, documents
        )
    assert finetuner.best_step_ == 0 and finetuner.base_score_ == 1.0
    assert finetuner.weights_ == {"query": {}}
    np.testing.assert_allclose(
        finetuner.transform(documents), unit(documents), atol=1e-6
    )


def test_a_module_is_seeded_and_leaves_the_global_state(rotated):
    state = torch.get_rng_state()
    first, second, third = (
        AdapterFinetuner(None, adapter=Tower, random_state=seed, **QUICK)
        .fit(*rotated)
        .transform(rotated[0])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, third)
    assert torch.equal(state, torch.get_rng_state())
    finetuner = AdapterFinetuner(None, adapter=Tower)
    assert clone(finetuner).adapter is Tower


class Flat(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, 1)

    def forward(self, x):
        return self.linear(x)[:, 0]


class Nothing(nn.Module):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    "options, message",
    [
        ({"adapter": Flat}, r"adapter=Flat gave Tensor of shape \(2,\)"),
        ({"adapter": Nothing}, "adapter=Nothing has no parameters to train"),
        (
            {"adapter": Tower, "adapter_params": {"out": 8}},
            "adapter=Tower makes vectors of 8 dimensions, the documents have 24",
        ),
        (
            {"adapter": Tower, "adapter_params": {"width": 8}},
            r"Tower\(dimension, \*\*adapter_params\).*unexpected keyword",
        ),
        ({"adapter_params": {"bias": "no"}}, "The 'bias' parameter of adapter_params"),
        ({"adapter": dict}, "adapter=dict is not a subclass of torch.nn.Module"),
        ({"adapter_params": {"rank": 3}}, "Valid names: 'bias', 'output_dim'"),
        ({"adapter": "low_rank", "adapter_params": {"rank": 0}}, "The 'rank' param"),
        (
            {"adapter": "mlp", "adapter_params": {"activation": "tanh"}},
            "The 'activation' parameter of adapter_params",
        ),
        ({"adapter_params": {"output_dim": 8}}, "use side='both' or 'separate'"),
        (
            {"adapter_params": {"output_dim": 25}, "side": "both"},
            "output_dim=25 is more than the 24 dimensions",
        ),
        ({"adapter_params": {"ridge": 1.0}}, "Valid names: 'bias', 'output_dim'"),
        (
            {"solver": "closed_form", "adapter_params": {"ridge": 0}},
            "The 'ridge' parameter of adapter_params",
        ),
        ({"solver": "closed_form", "side": "both"}, "goes with adapter='linear'"),
        ({"solver": "closed_form", "adapter": "mlp"}, "goes with adapter='linear'"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be(rotated, options, message):
    with pytest.raises(ValueError, match=message):
        AdapterFinetuner(None, **QUICK, **options).fit(*rotated)


def test_an_mlp_where_custom_modules_have_batch_norm(rotated):
    class Normed(nn.Sequential):
        def __init__(self, dim):
            super().__init__(nn.Linear(dim, dim), nn.BatchNorm1d(dim))

    finetuner = AdapterFinetuner(None, adapter=Normed, random_state=0, **QUICK)
    finetuner.fit(*rotated)
    one_by_one = np.concatenate([finetuner.transform(q[None]) for q in rotated[0][:9]])
    np.testing.assert_allclose(
        one_by_one, finetuner.transform(rotated[0])[:9], atol=1e-5
    )  # running statistics, not those of the batch


# ---- closed form


def test_closed_form_is_ridge_toward_the_identity(rotated):
    """Against the normal equations of the augmented least-squares problem."""
    queries, documents = (v[:60] for v in rotated)
    finetuner = AdapterFinetuner(
        None,
        solver="closed_form",
        adapter_params={"ridge": 0.3},
        validation_fraction=None,
    ).fit(queries, documents)
    Q, D = unit(queries.astype(np.float64)), unit(documents.astype(np.float64))
    left = np.vstack([Q, np.sqrt(0.3 * 60) * np.eye(24)])
    right = np.vstack([D, np.sqrt(0.3 * 60) * np.eye(24)])
    expected = np.linalg.lstsq(left, right, rcond=None)[0].T
    weight = finetuner.weights_["query"]["weight"]
    np.testing.assert_allclose(weight, expected, atol=1e-5)
    loss = np.square(Q @ expected.T - D).sum(axis=1).mean()
    assert finetuner.history_[-1]["loss"] == pytest.approx(loss, abs=1e-6)
    assert finetuner.n_iter_ == 1


def test_closed_form_tells_what_it_has_no_use_for(rotated, recwarn):
    queries, documents = rotated
    ridge = AdapterFinetuner(
        None, solver="closed_form", epochs=3, learning_rate=0.1, random_state=0
    )
    with pytest.warns(UserWarning, match="makes no use of epochs, learning_rate:"):
        ridge.fit(queries, documents)
    recwarn.clear()
    AdapterFinetuner(None, solver="closed_form", scoring="mrr@10").fit(
        queries, documents
    )
    assert not [w for w in recwarn if "no use" in str(w.message)]


def test_closed_form_validates_and_refits(rotated):
    queries, documents = rotated
    finetuner = AdapterFinetuner(None, solver="closed_form", random_state=0)
    finetuner.fit(queries, documents)
    assert finetuner.validation_score_ > finetuner.base_score_ + 0.1
    whole = AdapterFinetuner(None, solver="closed_form", validation_fraction=None).fit(
        queries, documents
    )
    np.testing.assert_array_equal(
        finetuner.weights_["query"]["weight"], whole.weights_["query"]["weight"]
    )
    with pytest.warns(UserWarning, match="Training did not help"):
        kept = AdapterFinetuner(None, solver="closed_form", random_state=0)
        kept.fit(documents, documents)
    np.testing.assert_array_equal(kept.weights_["query"]["weight"], np.eye(24))


# ---- negatives


@pytest.mark.parametrize("loss", ["multiple_negatives_ranking", "triplet"])
@pytest.mark.parametrize("negatives", ["batch", "random", "hard", "corpus"])
def test_a_known_positive_is_never_a_negative(rotated, loss, negatives, monkeypatch):
    """Twins: two copies of every document are both relevant, one of them named first.

    Were the twin a negative, its score would have to fall below that of its equal.
    """
    queries, documents = (v[:40] for v in rotated)
    encoder = PrecomputedEncoder(
        ([f"q{i}" for i in range(40)], queries),
        (
            [f"d{i}" for i in range(40)] + [f"twin{i}" for i in range(40)],
            np.concatenate([documents, documents]),
        ),
    )
    from skembft._adapter import training

    used = []
    unit_rows = training.UnitRows.__getitem__
    finetuner = AdapterFinetuner(
        encoder, loss=loss, negatives=negatives, batch_size=8, use_all_docs=False,
        epochs=4, validation_fraction=None, random_state=0, learning_rate=1e-3,
    )  # fmt: skip
    y = [[f"d{i}", f"twin{i}"] for i in range(40)]
    if loss == "triplet":
        triplets = training.make_loss

        def watched(trainer, encoded):
            data = encoded.data
            draw = type(data).negatives

            def negatives_of(self, query, count, rng):
                out = draw(self, query, count, rng)
                used.append((np.repeat(query, count), out.ravel()))
                return out

            monkeypatch.setattr(type(data), "negatives", negatives_of)
            return triplets(trainer, encoded)

        monkeypatch.setattr(training, "make_loss", watched)
        finetuner.fit([f"q{i}" for i in range(40)], y)
        assert used
        for query, document in used:
            # documents are numbered d0, twin0, d1, twin1, …
            assert not (document // 2 == query).any()
    else:
        finetuner.fit([f"q{i}" for i in range(40)], y)
        # a twin in the denominator would keep the loss above log 2
        long = clone(finetuner).set_params(
            epochs=60, learning_rate=1e-2, weight_decay=0.0
        )
        long.fit([f"q{i}" for i in range(40)], y)
        assert long.history_[-1]["loss"] < 0.3
    assert unit_rows is training.UnitRows.__getitem__


def test_hard_negatives_are_the_nearest_wrong_documents(rotated):
    from skembft._data.encoded import EncodedData
    from skembft._data.vectors import check_vector_data
    from skembft.mining._candidates import with_mined_negatives

    queries, documents = rotated
    data = check_vector_data(queries, documents, None, "")
    mined = with_mined_negatives(EncodedData(data, queries, documents)).data
    cosine = unit(queries) @ unit(documents).T
    own = np.diag(cosine)
    for i, row in enumerate(cosine):
        allowed = np.flatnonzero(row <= own[i] - 0.05 * abs(own[i]))
        allowed = allowed[allowed != i]
        expected = allowed[np.argsort(-row[allowed])][:5]
        assert set(mined.relevance.negative[[i]].indices) == set(expected)


def test_hard_negatives_come_from_what_training_may_see(rotated):
    """Not from documents that only held-out queries name."""
    queries, documents = rotated
    from skembft._adapter import training

    seen = []
    mine = training.with_mined_negatives

    def watched(encoded):
        out = mine(encoded)
        seen.append((encoded.data.pool, out.data.relevance.negative.indices))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "with_mined_negatives", watched)
        AdapterFinetuner(None, negatives="hard", epochs=2, random_state=0).fit(
            queries, documents
        )
    assert len(seen) >= 1 and len(seen[0][0]) == 192
    for pool, negatives in seen:
        assert len(negatives) and np.isin(negatives, pool).all()


def test_hard_negatives_of_classes():
    X = np.random.RandomState(0).normal(size=(60, 6))
    labels = np.arange(60) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        finetuner = AdapterFinetuner(
            None, negatives="hard", loss="triplet", side="both", epochs=3
        ).fit(X, labels)
    assert finetuner.n_iter_ >= 1


# ---- batches


def test_a_batch_holds_all_pairs_of_its_queries():
    """Sizes are counted in queries, and every epoch sees every pair once."""
    from skembft._adapter import training

    rng = np.random.RandomState(0)
    ids = [f"d{i}" for i in range(50)]
    encoder = PrecomputedEncoder(
        ([f"q{i}" for i in range(20)], rng.normal(size=(20, 4))),
        (ids, rng.normal(size=(50, 4))),
    )
    y = [list(rng.choice(ids, size=1 + i % 7, replace=False)) for i in range(20)]
    batches = []
    step = training.AdapterTraining._step

    def watched(self, batch):
        batches.append(batch)
        return step(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.AdapterTraining, "_step", watched)
        AdapterFinetuner(encoder, batch_size=6, epochs=2, validation_fraction=None).fit(
            [f"q{i}" for i in range(20)], y
        )
    assert [len(np.unique(b[0])) for b in batches] == [5] * 8
    for epoch in (batches[:4], batches[4:]):
        pairs = np.concatenate([np.column_stack(b) for b in epoch])
        assert len(pairs) == len(np.unique(pairs, axis=0)) == sum(map(len, y))


@pytest.mark.parametrize("adapter, params", ADAPTERS[:4])  # the others' are torch's
def test_vectors_are_adapted_in_portions(adapter, params):
    """Memory is that of the result; rows are the same in any company."""
    rng = np.random.RandomState(0)
    X = rng.standard_normal((400_000, 16)).astype(np.float32)
    finetuner = AdapterFinetuner(
        None, adapter=adapter, adapter_params=params, side="both", **QUICK
    )
    finetuner.fit(X[:60], X[60:120])
    finetuner.transform_documents(X)  # imports torch
    tracemalloc.start()
    try:
        whole = finetuner.transform_documents(X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    portion = 16384 * 4 * (2 * 32 + 3 * 16)  # of the hidden layer, and of vectors
    assert peak < X.nbytes + 2 * portion
    some = np.r_[0:3, 16383:16386, 399_997:400_000]
    np.testing.assert_allclose(
        whole[some], finetuner.transform_documents(X[some]), atol=1e-6
    )
