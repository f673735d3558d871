"""`AdapterFinetuner.fit` against LlamaIndex's EmbeddingAdapterFinetuneEngine.

Same model (all-MiniLM-L6-v2), same data (llamaindex-10k), one run: ours, the peer's
`finetune()`, ours again. Both sides start with the model loaded and nothing encoded;
"warm" is a fit when the texts have been encoded before. The scores are those of the
validation split over its own corpus, computed by the same code from both sides'
vectors.
"""

import statistics
import tempfile
from pathlib import Path

import numpy as np
from _common import (
    counted_rows,
    data_folder,
    load_ten_k,
    make_parser,
    model_path,
    precisions,
    report,
    run_peer,
    start,
    timed,
)

from skembft import AdapterFinetuner, PrecomputedEncoder, SentenceEncoder
from skembft.metrics import RetrievalScorer


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="of the peer")
    parser.add_argument(
        "--repeats", type=int, default=3, help="our fits before, and after the peer"
    )
    args = start(parser)
    train, val = load_ten_k(args)
    score = RetrievalScorer("ndcg@10", corpus=val.corpus)

    names = [(p, how) for p in precisions() for how in ("cold", "warm")]
    fits = {name: [] for name in names}
    for seed in range(args.repeats):
        for name in names:
            fits[name].append(fit_ours(train, *name, seed))
    peer, peer_score = fit_peer(args, val, score)
    for seed in range(args.repeats, 2 * args.repeats):
        for name in names:
            fits[name].append(fit_ours(train, *name, seed))

    rows = [
        {
            "": "LlamaIndex",
            "seconds": peer["seconds"],
            "times as fast": 1.0,
            "rows encoded": peer["rows"],
            "epochs": args.epochs,
            "val nDCG@10": peer_score,
        },
        *(
            {
                "": "AdapterFinetuner, " + ", ".join(name),
                **summary(runs, peer, val, score),
            }
            for name, runs in fits.items()
        ),
    ]
    base = score(SentenceEncoder(model_path()), val.queries, val.relevant)
    rows.append({"": "untouched model", "val nDCG@10": base})
    report(
        args,
        "AdapterFinetuner and LlamaIndex's EmbeddingAdapterFinetuneEngine",
        rows,
        fits=f"{2 * args.repeats} seeds; seconds, epochs and scores are medians",
        peer=peer["versions"],
    )


def fit_ours(train, precision, how, seed):
    """Return (seconds, rows encoded, finetuner); scores come later, as they encode."""
    encoder = SentenceEncoder(model_path(), precision=precision)
    encoder.transform(["load the model"])
    if how == "cold":
        encoder.clear()
    finetuner = AdapterFinetuner(encoder, random_state=seed)
    with counted_rows() as count:
        seconds, _ = timed(lambda: finetuner.fit(train.queries, train.relevant))
    return seconds, count["rows"], finetuner


def summary(runs, peer, val, score):
    seconds, encoded, finetuners = zip(*runs, strict=True)
    scores = [score(f, val.queries, val.relevant) for f in finetuners]
    # of the validated fit, and of the refit
    epochs = [f.history_[-1]["epoch"] + f.best_epoch_ for f in finetuners]
    return {
        "seconds": statistics.median(seconds),
        "times as fast": peer["seconds"] / statistics.median(seconds),
        "rows encoded": max(encoded),
        "epochs": statistics.median(epochs),
        "val nDCG@10": statistics.median(scores),
        "lowest": min(scores),
        "highest": max(scores),
    }


def fit_peer(args, val, score):
    """Return what the peer reports, and the score of its vectors."""
    folder = data_folder(args, "llamaindex-10k")
    with tempfile.TemporaryDirectory() as scratch:
        request = {
            "model": model_path(),
            "train": str(folder / "train_dataset.json"),
            "val": str(folder / "val_dataset.json"),
            "epochs": args.epochs,
            "threads": args.threads,
            "vectors": str(Path(scratch, "vectors.npz")),
        }
        peer = run_peer("bench_llama_index_peer.py", request)
        with np.load(request["vectors"]) as vectors:
            queries = dict(zip(val.queries, vectors["queries"], strict=True))
            documents = dict(zip(val.corpus, vectors["documents"], strict=True))
    encoder = PrecomputedEncoder(queries, documents)
    return peer, score(encoder, val.queries, val.relevant)


if __name__ == "__main__":
    main()
