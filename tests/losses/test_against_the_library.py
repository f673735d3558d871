"""Losses of EmbeddingFinetuner: the library as the oracle."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses

from skembft import SentenceEncoder
from skembft._losses.table import LOSSES
from tests.embedding.bare_trainer import assert_equal_weights, bare_trainer
from tests.losses.training import N, finetuner, first_loss, mnrl

# of small batches, whose documents conflict
pytestmark = pytest.mark.filterwarnings("ignore:Documents, or relevant ones")


def seeded(make):
    """A maker of losses whose own layers are drawn from the trainer's seed."""

    def seeded_make(model):
        torch.manual_seed(0)
        return make(model)

    return seeded_make


def column_pairs(queries, documents):
    return {"anchor": queries, "positive": documents}, (queries, documents)


def column_triplets(queries, documents):
    others = [f"{d} n{i}" for i, d in enumerate(documents[1:] + documents[:1])]
    columns = {"anchor": queries, "positive": documents, "negative": others}
    return columns, (list(zip(queries, documents, others, strict=True)), None)


def column_labels(queries, documents):
    labels = [(i % 4) / 2 for i in range(40)]
    columns = {"anchor": queries, "positive": documents, "label": labels}
    return columns, (list(zip(queries, documents, strict=True)), labels)


def column_categories(queries, documents):
    columns, data = column_labels(queries, documents)
    return columns | {"label": [i % 4 for i in range(40)]}, data


def column_binary(queries, documents):
    columns, data = column_labels(queries, documents)
    return columns | {"label": [int(i % 4 > 0) for i in range(40)]}, data


def column_texts(queries, documents):
    return {"text": documents}, (queries, documents)


# the other settings of bare_trainer
BARE = {"weight_decay": 0.01, "warmup_ratio": 0.1, "evaluation_steps": 50}


@pytest.mark.parametrize(
    ("loss", "params", "bare", "columns"),
    [
        (
            "multiple_negatives_symmetric_ranking",
            {"scale": 10.0},
            lambda m: losses.MultipleNegativesRankingLoss(
                m,
                scale=10.0,
                directions=("query_to_doc", "doc_to_query"),
                partition_mode="per_direction",
            ),
            column_pairs,
        ),
        (
            "cached_multiple_negatives_ranking",
            {"mini_batch_size": 4},
            lambda m: losses.CachedMultipleNegativesRankingLoss(m, mini_batch_size=4),
            column_triplets,
        ),
        (
            "mega_batch_margin",
            {"mini_batch_size": 3},
            lambda m: losses.MegaBatchMarginLoss(m, mini_batch_size=3),
            column_pairs,
        ),
        ("cosent", {}, losses.CoSENTLoss, column_labels),
        ("angle", {}, losses.AnglELoss, column_labels),
        ("online_contrastive", {}, losses.OnlineContrastiveLoss, column_binary),
        ("contrastive_tension", {}, losses.ContrastiveTensionLoss, column_binary),
        (
            "softmax",
            {"concatenation_sent_multiplication": True},
            seeded(
                lambda m: losses.SoftmaxLoss(
                    m, 32, 4, concatenation_sent_multiplication=True
                )
            ),
            column_categories,
        ),
        (
            "contrastive_tension_in_batch_negatives",
            {},
            losses.ContrastiveTensionLossInBatchNegatives,
            column_texts,
        ),
        (
            "global_orthogonal_regularization",
            {"aggregation": "sum"},
            lambda m: losses.GlobalOrthogonalRegularizationLoss(m, aggregation="sum"),
            column_pairs,
        ),
        (
            "matryoshka",
            {"loss": "triplet", "matryoshka_dims": [32, 8]},
            lambda m: losses.MatryoshkaLoss(
                m, losses.TripletLoss(m, triplet_margin=0.3), [32, 8]
            ),
            column_triplets,
        ),
        (
            "matryoshka2d",
            {"n_layers_per_step": -1, "n_dims_per_step": -1},
            lambda m: losses.Matryoshka2dLoss(
                m, mnrl(m), [32, 16], n_layers_per_step=-1, n_dims_per_step=-1
            ),
            column_pairs,
        ),
        (
            "adaptive_layer",
            {
                "loss": losses.CoSENTLoss,
                "loss_params": {"scale": 10.0},
                "n_layers_per_step": -1,
            },
            lambda m: losses.AdaptiveLayerLoss(
                m, losses.CoSENTLoss(m, scale=10.0), n_layers_per_step=-1
            ),
            column_labels,
        ),
    ],
)
def test_weights_equal_those_of_the_bare_trainer(
    bert_model, pairs, tmp_path, loss, params, bare, columns
):
    """Where a loss draws layers all are taken: the bare trainer draws others."""
    columns, data = columns(*pairs)
    expected = bare_trainer(bert_model, tmp_path, columns, bare, epochs=1)
    fitted = finetuner(bert_model, loss, loss_params=params, **BARE).fit(*data)
    assert_equal_weights(fitted.model_, expected)


@pytest.mark.parametrize("loss", ["gist_embed", "cached_gist_embed"])
def test_the_guide_is_a_model_or_the_base_itself(bert_model, pairs, tmp_path, loss):
    guide = SentenceTransformer(bert_model, device="cpu").eval()
    cls = getattr(losses, LOSSES[loss].class_name)
    columns, data = column_pairs(*pairs)
    bare = bare_trainer(
        bert_model, tmp_path, columns, lambda m: cls(m, guide), epochs=1
    )
    for params in (None, {"guide": bert_model}, {"guide": None}):
        fitted = finetuner(bert_model, loss, loss_params=params, **BARE).fit(*data)
        assert_equal_weights(fitted.model_, bare)


@pytest.mark.parametrize("loss", ["mse", "embed_distill"])
@pytest.mark.parametrize("prompt", [None, "red1 "])
def test_the_target_is_the_untouched_document(
    bert_model, pairs, tmp_path, loss, prompt
):
    columns, data = column_pairs(*pairs)
    base = SentenceTransformer(bert_model, device="cpu")
    targets = base.encode(columns["positive"], prompt=prompt, normalize_embeddings=True)
    expected = bare_trainer(
        bert_model,
        tmp_path,
        columns | {"label": targets.tolist()},
        getattr(losses, LOSSES[loss].class_name),
        prompts=prompt and {"anchor": "", "positive": prompt},
        epochs=1,
    )
    fitted = finetuner(bert_model, loss, document_prompt=prompt, **BARE).fit(*data)
    for name, tensor in fitted.model_.state_dict().items():
        # targets are encoded in batches of other lengths
        torch.testing.assert_close(
            tensor, expected.state_dict()[name], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize(
    "loss",
    [
        "batch_all_triplet",
        "batch_hard_triplet",
        "batch_hard_soft_margin_triplet",
        "batch_semi_hard_triplet",
    ],
)
def test_classes_are_connected_queries_and_documents(static_model, texts, loss):
    """Queries 0 and 1 share a document, as 1 and 2 do: they are of one class."""
    q, d, e = texts
    y = [[d[0], e[0]], [d[1], e[0]], [d[2], d[1]], [d[3]], [e[4]]]
    classes = torch.tensor([0, 0, 0, 1, 2])
    first = [documents[0] for documents in y]
    vectors = SentenceEncoder(static_model).transform([*q[:5], *first])
    spec = LOSSES[loss]
    bare = getattr(losses, spec.class_name)(None, **spec.defaults)
    expected = bare.compute_loss_from_embeddings(
        [torch.from_numpy(vectors)], torch.cat([classes, classes])
    )
    found = first_loss(static_model, loss, data=(q[:5], y))
    assert found == pytest.approx(expected.item(), rel=1e-5)
    # also within a wrapper, and made by a callable
    cls = getattr(losses, spec.class_name)
    wrapped = first_loss(
        static_model,
        "matryoshka",
        loss_params={"loss": loss, "matryoshka_dims": [16]},
        data=(q[:5], y),
    )
    made = first_loss(
        static_model,
        lambda m: losses.MatryoshkaLoss(m, cls(m, **spec.defaults), [16]),
        data=(q[:5], y),
    )
    assert wrapped == pytest.approx(found, rel=1e-5)
    assert made == wrapped


@pytest.mark.parametrize("loss", ["margin_mse", "distill_kl_div"])
def test_grades_are_teacher_scores(static_model, texts, loss):
    """Of two documents of a query both orders are examples."""
    q, d, e = texts
    scores = np.random.RandomState(0).uniform(-1, 1, size=(N, 2)).astype(np.float32)
    scores[:, 0] += 1.5
    y = [{d[i]: float(a), e[i]: float(b)} for i, (a, b) in enumerate(scores)]
    Q, D, E = (
        torch.from_numpy(SentenceEncoder(static_model).transform(t)) for t in texts
    )
    teacher = torch.from_numpy(np.concatenate([scores, scores[:, ::-1]]))
    expected = getattr(losses, LOSSES[loss].class_name)(
        None
    ).compute_loss_from_embeddings(
        [torch.cat([Q, Q]), torch.cat([D, E]), torch.cat([E, D])], teacher
    )
    found = first_loss(static_model, loss, data=(q, y))
    assert found == pytest.approx(expected.item(), rel=1e-5)
