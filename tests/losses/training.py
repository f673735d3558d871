"""What every loss of EmbeddingFinetuner learns from, and how it is fitted here."""

from sentence_transformers.sentence_transformer import losses

from skembft import EmbeddingFinetuner

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


def mnrl(model):
    return losses.MultipleNegativesRankingLoss(model)
