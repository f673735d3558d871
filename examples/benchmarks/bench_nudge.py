"""`CorpusFinetuner` against nudge-ft: equal vectors at its γ, and the time to choose γ.

With data: NFCorpus, encoded with all-MiniLM-L6-v2 (fit on train, γ by dev, nDCG@10 on
test). Without (or with --random): random vectors of the size of NFCorpus.
"""

import statistics
import tempfile
from pathlib import Path

import numpy as np
from _common import (
    make_parser,
    median_ratio,
    report,
    run_peer,
    start,
    timed,
)
from _nudge_data import nfcorpus, random_data

from skembft import CorpusFinetuner
from skembft.metrics import RetrievalScorer

N_SEEDS = 3


def compare(args, data, method):
    """Versions of the peer, and rows of one method: choosing γ, and at the peer's γ."""
    train = data.ids["train"], data.answers["train"]
    test = data.ids["test"], data.answers["test"]
    held_out = {"X_val": data.ids["val"], "y_val": data.answers["val"]}
    score = RetrievalScorer("ndcg@10", corpus=data.corpus)

    def fit(held_out, **settings):
        finetuner = CorpusFinetuner(data.encoder, method=method, **settings)
        return timed(lambda: finetuner.fit(*train, corpus=data.corpus, **held_out))

    theirs = {"choosing γ": [], "γ given": []}
    ours = {"choosing γ": [], "γ given": []}
    for _ in range(args.repeats):
        peer, moved = fit_peer(args, data, method)
        for how in theirs:
            theirs[how].append(peer[how])
        seconds, chosen = fit(held_out, refit=False)
        ours["choosing γ"].append(seconds)
        seconds, given = fit({}, gamma=peer["gamma"], validation_fraction=None)
        ours["γ given"].append(seconds)

    rows = [
        {
            "": f"nudge-ft, {method}, {how}",
            "seconds": statistics.median(seconds),
            "times as fast": 1.0,
            "γ": peer["gamma"],
        }
        for how, seconds in theirs.items()
    ]
    for how, finetuner in (("choosing γ", chosen), ("γ given", given)):
        row = {
            "": f"CorpusFinetuner, {method}, {how}",
            "seconds": statistics.median(ours[how]),
            "times as fast": median_ratio(theirs[how], ours[how]),
            "γ": finetuner.gamma_,
            "largest difference": None,
            "test nDCG@10": score(finetuner, *test),
        }
        rows.append(row)
    difference = np.abs(given.transform_documents(data.corpus) - moved).max()
    rows[-1]["largest difference"] = float(difference)
    # as users call it: γ by a tenth of the training queries, then all of them
    scores = [score(fit({}, random_state=seed)[1], *test) for seed in range(N_SEEDS)]
    row = {"": f"CorpusFinetuner, {method}, defaults"}
    row["test nDCG@10"] = statistics.median(scores)
    rows.append({**row, "lowest": min(scores), "highest": max(scores)})
    return peer["versions"], rows


def fit_peer(args, data, method):
    with tempfile.TemporaryDirectory() as scratch:
        request = {
            "method": method,
            "threads": args.threads,
            "vectors": str(Path(scratch, "vectors.npz")),
            "moved": str(Path(scratch, "moved.npy")),
            "train": data.answers["train"],
            "val": data.answers["val"],
        }
        np.savez(request["vectors"], documents=data.documents, **data.queries)
        return run_peer("bench_nudge_peer.py", request), np.load(request["moved"])


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--random", action="store_true", help="random vectors")
    parser.add_argument("--cache-dir", help="keep the encoded NFCorpus here")
    args = start(parser)
    use_random = args.random or not args.data
    data = random_data() if use_random else nfcorpus(args, args.cache_dir)
    rows = []
    for method in ("nudge_m", "nudge_n"):
        peer, added = compare(args, data, method)
        rows += added
    base = RetrievalScorer("ndcg@10", corpus=data.corpus)(
        data.encoder, data.ids["test"], data.answers["test"]
    )
    report(
        args,
        "CorpusFinetuner and nudge-ft",
        [*rows, {"": "untouched vectors", "test nDCG@10": base}],
        vectors="random, the size of NFCorpus" if use_random else "NFCorpus",
        documents=len(data.corpus),
        queries=", ".join(f"{len(q)} {split}" for split, q in data.ids.items()),
        peer=peer,
    )


if __name__ == "__main__":
    main()
