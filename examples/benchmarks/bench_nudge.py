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
PARTS = {
    "γ chosen": "the whole call. Ours reads ids and judgments of training and "
    "validation data, looks their vectors up and checks them; nudge-ft is given "
    "vectors and row numbers",
    "γ given": "the same calls with the γ that nudge-ft chose",
    "choice of γ alone": "γ chosen less γ given, round by round. Of ours this is "
    "reading the validation data and trying every γ; of nudge-ft trying every γ",
}


def compare(args, data, method):
    """Versions of the peer, and rows of one method: parts of a fit, and its quality."""
    train = data.ids["train"], data.answers["train"]
    test = data.ids["test"], data.answers["test"]
    held_out = {"X_val": data.ids["val"], "y_val": data.answers["val"]}
    score = RetrievalScorer("ndcg@10", corpus=data.corpus)

    def fit(held_out, **settings):
        finetuner = CorpusFinetuner(data.encoder, method=method, **settings)
        return timed(lambda: finetuner.fit(*train, corpus=data.corpus, **held_out))

    fit({}, gamma=0.1, validation_fraction=None)  # the first call pays for imports
    theirs, ours = ({part: [] for part in PARTS} for _ in range(2))
    for _ in range(args.repeats):
        peer, moved = fit_peer(args, data, method)
        add_round(theirs, peer["γ chosen"], peer["γ given"])
        seconds, chosen = fit(held_out, refit=False)
        of_given, given = fit({}, gamma=peer["gamma"], validation_fraction=None)
        add_round(ours, seconds, of_given)

    rows = [
        {
            "": f"{method}, {part}",
            "nudge-ft, s": statistics.median(theirs[part]),
            "ours, s": statistics.median(ours[part]),
            "times as fast": median_ratio(theirs[part], ours[part]),
        }
        for part in PARTS
    ]
    for row, finetuner in zip(rows, (chosen, given), strict=False):
        row |= {"γ of nudge-ft": peer["gamma"], "our γ": finetuner.gamma_}
        row["test nDCG@10"] = score(finetuner, *test)
    difference = np.abs(given.transform_documents(data.corpus) - moved).max()
    rows[1]["largest difference"] = float(difference)
    # as users call it: γ by the training queries, each held out once, then all of them
    scores = [score(fit({}, random_state=seed)[1], *test) for seed in range(N_SEEDS)]
    row = {"": f"{method}, defaults", "test nDCG@10": statistics.median(scores)}
    rows.append({**row, "lowest": min(scores), "highest": max(scores)})
    return peer["versions"], rows


def add_round(parts, chosen, given):
    for part, seconds in zip(PARTS, (chosen, given, chosen - given), strict=True):
        parts[part].append(seconds)


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
    parser.add_argument("--repeats", type=int, default=5, help="interleaved rounds")
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
        **PARTS,
    )


if __name__ == "__main__":
    main()
