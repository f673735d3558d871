"""What one text, one pair and one document cost, and what follows for far more of them.

Everything is measured on this machine, with one thread, and divided by the number of
things; the second table multiplies it again, for a collection and a search that fit
into no machine here. It supposes that twice the work takes twice the time, which
`bench_scale.py` shows up to a million rows.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _common import (
    make_parser,
    model_path,
    report,
    start,
    timed,
    vocabulary,
    write_static_model,
)

from skembft import (
    AdapterFinetuner,
    EmbeddingFinetuner,
    PrecomputedEncoder,
    SentenceEncoder,
)
from skembft.metrics import RetrievalScorer

DIM = 384
WORDS = 100  # of a document; of a query ten


def texts(n, n_words):
    words = np.array(vocabulary())
    drawn = np.random.default_rng(0).integers(len(words), size=(n, n_words - 1))
    return [f"{i} {' '.join(words[row])}" for i, row in enumerate(drawn)]


def encoding(args, folder):
    """Seconds a text into an empty cache_dir and out of it, and bytes there."""
    static = folder / "static"
    write_static_model(static, DIM)
    for name, model, n in (
        ("MiniLM", model_path(), 1_000 // args.divide),
        ("static model", static, 200_000 // args.divide),
    ):
        documents, kept = texts(n, WORDS), folder / f"cache {name}"
        encoder = SentenceEncoder(str(model), cache_dir=str(kept))
        encoder.transform(["loads the model"])
        seconds = timed(partial(encoder.warm, documents))[0]
        yield f"encode a document, {name}", seconds / n
        stored = SentenceEncoder(str(model), cache_dir=str(kept))
        seconds = timed(partial(stored.transform_documents, documents))[0]
        yield f"look its vector up, {name}", seconds / n
        size = sum(f.stat().st_size for f in kept.rglob("*") if f.is_file())
        yield f"bytes of its vector in cache_dir, {name}", size / n


def vectors(args):
    """Seconds a pair of an epoch of an adapter, and a document that is ranked."""
    n_pairs, n_documents = 100_000 // args.divide, 200_000 // args.divide
    rng = np.random.default_rng(0)
    matrix = rng.random((n_documents, DIM), np.float32) - np.float32(0.5)
    ids = list(range(n_documents))
    index = PrecomputedEncoder(documents=(ids, matrix))
    adapter = AdapterFinetuner(
        index,
        negatives="random",
        epochs=1,
        validation_fraction=None,
        random_state=0,
    )
    adapter.fit(ids[:500], ids[500:1000])  # loads what a first fit loads
    answers = ids[-n_pairs:]
    yield (
        "fit an adapter: a pair and epoch",
        timed(lambda: adapter.fit(ids[:n_pairs], answers))[0] / n_pairs,
    )
    scorer = RetrievalScorer("ndcg@10", corpus=ids)
    n_queries = 1_000
    seconds = timed(lambda: scorer(adapter, ids[:n_queries], ids[-n_queries:]))[0]
    yield "score: a document, 1,000 queries", seconds / n_documents


def full_training(args):
    """Seconds a pair of an epoch of full fine-tuning."""
    n = 320 // args.divide
    pairs = list(zip(texts(n, 10), texts(n, WORDS), strict=True))
    finetuner = EmbeddingFinetuner(
        model_path(),
        batch_size=32,
        epochs=1,
        validation_fraction=None,
        interpolation=None,
        random_state=0,
    )
    few = EmbeddingFinetuner(**finetuner.get_params()).set_params(batch_size=8)
    few.fit(pairs[:8])
    seconds = timed(lambda: finetuner.fit(pairs))[0]
    yield "fit all of MiniLM: a pair and epoch", seconds / n


def far_more(costs):
    """Rows of core hours and gigabytes for 10^8 documents and 1,000 candidates."""
    documents, pairs, fits = 1e8, 1e5, 1_000 * 5
    adapter = costs["fit an adapter: a pair and epoch"] * pairs
    score = costs["score: a document, 1,000 queries"]
    full = costs["fit all of MiniLM: a pair and epoch"] * pairs
    seconds = {
        f"encode 10^8 documents, {model}": documents
        * costs[f"encode a document, {model}"]
        for model in ("MiniLM", "static model")
    }
    seconds["score 1,000 queries on 10^8 documents"] = documents * score
    seconds["1,000 candidates x 5 folds of adapters: 10 epochs"] = fits * 10 * adapter
    seconds["… their scores, on 10^6 documents"] = fits * 1e6 * score
    seconds["… their scores, on 10^8 documents"] = fits * documents * score
    seconds["a full fine-tuning, an epoch"] = full
    rows = [{"": name, "core hours": s / 3600} for name, s in seconds.items()]
    return [
        *rows,
        {"": "10^8 vectors, float32", "GB": documents * DIM * 4 / 1e9},
        {"": "10^8 vectors, float16", "GB": documents * DIM * 2 / 1e9},
    ]


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--divide", type=int, default=1, help="sizes by this, to try")
    args = start(parser)
    with tempfile.TemporaryDirectory() as folder:
        costs = dict(encoding(args, Path(folder)))
    costs |= dict(vectors(args))
    costs |= dict(full_training(args))
    rows = [{"": name, "cost": f"{value:.3g}"} for name, value in costs.items()]
    report(args, "Seconds (or bytes) each, one thread", rows)
    title = "10^8 documents; searches and fits of 10^5 pairs"
    report(args, title, far_more(costs))


if __name__ == "__main__":
    main()
