"""The forms of data, and small finetuners to fit on them."""

import numpy as np

from skembft import AdapterFinetuner, EmbeddingFinetuner

N = 12
ADAPTER_LOSSES = ["multiple_negatives_ranking", "triplet", "cosine_similarity"]
MODEL_LOSSES = [*ADAPTER_LOSSES, "contrastive"]


def document(q, d):
    return q, d


def documents(q, d):
    return q, [[d[i], d[i - 1]] for i in range(N)]


def graded(q, d):
    return q, [{d[i - 1]: 1, d[i]: 3, d[i - 2]: 0, d[i - 3]: -1} for i in range(N)]


def pair_table(q, d):
    return list(zip(q, d, strict=True)), None


def labelled_table(q, d):
    rows = [(q[i], d[j]) for i in range(N) for j in (i, i - 1)]
    return rows, [1.0, 0.0] * N


def similarity_table(q, d):
    rows = [(q[i], d[j]) for i in range(N) for j in (i, i - 1, i - 5)]
    return rows, [0.9, 0.4, -0.1] * N


def triplet_table(q, d):
    return [(q[i], d[i], d[i - 1]) for i in range(N)], None


def wide_table(q, d):
    return [(q[i], d[i], d[i - 1], d[i - 4]) for i in range(N)], None


FORMS = {
    f.__name__: f
    for f in (
        document,
        documents,
        graded,
        pair_table,
        labelled_table,
        similarity_table,
        triplet_table,
        wide_table,
    )
}


def adapter(encoder, **params):
    params = {
        "epochs": 3,
        "validation_fraction": None,
        "random_state": 0,
        "batch_size": 8,
    } | params
    return AdapterFinetuner(encoder, **params)


def model(static_model, **params):
    params = {"epochs": 1, "random_state": 0, "device": "cpu"} | params
    return EmbeddingFinetuner(static_model, **params)


def fitted_vectors(estimator, X, y=None, **fit_params):
    return estimator.fit(X, y, **fit_params).transform(X)


def unit(*items, dim=8):
    """Orthogonal unit vectors for names; names joined by "=" share one."""
    return {
        name: np.eye(dim)[i]
        for i, group in enumerate(items)
        for name in group.split("=")
    }
