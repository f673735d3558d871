"""Speed and memory of scoring, against the matmul that it cannot do without.

speed       `RetrievalScorer` over vectors in memory, one float32 matmul + top-k of the
            same vectors, and Sentence Transformers' InformationRetrievalEvaluator,
            called in turn. Nothing is encoded.
memory      A fresh process scores against vectors on disk, while a thread samples its
            anonymous memory.
statistics  False positives of the randomisation test, and coverage of the bootstrap
            interval, of `compare_retrieval` on differences whose truth is known.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _common import (
    PeakMemory,
    interleave,
    make_parser,
    median_ratio,
    report,
    start,
    timed,
)

from skembft import PrecomputedEncoder
from skembft.metrics import RetrievalScorer

METRICS = ["ndcg@10", "mrr@10", "map@100", "recall@100"]
DIM, N_QUERIES, DEPTH = 384, 1000, 100


def unit_vectors(rng, n):
    vectors = rng.standard_normal((n, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def speed(args):
    import torch

    rng = np.random.default_rng(0)
    n_documents = 10_000 if args.quick else 100_000
    queries, documents = unit_vectors(rng, N_QUERIES), unit_vectors(rng, n_documents)
    query_ids = [f"q{i}" for i in range(N_QUERIES)]
    document_ids = [f"d{i}" for i in range(n_documents)]
    relevant = [[f"d{i}"] for i in rng.integers(n_documents, size=N_QUERIES)]
    index = PrecomputedEncoder((query_ids, queries), (document_ids, documents)).fit()
    scorer = RetrievalScorer(METRICS, corpus=document_ids)
    evaluator = make_evaluator(query_ids, document_ids, relevant)
    model = Vectors(
        dict(zip(query_ids, queries, strict=True)),
        dict(zip(document_ids, documents, strict=True)),
    )

    def matmul():
        scores = torch.from_numpy(queries) @ torch.from_numpy(documents).T
        return torch.topk(scores, DEPTH, dim=1)

    found = {}
    functions = {
        "one matmul + top-k": matmul,
        "RetrievalScorer": lambda: found.update(
            ours=scorer(index, query_ids, relevant)
        ),
        "InformationRetrievalEvaluator": lambda: found.update(theirs=evaluator(model)),
    }
    interleave(functions, 1)  # warm
    seconds = interleave(functions, 1 if args.quick else args.repeats)
    ours, theirs = found["ours"]["ndcg@10"], found["theirs"]["cosine_ndcg@10"]
    if abs(ours - theirs) > 1e-6:
        sys.exit(f"The scores differ: {ours} and {theirs}.")
    rows = [
        {
            "": name,
            "seconds": float(np.median(times)),
            "× matmul + top-k": median_ratio(times, seconds["one matmul + top-k"]),
            "limit": "≤ 1.3" if name == "RetrievalScorer" else None,
        }
        for name, times in seconds.items()
    ]
    title = f"Scoring {N_QUERIES:,} queries × {n_documents:,} documents × {DIM}"
    report(args, title, rows, rounds=f"{args.repeats}, interleaved; medians")


class Vectors:
    """What the evaluator asks of a model, over vectors that exist."""

    similarity_fn_name = "cosine"
    model_card_data = type("Card", (), {"set_evaluation_metrics": lambda *_: None})()

    def __init__(self, queries, documents):
        self.queries, self.documents = queries, documents

    @staticmethod
    def similarity(a, b):
        from sentence_transformers.util import cos_sim

        return cos_sim(a, b)

    def encode_query(self, texts, **options):
        return self._look_up(self.queries, texts)

    def encode_document(self, texts, **options):
        return self._look_up(self.documents, texts)

    def _look_up(self, vectors, texts):
        import torch

        return torch.from_numpy(np.stack([vectors[text] for text in texts]))


def make_evaluator(query_ids, document_ids, relevant):
    from sentence_transformers.sentence_transformer.evaluation import (
        InformationRetrievalEvaluator,
    )

    return InformationRetrievalEvaluator(
        dict(zip(query_ids, query_ids, strict=True)),
        dict(zip(document_ids, document_ids, strict=True)),
        {q: set(row) for q, row in zip(query_ids, relevant, strict=True)},
        corpus_chunk_size=50_000,
        ndcg_at_k=[10],
        mrr_at_k=[10],
        map_at_k=[100],
        accuracy_at_k=[1],
        precision_recall_at_k=[100],
        write_csv=False,
    )


def memory(args):
    n_documents = 50_000 if args.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        np.save(Path(folder, "queries.npy"), unit_vectors(rng, N_QUERIES))
        documents = np.lib.format.open_memmap(
            Path(folder, "documents.npy"), "w+", np.float32, (n_documents, DIM)
        )
        for first in range(0, n_documents, 50_000):
            documents[first : first + 50_000] = unit_vectors(rng, 50_000)
        documents.flush()
        answer = subprocess.run(
            [sys.executable, __file__, "--worker", folder],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found = json.loads(answer.stdout.splitlines()[-1])
    row = {
        "documents": n_documents,
        "seconds": found["seconds"],
        "anonymous MB before": found["before"],
        "peak": found["peak"],
        "limit": "≤ 6000",
        "MB on disk": n_documents * DIM * 4 / 1e6,
    }
    report(args, f"Memory of scoring {N_QUERIES:,} queries", [row])


def score_from_disk(args):
    """What the fresh process does; prints JSON."""
    import torch  # noqa: F401 (its import is not part of the score)

    queries, documents = (
        np.load(Path(args.worker, f"{name}.npy"), mmap_mode="r")
        for name in ("queries", "documents")
    )
    before = PeakMemory.now()
    sampler = PeakMemory()
    sampler.start()
    query_ids = list(range(len(queries)))
    document_ids = list(range(len(documents)))
    index = PrecomputedEncoder((query_ids, queries), (document_ids, documents))
    scorer = RetrievalScorer(METRICS, corpus=document_ids)
    seconds, _ = timed(lambda: scorer(index, query_ids, query_ids))
    sampler.stop()
    print(json.dumps({"seconds": seconds, "before": before, "peak": sampler.peak}))


def statistics(args):
    from skembft.inspection._statistics import bootstrap_interval, randomisation_test

    rng = np.random.default_rng(0)
    n = 200 if args.quick else 5000
    rows = []
    for n_queries in (50, 200, 1000):
        p_values = np.array(
            [
                randomisation_test(differences(rng, n_queries, 0), rng, 999)
                for _ in range(n)
            ]
        )
        rows.append(
            {
                "queries": n_queries,
                "p < 0.05 without a difference": float((p_values < 0.05).mean()),
                "limit": "0.05 ± 0.01",
            }
        )
    report(args, "Randomisation test on null data", rows, simulations=n)
    n = 200 if args.quick else 3000
    rows = []
    for n_queries in (200, 500):
        for better in (0, 0.3):
            truth = true_difference(better)
            covered = 0
            for _ in range(n):
                low, high = bootstrap_interval(
                    differences(rng, n_queries, better), 0.95, rng, 1999
                )
                covered += low <= truth <= high
            rows.append(
                {
                    "queries": n_queries,
                    "true difference": truth,
                    "95 % intervals that cover it": covered / n,
                    "limit": "0.95 ± 0.02",
                }
            )
    report(args, "Bootstrap intervals", rows, simulations=n)


VALUES = 1 / np.log2(np.arange(2, 12))  # nDCG@10 of one relevant document, by rank
ODDS, AGREE = 0.2, 2 / 3


def differences(rng, n_queries, better):
    """nDCG@10 of two systems on random queries, each with one relevant document.

    The odds that a system finds it at a rank are `ODDS`, of the second by the share
    `better` higher. They agree on two thirds of the queries.
    """
    odds = [[ODDS], [ODDS * (1 + better)]]
    ranks = rng.geometric(odds, size=(2, n_queries))
    ranks[1] = np.where(rng.random(n_queries) < AGREE, ranks[0], ranks[1])
    values = np.append(VALUES, 0)[np.minimum(ranks, 11) - 1]
    return values[1] - values[0]


def true_difference(better):
    first, second = (
        (odds * (1 - odds) ** np.arange(10) * VALUES).sum()
        for odds in (ODDS, ODDS * (1 + better))
    )
    return float((1 - AGREE) * (second - first))


PARTS = {"speed": speed, "memory": memory, "statistics": statistics}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=7, help="interleaved rounds")
    parser.add_argument("--quick", action="store_true", help="little data, one round")
    parser.add_argument("--worker", help="for internal use: folder of the vectors")
    args = start(parser)
    if args.worker:
        return score_from_disk(args)
    for name in args.parts:
        PARTS[name](args)


if __name__ == "__main__":
    main()
