"""Rankings and metrics by their definitions, in plain numpy."""

import numpy as np
import pytest

from skembft import PrecomputedEncoder

TREC = {  # our name: trec_eval's
    "ndcg": "ndcg_cut",
    "map": "map_cut",
    "recall": "recall",
    "precision": "P",
    "hit_rate": "success",
}


def grid_vectors(rng, n, d=8):
    """Vectors with four entries of ±0.5: exact unit vectors, exact cosines, ties."""
    out = np.zeros((n, d), dtype=np.float32)
    for row in out:
        row[rng.choice(d, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return out


def brute_force(similarity, grades, name):
    """A metric by its definition; ties as shuffled. grades: dict of column: grade."""
    metric, k = name.split("@")
    k = int(k)
    places = np.random.RandomState(0).permutation(len(similarity))
    order = np.lexsort((places, -similarity))[:k]
    gains = np.array([max(grades.get(int(d), 0), 0) for d in order], dtype=float)
    relevant = sorted((g for g in grades.values() if g > 0), reverse=True)
    ranks = np.flatnonzero(gains > 0) + 1
    if metric == "ndcg":
        best = sum(g / np.log2(i + 2) for i, g in enumerate(relevant[:k]))
        return sum(g / np.log2(i + 2) for i, g in enumerate(gains)) / best
    return {
        "mrr": 1 / ranks[0] if len(ranks) else 0,
        "map": sum((i + 1) / r for i, r in enumerate(ranks)) / len(relevant),
        "recall": len(ranks) / len(relevant),
        "precision": len(ranks) / k,
        "hit_rate": float(len(ranks) > 0),
    }[metric]


ALL = [f"{m}@{k}" for m in (*TREC, "mrr") for k in (1, 3, 10, 1000)]


def precomputed_problem(seed, n_queries=15, n_documents=60):
    """Ids with vectors of which many are equal, graded judgements and a corpus."""
    rng = np.random.RandomState(seed)
    # far fewer distinct vectors than documents: ties everywhere, also at the cut
    pool = grid_vectors(rng, n_documents // 5)
    documents = {f"d{i}": pool[rng.randint(len(pool))] for i in range(n_documents)}
    queries = {f"q{i}": v for i, v in enumerate(grid_vectors(rng, n_queries))}
    names = list(documents)
    relevant = [
        {
            str(d): int(rng.choice([-1, 0, 1, 2, 3]))
            for d in rng.choice(names, rng.randint(1, 6), replace=False)
        }
        for _ in queries
    ]
    relevant[0] = {names[0]: 0}  # nothing relevant: left out
    relevant[1][names[1]] = 1
    corpus = list(rng.permutation(names))
    return PrecomputedEncoder(queries, documents), list(queries), relevant, corpus


def brute_force_means(encoder, queries, relevant, corpus, weights=None):
    """What RetrievalScorer promises, one query after the other."""
    # pool: documents of y row by row, most relevant first, then those of the corpus
    pool = [
        d for graded in relevant for d in sorted(graded, key=lambda d: -graded[d])
    ] + list(corpus)
    pool = list(dict.fromkeys(pool))
    merged = {}
    for query, graded in zip(queries, relevant, strict=True):
        into = merged.setdefault(query, {})
        for document, grade in graded.items():
            into[document] = max(grade, into.get(document, grade))
    q = np.asarray(encoder.transform(list(merged)), dtype=np.float64)
    d = np.asarray(encoder.transform_documents(pool), dtype=np.float64)
    similarity = q @ d.T  # exact for grid_vectors
    weights = np.ones(len(queries)) if weights is None else np.asarray(weights)
    values, query_weights = [], []
    for row, (query, graded) in enumerate(merged.items()):
        if max(graded.values()) > 0:
            columns = {pool.index(d): g for d, g in graded.items()}
            values.append([brute_force(similarity[row], columns, m) for m in ALL])
            query_weights.append(weights[[x == query for x in queries]].mean())
    return dict(
        zip(ALL, np.average(values, axis=0, weights=query_weights), strict=True)
    )


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name
