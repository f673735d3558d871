"""Losses of adapters: training by Sentence Transformers' own classes as the oracle."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer import losses

from skembft import AdapterFinetuner, PrecomputedEncoder
from skembft._losses.table import LOSSES, VECTOR_LOSSES

N, DIM, STEPS, RATE = 24, 12, 6, 1e-2


@pytest.fixture(scope="module")
def vectors():
    """Unit vectors of queries q0, q1, … and documents d0, d1, …, negatives n0, …"""
    rng = np.random.RandomState(0)
    documents = rng.normal(size=(2 * N, DIM))
    queries = documents[:N] @ rng.normal(size=(DIM, DIM)) / 2 + documents[:N]
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents)]
    return [v.astype(np.float32) for v in unit]


@pytest.fixture(scope="module")
def encoder(vectors):
    names = [f"d{i}" for i in range(N)] + [f"n{i}" for i in range(N)]
    return PrecomputedEncoder(
        ([f"q{i}" for i in range(N)], vectors[0]), (names, vectors[1])
    )


PAIRS = [(f"q{i}", f"d{i}") for i in range(N)]
TRIPLETS = [(f"q{i}", f"d{i}", f"n{i}") for i in range(N)]
OPTIONS = {
    "epochs": STEPS,
    "learning_rate": RATE,
    "weight_decay": 0.0,
    "batch_size": 10_000,
    "validation_fraction": None,
    "random_state": 0,
}


def trained(encoder, X, y=None, **options):
    finetuner = AdapterFinetuner(encoder, **{**OPTIONS, **options}).fit(X, y)
    assert finetuner.n_iter_ == STEPS
    return finetuner.weights_["query"]["weight"]


def reference(compute_loss, queries):
    """Weights after some steps of AdamW on `compute_loss(adapted queries)`."""
    queries = torch.from_numpy(np.array(queries))
    delta = torch.zeros(DIM, DIM, requires_grad=True)
    optimizer = torch.optim.AdamW([delta], lr=RATE, weight_decay=0.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = compute_loss(F.normalize(queries + queries @ delta.T, dim=1))
        (sum(loss.values()) if isinstance(loss, dict) else loss).backward()
        optimizer.step()
    weight = np.eye(DIM) + delta.detach().numpy()
    assert np.abs(weight - np.eye(DIM)).max() > RATE  # it has moved
    return weight


ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


@pytest.mark.parametrize(
    "params",
    [
        {"scale": 10.0},
        {"directions": ALL},
        {"directions": ("query_to_doc", "doc_to_query"), "scale": 30.0},
        {
            "directions": ("query_to_doc", "doc_to_query"),
            "partition_mode": "per_direction",
        },
        {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0},
        {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
        {
            "hardness_mode": "all_negatives",
            "hardness_strength": 3.0,
            "directions": ALL,
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("X", [PAIRS, TRIPLETS], ids=["pairs", "triplets"])
def test_infonce_options_equal_the_library(encoder, vectors, X, params):
    """Distinct queries and documents: nothing is masked, so the values are the same."""
    queries, documents = vectors
    documents = [torch.from_numpy(documents[:N]), torch.from_numpy(documents[N:])]
    loss = losses.MultipleNegativesRankingLoss(None, **params)
    expected = reference(
        lambda q: loss.compute_loss_from_embeddings(
            [q, *documents[: len(X[0]) - 1]], None
        ),
        queries,
    )
    weight = trained(encoder, X, negatives="batch", loss_params=params)
    np.testing.assert_allclose(weight, expected, atol=2e-5)


def test_symmetric_loss_is_an_alias(encoder):
    by_name = trained(
        encoder, PAIRS, negatives="batch", loss="multiple_negatives_symmetric_ranking"
    )
    by_class = trained(
        encoder,
        PAIRS,
        negatives="batch",
        loss=losses.MultipleNegativesSymmetricRankingLoss,
    )
    by_options = trained(
        encoder,
        PAIRS,
        negatives="batch",
        loss_params={
            "directions": ("query_to_doc", "doc_to_query"),
            "partition_mode": "per_direction",
        },
    )
    np.testing.assert_array_equal(by_name, by_options)
    np.testing.assert_array_equal(by_name, by_class)


LABELLED = ["cosine_similarity", "cosent", "angle", "contrastive", "online_contrastive"]


@pytest.mark.parametrize("loss", LABELLED)
def test_losses_of_labelled_pairs_equal_the_library(encoder, vectors, loss):
    queries, documents = vectors
    X = [(f"q{i}", name) for i in range(N) for name in (f"d{i}", f"n{i}")]
    labels = np.tile([1.0, 0.0], N)
    index = np.repeat(np.arange(N), 2)
    other = torch.from_numpy(np.stack([documents[:N], documents[N:]], 1)).reshape(
        2 * N, DIM
    )
    module = getattr(losses, LOSSES[loss].class_name)(None)
    target = torch.from_numpy(labels).float()
    expected = reference(
        lambda q: module.compute_loss_from_embeddings([q[index], other], target),
        queries,
    )
    np.testing.assert_allclose(
        trained(encoder, X, labels, loss=loss), expected, atol=2e-5
    )


def test_triplet_loss_equals_the_library(encoder, vectors):
    queries, documents = vectors
    positive, negative = (
        torch.from_numpy(documents[:N]),
        torch.from_numpy(documents[N:]),
    )
    module = losses.TripletLoss(None, triplet_margin=0.7)
    expected = reference(
        lambda q: module.compute_loss_from_embeddings([q, positive, negative], None),
        queries,
    )
    weight = trained(
        encoder, TRIPLETS, loss="triplet", loss_params={"triplet_margin": 0.7}
    )
    np.testing.assert_allclose(weight, expected, atol=2e-5)


@pytest.mark.parametrize(
    "loss", ["mse", "embed_distill", "global_orthogonal_regularization"]
)
def test_losses_of_pairs_equal_the_library(encoder, vectors, loss):
    queries, documents = vectors
    positive = torch.from_numpy(documents[:N])
    module = getattr(losses, LOSSES[loss].class_name)(None)

    def compute(q):
        if loss == "global_orthogonal_regularization":
            return module.compute_loss_from_embeddings([q, positive], None)
        return module.compute_loss_from_embeddings([q], [positive])

    weight = trained(encoder, PAIRS, loss=loss)
    np.testing.assert_allclose(weight, reference(compute, queries), atol=2e-5)


@pytest.mark.parametrize("loss", ["margin_mse", "distill_kl_div"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # the library's, on teacher scores
def test_losses_of_teacher_scores_equal_the_library(encoder, vectors, loss):
    """Grades are the scores; both orders of a query's two documents are examples."""
    queries, documents = vectors
    scores = np.random.RandomState(1).uniform(0, 5, size=(N, 2))
    y = [{f"d{i}": a, f"n{i}": b} for i, (a, b) in enumerate(scores)]
    first = torch.from_numpy(np.concatenate([documents[:N], documents[N:]]))
    second = torch.from_numpy(np.concatenate([documents[N:], documents[:N]]))
    teacher = torch.from_numpy(np.concatenate([scores, scores[:, ::-1]])).float()
    module = getattr(losses, LOSSES[loss].class_name)(None)
    expected = reference(
        lambda q: module.compute_loss_from_embeddings(
            [torch.cat([q, q]), first, second], teacher
        ),
        queries,
    )
    weight = trained(encoder, [f"q{i}" for i in range(N)], y, loss=loss)
    np.testing.assert_allclose(weight, expected, atol=2e-5)


CLASSES = [name for name, spec in LOSSES.items() if spec.needs == "classes"]


@pytest.mark.parametrize("loss", CLASSES)
def test_losses_of_classes_equal_the_library(vectors, loss):
    queries, _ = vectors
    labels = np.arange(N) % 4
    spec = LOSSES[loss]
    module = getattr(losses, spec.class_name)(None, **spec.defaults)
    expected = reference(
        lambda q: module.compute_loss_from_embeddings([q], torch.from_numpy(labels)),
        queries,
    )
    weight = trained(None, queries, labels, loss=loss, side="both")
    np.testing.assert_allclose(weight, expected, atol=2e-5)


def test_every_loss_on_embeddings_is_supported():
    """The library's losses with `compute_loss_from_embeddings`, all of them."""
    on_embeddings = {
        name
        for name in losses.__all__
        if hasattr(getattr(losses, name), "compute_loss_from_embeddings")
    }
    assert on_embeddings == {LOSSES[name].class_name for name in VECTOR_LOSSES}


def test_corpus_larger_than_a_batch_of_candidates_is_sampled(
    encoder, vectors, monkeypatch
):
    """Drawn denominators: known positives stay out, and training still learns."""
    from skembft._adapter import losses
    from skembft._losses import infonce

    monkeypatch.setattr(losses, "MAX_CANDIDATES", 16)
    y = [[f"d{i}", f"d{(i + 1) % N}"] for i in range(N)]
    X = [f"q{i}" for i in range(N)]
    corpus = [f"n{i}" for i in range(N)]
    seen = []
    candidates = infonce.InfoNCE._candidates

    def watched(self, query_index, *pairs):
        columns = candidates(self, query_index, *pairs)
        seen.append(len(columns))
        return columns

    monkeypatch.setattr(infonce.InfoNCE, "_candidates", watched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        finetuner = AdapterFinetuner(
            encoder,
            batch_size=4,
            epochs=30,
            learning_rate=1e-2,
            weight_decay=0.0,
            validation_fraction=None,
            random_state=0,
        ).fit(X, y, corpus=corpus)
    assert max(seen) <= 16 + 8 and len(set(seen)) > 1
    base = AdapterFinetuner(
        encoder, learning_rate=1e-12, epochs=1, validation_fraction=None
    ).fit(X, y)
    assert finetuner.score(X, y, corpus=corpus) > base.score(X, y, corpus=corpus) + 0.05


def test_a_loss_that_its_data_cannot_feed_is_an_error_before_training(encoder):
    X, y = [q for q, _ in PAIRS], [d for _, d in PAIRS]
    for loss in CLASSES:
        with pytest.raises(ValueError, match="learns from class labels"):
            AdapterFinetuner(encoder, loss=loss).fit(X, y)
    for loss in ("margin_mse", "distill_kl_div"):
        with pytest.raises(ValueError, match="teacher scores"):
            AdapterFinetuner(encoder, loss=loss).fit(X, y)
        with pytest.raises(ValueError, match="teacher scores"):
            AdapterFinetuner(None, loss=loss).fit(np.eye(6), [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    "params, message",
    [
        ({"scale": 0}, "scale of the loss must be a positive number"),
        ({"scale": "20"}, "scale of the loss"),
        ({"temperature": 0.05}, "Valid names: 'scale'"),
        ({"directions": ("doc_to_query",)}, "'query_to_doc' being one of them"),
        ({"directions": "query_to_doc"}, "directions must be a tuple"),
        ({"partition_mode": "split"}, "partition_mode must be one of"),
        ({"hardness_mode": "hard"}, "hardness_mode must be one of"),
        ({"hardness_strength": -1}, "hardness_strength of the loss"),
        (
            {"directions": ALL, "partition_mode": "per_direction"},
            "does not go with",
        ),
    ],
)
def test_bad_options_of_infonce(params, message):
    with pytest.raises(ValueError, match=message):
        AdapterFinetuner(None, loss_params=params).fit(np.eye(4), [0, 0, 1, 1])


@pytest.mark.parametrize("loss", CLASSES)
def test_losses_of_classes_with_rows_held_out(loss):
    """Rows keep their numbers when others are held out."""
    rng = np.random.RandomState(0)
    labels = np.arange(100) % 5
    X = rng.normal(size=(5, 8))[labels] + rng.normal(size=(100, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        finetuner = AdapterFinetuner(
            None, loss=loss, side="both", epochs=20, random_state=0
        ).fit(X, labels)
        untouched = finetuner.history_[0]["ndcg@10"]
        assert finetuner.validation_score_ > untouched - 1e-9
    losses = [e["loss"] for e in finetuner.history_[1:] if e["loss"] is not None]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "directions", [("query_to_doc", "query_to_query"), ("query_to_doc", "doc_to_query")]
)
def test_rows_of_one_class_do_not_compete(directions):
    """A batch of one class only: whichever direction, nothing may be a negative."""
    X = np.random.RandomState(0).normal(size=(8, 4))
    finetuner = AdapterFinetuner(
        None,
        loss_params={"directions": directions, "partition_mode": "joint"},
        negatives="batch",
        batch_size=4,
        epochs=1,
        validation_fraction=None,
    )
    from skembft._losses import infonce

    losses_seen = []
    call = infonce.InfoNCE.__call__

    def watched(self, query, document, embed):
        loss = call(self, query, document, embed)
        labels = self.data.relevance.labels
        if len(set(labels[query])) == 1:
            losses_seen.append(loss.item())
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infonce.InfoNCE, "__call__", watched)
        for seed in range(12):  # some batches are of one class
            finetuner.set_params(random_state=seed, batch_size=2).fit(
                X, [0, 0, 0, 0, 1, 1, 1, 1]
            )
    assert losses_seen
    # the pair itself is once more among the candidates of the other direction
    limit = 1e-6 if "query_to_query" in directions else np.log(2) + 1e-6
    assert max(losses_seen) <= limit


def test_a_subclass_of_a_loss_that_is_computed_here_is_refused():
    class Mine(losses.MultipleNegativesRankingLoss):
        pass

    with pytest.raises(ValueError, match="what the subclass changes would be lost"):
        AdapterFinetuner(None, loss=Mine).fit(np.eye(4), [0, 0, 1, 1])


def test_the_highest_of_several_grades_counts(encoder):
    """Repeated rows of a pair: a known positive is never pushed away."""
    X = [("q0", "d0"), ("q0", "d0"), ("q1", "d1"), ("q1", "n1")]
    labelled = trained(encoder, X, [1, 0, 1, 0], loss="cosine_similarity")
    merged = trained(encoder, X, [1, 1, 1, 0], loss="cosine_similarity")
    np.testing.assert_array_equal(labelled, merged)


def test_the_closed_form_needs_no_loss(encoder):
    options = {"solver": "closed_form", "validation_fraction": None}
    X, y = [q for q, _ in PAIRS], [d for _, d in PAIRS]
    plain = AdapterFinetuner(encoder, **options).fit(X, y)
    odd = AdapterFinetuner(
        encoder, loss="batch_hard_triplet", negatives="hard", **options
    ).fit(X, y)
    np.testing.assert_array_equal(
        plain.weights_["query"]["weight"], odd.weights_["query"]["weight"]
    )
