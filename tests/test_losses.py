"""Losses of EmbeddingFinetuner: what each learns from, and the library as oracle."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.utils._param_validation import InvalidParameterError
from test_embedding import assert_equal_weights, bare_trainer

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft._losses.table import ADAPTER_LOSSES, LOSSES

N = 8

# the forms of data: eight queries, each with two relevant documents of its own


def documents(q, d, e):
    return q, d


def lists(q, d, e):
    return q, [list(pair) for pair in zip(d, e, strict=True)]


def grades(q, d, e):
    return q, [{d[i]: 3, e[i]: 1, d[i - 1]: 0, e[i - 2]: -1} for i in range(N)]


def pairs_table(q, d, e):
    return list(zip(q, d, strict=True)), None


def binary_labels(q, d, e):
    return [(q[i], d[j]) for i in range(N) for j in (i, i - 1)], [1, 0] * N


def similarities(q, d, e):
    rows = [(q[i], text) for i in range(N) for text in (d[i], e[i], d[i - 1])]
    return rows, [0.9, 0.4, -0.1] * N


def triplets(q, d, e):
    return [(q[i], d[i], d[i - 1]) for i in range(N)], None


def tuples(q, d, e):
    return [(q[i], d[i], d[i - 1], e[i - 2], e[i - 3]) for i in range(N)], None


FORMS = {
    form.__name__: form
    for form in (
        documents,
        lists,
        grades,
        pairs_table,
        binary_labels,
        similarities,
        triplets,
        tuples,
    )
}
ALL = tuple(FORMS)
GRADED = ("grades", "binary_labels", "similarities", "triplets", "tuples")
# what each trains on; it refuses the others, as teacher scores cannot be made
TRAINS_ON = {
    "multiple_negatives_ranking": ALL,
    "multiple_negatives_symmetric_ranking": ALL,
    "cached_multiple_negatives_ranking": ALL,
    "cached_multiple_negatives_symmetric_ranking": ALL,
    "gist_embed": ALL,
    "cached_gist_embed": ALL,
    "mega_batch_margin": ALL,
    "triplet": ALL,
    "cosine_similarity": ALL,
    "cosent": ALL,
    "angle": ALL,
    "contrastive": ALL,
    "online_contrastive": ALL,
    "softmax": ALL,
    "contrastive_tension": ALL,
    "margin_mse": GRADED,
    "distill_kl_div": GRADED,
    "mse": ALL,
    "embed_distill": ALL,
    "global_orthogonal_regularization": ALL,
    "batch_all_triplet": ALL,
    "batch_hard_triplet": ALL,
    "batch_hard_soft_margin_triplet": ALL,
    "batch_semi_hard_triplet": ALL,
    "contrastive_tension_in_batch_negatives": ALL,
    "denoising_auto_encoder": ALL,
    "matryoshka": ALL,
    "matryoshka2d": ALL,
    "adaptive_layer": ALL,
}
every_loss = pytest.mark.parametrize("loss", TRAINS_ON)
# of small batches, whose documents conflict
pytestmark = pytest.mark.filterwarnings("ignore:Documents, or relevant ones")


@pytest.fixture(scope="module")
def texts(pairs):
    queries, documents = pairs
    return queries[:N], documents[:N], documents[N : 2 * N]


@pytest.fixture(scope="module")
def untouched(bert_model):
    """The weights of the untouched model."""
    return SentenceTransformer(bert_model, device="cpu").state_dict()


def finetuner(model, loss="multiple_negatives_ranking", **params):
    params = {
        "epochs": 1,
        "evaluation_steps": 1,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup_ratio": 0.0,
        "random_state": 0,
        "device": "cpu",
    } | params
    return EmbeddingFinetuner(model, loss=loss, **params)


def first_loss(*args, data, **params):
    """The loss of the untouched model, of all examples in one batch."""
    fitted = finetuner(*args, batch_size=1000, **params).fit(*data)
    assert fitted.n_iter_ == 1
    return fitted.history_[1]["loss"]


# ---- all of them, on all forms


def test_every_loss_of_the_library_is_registered():
    found = [
        name
        for name in losses.__all__
        if isinstance(getattr(losses, name), type)
        and issubclass(getattr(losses, name), torch.nn.Module)
    ]
    assert {spec.class_name for spec in LOSSES.values()} == set(found)
    assert len(found) == len(TRAINS_ON) == 29 and set(TRAINS_ON) == set(LOSSES)


def test_the_guide_lists_every_loss():
    page = Path(__file__).parents[1] / "docs" / "full_finetuning.md"
    section = page.read_text().split("\n## Losses\n")[1].split("\n## ")[0]
    cells = re.findall(r'^\| ("[^|]+) \|', section, flags=re.M)
    assert sorted(re.findall(r'"(\w+)"', " ".join(cells))) == sorted(LOSSES)


@every_loss
@pytest.mark.filterwarnings("ignore:DistillKLDivLoss")  # of large grades
def test_every_form_trains_or_is_refused(bert_model, texts, untouched, loss):
    for form, make in FORMS.items():
        estimator = finetuner(bert_model, loss, batch_size=4)
        X, y = make(*texts)
        if form not in TRAINS_ON[loss]:
            with pytest.raises(ValueError, match="learns from teacher scores"):
                estimator.fit(X, y)
            continue
        estimator.fit(X, y)
        assert 2 <= estimator.n_iter_ <= 3 * N, form
        values = [entry["loss"] for entry in estimator.history_[1:]]
        assert np.isfinite(values).all() and max(values) > 0, form
        moved = max(
            float((tensor - untouched[name]).abs().max())
            for name, tensor in estimator.model_.state_dict().items()
        )
        assert moved > 1e-4, form


@every_loss
def test_every_loss_lowers_itself(bert_model, pairs, loss):
    """40 queries and documents that share words."""
    queries, documents = pairs
    y = documents
    if loss in ("margin_mse", "distill_kl_div"):
        y = [{documents[i]: 1.0, documents[i - 1]: 0.0} for i in range(40)]
    params = {"batch_size": 40, "epochs": 8, "learning_rate": 1e-2}
    history = finetuner(bert_model, loss, **params).fit(queries, y).history_
    assert history[-1]["loss"] < 0.9 * history[1]["loss"]


def test_a_grid_of_losses_on_plain_pairs(bert_model, pairs):
    queries, documents = pairs
    learn_from_pairs = [name for name, forms in TRAINS_ON.items() if forms == ALL]
    grid = {"loss": learn_from_pairs, "batch_size": [5, 10], "epochs": [1, 2]}
    search = GridSearchCV(
        finetuner(bert_model),
        grid,
        cv=ShuffleSplit(1, test_size=0.5, random_state=0),
        error_score="raise",
        refit=False,
    ).fit(queries[:20], documents[:20])
    assert len(search.cv_results_["params"]) == 27 * 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# ---- the library as the oracle


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


def mnrl(model):
    return losses.MultipleNegativesRankingLoss(model)


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


def test_one_negative_a_row_where_the_loss_takes_one(bert_model, texts, encoded_rows):
    """A row with three negatives makes three with one; the class would refuse it."""
    rows, _ = tuples(*texts)
    several = finetuner(bert_model, "gist_embed", batch_size=4).fit(rows)
    assert encoded_rows[rows[0][0]] == 3
    cached = finetuner(bert_model, "cached_gist_embed", batch_size=4).fit(rows)
    assert several.n_iter_ > cached.n_iter_


def test_margins_fit_unit_vectors(static_model, texts):
    """A negative whose vector is the positive's costs the margin."""
    q, d, _ = texts
    rows = [(q[i], d[i], d[i].replace(" ", "  ")) for i in range(N)]
    found = first_loss(static_model, "triplet", data=(rows, None))
    assert found == pytest.approx(0.3, abs=1e-6)


def test_documents_are_damaged_and_rebuilt(bert_model, texts, encoded_rows):
    """Of documents and corpus about 60 % of the words go, at least one stays."""
    q, d, e = texts
    corpus = [" ".join([text] * 30) for text in e]
    fitted = finetuner(
        bert_model, "denoising_auto_encoder", batch_size=4, max_seq_length=32
    ).fit(q, d, corpus=corpus)
    assert fitted.n_iter_ == 4
    assert not set(encoded_rows) & set(q)
    assert set(d + corpus) <= set(encoded_rows)
    damaged = encoded_rows - type(encoded_rows)(d + corpus)
    assert damaged.total() == 16 and all(damaged)
    kept = [len(text.split()) for text in damaged if len(text.split()) > 3]
    assert len(kept) == len(corpus)
    assert np.mean(kept) / 90 == pytest.approx(0.4, abs=0.05)


def test_documents_without_a_relevant_one_can_be_rebuilt(bert_model, texts):
    q, d, _ = texts
    y = [{text: 0} for text in d]
    for loss in ("denoising_auto_encoder", "contrastive_tension_in_batch_negatives"):
        assert finetuner(bert_model, loss, batch_size=4).fit(q, y).n_iter_ == 2


def test_a_decoder_changes_neither_weights_nor_what_is_trained(bert_model, pairs):
    """It is tied to the model: present values stay, and frozen layers frozen."""
    estimator = finetuner(bert_model, epochs=3, warm_start=True).fit(*pairs)
    before = estimator.transform(pairs[0])
    base = SentenceTransformer(bert_model, device="cpu").state_dict()
    estimator.set_params(loss="denoising_auto_encoder", learning_rate=1e-9, epochs=1)
    estimator.fit(*pairs)
    np.testing.assert_allclose(estimator.transform(pairs[0]), before, atol=1e-5)
    top = finetuner(bert_model, "denoising_auto_encoder", trainable=1).fit(*pairs)
    changed = {
        name
        for name, tensor in top.model_.state_dict().items()
        if not torch.equal(tensor, base[name])
    }
    assert changed and all(re.search(r"layer\.1\.|pooler", name) for name in changed)


@pytest.mark.parametrize("loss", ["softmax", "denoising_auto_encoder"])
def test_layers_of_the_loss_are_drawn_from_random_state(bert_model, pairs, loss):
    fitted = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(len(fitted))  # which must not matter
            fitted.append(finetuner(bert_model, loss, random_state=seed).fit(*pairs))
    first, again, other = fitted
    assert_equal_weights(first.model_, again.model_)
    assert first.history_ == again.history_
    assert first.history_[1]["loss"] != other.history_[1]["loss"]


@pytest.mark.parametrize("loss", ["adaptive_layer", "matryoshka2d"])
def test_losses_that_read_every_layer(bert_model, pairs, loss):
    """Batches are not split by length for them, nor lower layers computed once."""
    queries, documents = pairs
    skewed = [d if i % 8 else " ".join([d] * 10) for i, d in enumerate(documents)]
    sorted_, whole = (
        finetuner(bert_model, loss, batch_size=40, sort_by_length=sort, trainable=1)
        for sort in (True, False)
    )
    sorted_.fit(queries, skewed)
    assert_equal_weights(sorted_.model_, whole.fit(queries, skewed).model_)


def test_matryoshka_makes_the_first_dimensions_good(bert_model, pairs):
    """Default dimensions: all 32, and one half."""
    options = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 20}
    plain = finetuner(bert_model, **options).fit(*pairs)
    nested = finetuner(bert_model, "matryoshka", **options).fit(*pairs)
    explicit = finetuner(
        bert_model,
        "matryoshka",
        loss_params={"loss": "multiple_negatives_ranking", "matryoshka_dims": [16, 32]},
        **options,
    ).fit(*pairs)
    assert_equal_weights(nested.model_, explicit.model_)

    def first_half(fitted):
        return finetuner_score(fitted, pairs, dim=16)

    assert first_half(nested) > first_half(plain)


def finetuner_score(fitted, pairs, dim):
    """Mean margin of the right document, in standard deviations of all, at `dim`."""
    queries, documents = (fitted.model_.encode(t, truncate_dim=dim) for t in pairs)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents)]
    similarity = unit[0] @ unit[1].T
    right = similarity.diagonal().mean()
    return (right - similarity.mean()) / similarity.std()


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (384, [384, 192, 96]),
        (768, [768, 384, 192, 96]),
        (1024, [1024, 512, 256, 128, 64]),
        (32, [32, 16]),
        (1, [1]),
    ],
)
def test_default_dimensions_of_matryoshka(dim, expected):
    from skembft._embedding.losses import halved_dims

    assert halved_dims(dim) == expected


def test_truncated_vectors(bert_model, pairs):
    """Heads and targets have the width that a loss gets, matryoshka that of use."""
    for loss in ("softmax", "mse", "matryoshka"):
        fitted = finetuner(bert_model, loss, truncate_dim=8).fit(*pairs)
        assert fitted.transform(pairs[0]).shape == (40, 8)
    with pytest.raises(ValueError, match="around 'mse' does not go with truncate_dim"):
        finetuner(
            bert_model, "matryoshka", loss_params={"loss": "mse"}, truncate_dim=8
        ).fit(*pairs)


def test_names_classes_and_callables_are_equal(bert_model, pairs):
    def make(model):
        return losses.MatryoshkaLoss(model, losses.AnglELoss(model), [32, 16])

    by_name, by_class, by_callable = (
        finetuner(bert_model, loss, loss_params=params).fit(*pairs)
        for loss, params in (
            ("matryoshka", {"loss": "angle"}),
            (losses.MatryoshkaLoss, {"loss": losses.AnglELoss}),
            (make, None),
        )
    )
    assert_equal_weights(by_name.model_, by_class.model_)
    assert_equal_weights(by_name.model_, by_callable.model_)


def test_a_subclass_is_used_as_it_is(bert_model, texts):
    class Halved(losses.BatchHardTripletLoss):
        def __init__(self, model, **kwargs):
            super().__init__(model, **kwargs)

        def forward(self, features, labels):
            return super().forward(features, labels) / 2

    data = documents(*texts)
    whole = first_loss(bert_model, "batch_hard_triplet", data=data)
    half = first_loss(bert_model, Halved, loss_params={"margin": 0.3}, data=data)
    assert half == pytest.approx(whole / 2)


def test_a_subclass_may_need_the_model(bert_model, texts):
    class Scaled(losses.CoSENTLoss):
        def __init__(self, model):
            super().__init__(model, scale=model.get_embedding_dimension())

    data = documents(*texts)
    found = first_loss(bert_model, Scaled, data=data)
    assert found == first_loss(
        bert_model, "cosent", loss_params={"scale": 32.0}, data=data
    )


def test_negatives_of_all_processes_where_several_train(bert_model, monkeypatch):
    from skembft._embedding.losses import build

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    model = SentenceTransformer(bert_model, device="cpu")

    def gathers(world_size, **params):
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)
        estimator = finetuner(bert_model, **params)
        loss, spec = build(estimator, model, None)
        assert spec.in_batch
        return loss

    for loss in ("multiple_negatives_ranking", "cached_gist_embed"):
        assert gathers(2, loss=loss).gather_across_devices
        assert not gathers(1, loss=loss).gather_across_devices
        refused = {"gather_across_devices": False}
        assert not gathers(2, loss=loss, loss_params=refused).gather_across_devices
    assert gathers(2, loss="matryoshka").loss.gather_across_devices


# ---- errors before anything is loaded

MISSING = "/no/such/model"  # loading it would be an OSError


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("cached_gist", "Unknown loss 'cached_gist'. Did you mean 'cached_gist_embed'"),
        ("MSELoss", "Unknown loss 'MSELoss'.*'mse'"),
        (losses.TripletDistanceMetric, "Unknown loss 'TripletDistanceMetric'"),
        (losses.TripletLoss(None), "instance of TripletLoss.*pass the class"),
    ],
)
def test_unknown_losses(loss, message):
    with pytest.raises(InvalidParameterError, match=message):
        finetuner(MISSING, loss).fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    "loss", sorted(set(TRAINS_ON) - set(ADAPTER_LOSSES)) + [losses.MegaBatchMarginLoss]
)
def test_adapters_refuse_losses_of_the_whole_model(loss):
    with pytest.raises(
        InvalidParameterError, match="a loss of EmbeddingFinetuner only.*'triplet'"
    ):
        AdapterFinetuner(MISSING, loss=loss).fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    ("loss", "params", "message"),
    [
        ("cosent", {"scael": 1}, "'scael' is not among .*Did you mean 'scale'"),
        ("cached_gist_embed", {"guid": "x"}, "Did you mean 'guide'"),
        ("matryoshka", {"dims": [8]}, "'dims' .*Valid names: .*'matryoshka_dims'"),
        ("multiple_negatives_symmetric_ranking", {"directions": ()}, "'directions' is"),
        ("softmax", {"num_labels": 3}, "'num_labels' is not among"),
        ("mse", {"projection_dim": 3}, "'projection_dim' is not among"),
        ("angle", {"scale": "20"}, "scale of the loss 'angle' must be a finite number"),
        ("cosent", {"scale": True}, "must be a finite number, got True"),
        ("cosent", {"scale": np.nan}, "must be a finite number, got nan"),
        ("cosent", {"scale": 0}, "must be more than 0, got 0"),
        ("gist_embed", {"temperature": -1.0}, "temperature .* must be more than 0"),
        (
            "cached_multiple_negatives_ranking",
            {"mini_batch_size": 2.5},
            "mini_batch_size of the loss .* must be a whole number, got 2.5",
        ),
        ("mega_batch_margin", {"mini_batch_size": 0}, "must be more than 0, got 0"),
        (
            "mega_batch_margin",
            {"mini_batch_num_tokens": "many"},
            "must be a whole number or None, got 'many'",
        ),
        ("contrastive", {"size_average": 1}, "must be True or False, got 1"),
        (
            "embed_distill",
            {"distance_metric": "dot"},
            "must be 'mse' or 'l2' or 'cosine', got 'dot'",
        ),
        (
            "cached_gist_embed",
            {"margin_strategy": "both"},
            "must be 'absolute' or 'relative', got 'both'",
        ),
        (
            "multiple_negatives_ranking",
            {"directions": ("doc_to_query",)},
            "'query_to_doc' direction is required",
        ),
        (
            "distill_kl_div",
            {"temperature": np.inf},
            "temperature .* must be a finite number",
        ),
        ("gist_embed", {"guide": 3}, "guide .* must be a str or None, got 3"),
        (
            "adaptive_layer",
            {"layer_weighting": "square"},
            "must be 'uniform' or 'log' or 'linear'",
        ),
        ("matryoshka", {"loss": "tripplet"}, "Unknown loss 'tripplet'"),
        ("matryoshka", {"loss": mnrl}, "given by name or class, got .*a callable"),
        ("matryoshka", {"loss_params": 3}, "loss_params of .* must be a dict or None"),
        ("matryoshka", {"loss_params": {"margin": 1}}, "'margin' is not among"),
        (
            "matryoshka2d",
            {"loss": "triplet", "loss_params": {"triplet_margin": "wide"}},
            "triplet_margin of the loss 'triplet' must be a finite number",
        ),
        ("matryoshka", {"matryoshka_dims": [16, 0]}, "positive whole numbers, got"),
        ("matryoshka", {"matryoshka_dims": []}, "positive whole numbers, got"),
        ("matryoshka", {"matryoshka_dims": 8}, "positive whole numbers, got 8"),
        ("matryoshka", {"loss": "softmax"}, "'matryoshka' cannot wrap 'softmax'"),
        (
            "matryoshka",
            {"loss": losses.GlobalOrthogonalRegularizationLoss},
            "cannot wrap 'global_orthogonal_regularization'",
        ),
        ("matryoshka", {"loss": "contrastive_tension"}, "cannot wrap"),
        ("matryoshka", {"loss": "matryoshka2d"}, "cannot wrap 'matryoshka2d'"),
        ("matryoshka2d", {"loss": "matryoshka"}, "cannot wrap 'matryoshka'"),
        (
            "adaptive_layer",
            {"loss": "cached_gist_embed"},
            "cannot wrap 'cached_gist_embed'. Did you mean 'gist_embed'",
        ),
        (
            "adaptive_layer",
            {"loss": "matryoshka", "loss_params": {"loss": "mega_batch_margin"}},
            "'adaptive_layer' cannot wrap 'mega_batch_margin'",
        ),
    ],
)
def test_wrong_arguments(loss, params, message):
    estimator = finetuner(MISSING, loss, loss_params=params)
    with pytest.raises(InvalidParameterError, match=message):
        estimator.fit(["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    "loss",
    [
        "multiple_negatives_ranking",
        "cached_multiple_negatives_symmetric_ranking",
        "gist_embed",
        "mega_batch_margin",
        "cosent",
        "angle",
        "online_contrastive",
        "global_orthogonal_regularization",
        "batch_hard_triplet",
        "contrastive_tension_in_batch_negatives",
        "matryoshka",
    ],
)
def test_a_batch_of_one_leaves_nothing_to_compare(loss):
    with pytest.raises(InvalidParameterError, match="batch_size=1 leaves no"):
        finetuner(MISSING, loss, batch_size=1).fit(["a", "b"], ["c", "d"])


def test_a_batch_of_one_with_negatives_of_its_own(bert_model, texts):
    rows, _ = triplets(*texts)
    for loss in ("cached_multiple_negatives_ranking", "gist_embed", "matryoshka"):
        assert finetuner(bert_model, loss, batch_size=1).fit(rows).n_iter_ == N
    with pytest.raises(InvalidParameterError, match="leaves nothing to compare"):
        finetuner(MISSING, "mega_batch_margin", batch_size=1).fit(rows)
    estimator = finetuner(MISSING, "mega_batch_margin", batch_size=1)
    with pytest.raises(InvalidParameterError, match="leaves nothing to compare"):
        estimator.set_params(negatives="random").fit(rows)


@pytest.mark.parametrize("loss", ["softmax", "cosent", "angle"])
def test_labels_that_are_all_the_same(loss):
    message = f"loss='{loss}' learns from labels that differ, and all 2 are 1"
    with pytest.raises(ValueError, match=message):
        finetuner(MISSING, loss).fit([("a", "c"), ("b", "d")], [1.0, 1.0])


def test_classes_need_two():
    with pytest.raises(ValueError, match="there is one class only"):
        finetuner(MISSING, "batch_all_triplet").fit(["a", "b"], [["c", "d"], ["d"]])


def test_teacher_scores_cannot_be_made_for_a_wrapper_either():
    params = {"loss": "margin_mse"}
    with pytest.raises(ValueError, match="'margin_mse' learns from teacher scores"):
        finetuner(MISSING, "matryoshka", loss_params=params).fit(["a", "b"], ["c", "d"])


# ---- errors once the model is loaded, and before it is trained


@pytest.mark.parametrize(
    "loss",
    [
        "cached_multiple_negatives_ranking",
        "cached_multiple_negatives_symmetric_ranking",
        "cached_gist_embed",
        "mega_batch_margin",
        "gist_embed",
        "matryoshka2d",
        "adaptive_layer",
        "denoising_auto_encoder",
    ],
)
def test_models_that_a_loss_cannot_train(static_model, texts, loss):
    message = (
        f"loss='{loss}' cannot be built for this model: .*(Static|Token|Transformer)"
    )
    with pytest.raises(ValueError, match=message):
        finetuner(static_model, loss).fit(*documents(*texts))


def test_a_margin_of_the_batch_without_a_transformer(static_model, texts):
    params = {"use_mini_batched_version": False}
    fitted = finetuner(static_model, "mega_batch_margin", loss_params=params)
    assert fitted.fit(*documents(*texts)).history_[1]["loss"] > 0


@pytest.mark.parametrize(
    ("loss", "params", "error", "message"),
    [
        ("gist_embed", {"guide": MISSING}, OSError, f"Could not load .*'{MISSING}'"),
        (
            "matryoshka",
            {"matryoshka_dims": [64, 32]},
            ValueError,
            "cannot exceed the model's embedding dimension of 32",
        ),
        (
            "denoising_auto_encoder",
            {"tie_encoder_decoder": False},
            ValueError,
            "Must indicate the decoder_name_or_path",
        ),
        (
            "denoising_auto_encoder",
            {"tie_encoder_decoder": False, "decoder_name_or_path": MISSING},
            OSError,
            f"decoder of the loss cannot be loaded: .*{MISSING}",
        ),
        (
            "softmax",
            {"concatenation_sent_rep": False, "concatenation_sent_difference": False},
            ValueError,
            "At least one of concatenation_sent_rep",
        ),
    ],
)
def test_arguments_that_need_the_model(bert_model, texts, loss, params, error, message):
    with pytest.raises(error, match=message):
        finetuner(bert_model, loss, loss_params=params).fit(*documents(*texts))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: torch.nn.Linear(2, 2), "loss made a Linear; .*'TripletLoss'"),
        (
            lambda m: losses.MatryoshkaLoss(m, torch.nn.Linear(2, 2), [8]),
            "loss made a Linear",
        ),
        (
            lambda m: losses.MatryoshkaLoss(
                m, losses.GlobalOrthogonalRegularizationLoss(m), [8]
            ),
            "'matryoshka' cannot wrap 'global_orthogonal_regularization'",
        ),
        (lambda m: losses.SoftmaxLoss(m, 32, 1), "num_labels=1, but y has 2 different"),
        (losses.MarginMSELoss.__call__, "missing 1 required positional"),
        (lambda m: losses.MarginMSELoss(m), "learns from teacher scores"),
    ],
)
def test_callables_whose_loss_cannot_be_fed(bert_model, texts, make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        finetuner(bert_model, make).fit(*documents(*texts))


def test_a_batch_of_one_for_a_callable(bert_model, texts):
    with pytest.raises(ValueError, match="batch_size=1 leaves no negatives"):
        finetuner(bert_model, mnrl, batch_size=1).fit(*documents(*texts))


@pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
def test_what_is_held_out_can_leave_nothing(bert_model):
    """The only two graded documents may be those of the held-out query."""
    X, y = ["red1", "red2"], [{"old1": 2, "old2": 1}, {"old1": 1}]
    estimator = finetuner(bert_model, "margin_mse", validation_fraction=0.5)
    outcomes = []
    for seed in range(6):
        try:
            outcomes.append(estimator.set_params(random_state=seed).fit(X, y).n_iter_)
        except ValueError as error:
            assert "learns from teacher scores" in str(error)
            outcomes.append("refused")
    assert set(outcomes) == {"refused", 1}
