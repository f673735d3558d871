"""Memory and speed of training on pairs of vectors that lie on disk.

Queries and documents are memory maps of float32 vectors. A fresh process trains on them
while a thread samples its anonymous memory (RssAnon: what the process itself has
allocated; pages of the files are not counted, the system drops them at will).
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import PeakMemory, make_parser, report, start, timed


def write_vectors(folder, n_pairs, dim):
    """Write X.npy and y.npy: documents, and queries that are rotated noisy copies."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32)
    shape = (n_pairs, dim)
    X, y = (
        np.lib.format.open_memmap(folder / name, "w+", np.float32, shape)
        for name in ("X.npy", "y.npy")
    )
    for start_row in range(0, n_pairs, 10_000):
        rows = slice(start_row, min(start_row + 10_000, n_pairs))
        y[rows] = rng.normal(size=y[rows].shape)
        noise = rng.normal(size=y[rows].shape)
        X[rows] = y[rows] + 0.3 * y[rows] @ rotation + 0.3 * noise
    X.flush()
    y.flush()


def train(args):
    """What the fresh process does; prints JSON."""
    import torch  # noqa: F401 (its import is not part of the fit)

    from skembft import AdapterFinetuner

    X, y = (np.load(Path(args.worker, f"{name}.npy"), mmap_mode="r") for name in "Xy")
    finetuner = AdapterFinetuner(
        None,
        negatives=args.negatives,
        epochs=args.epochs,
        validation_fraction=None,
        random_state=0,
    )
    before = PeakMemory.now()
    memory = PeakMemory()
    memory.start()
    seconds, _ = timed(lambda: finetuner.fit(X, y))
    memory.stop()
    answer = {"seconds": seconds, "before": before, "peak": memory.peak}
    print(json.dumps({**answer, "steps": finetuner.n_iter_}))


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--negatives", default="random", help="of AdapterFinetuner")
    parser.add_argument("--worker", help="for internal use: folder of the vectors")
    args = start(parser)
    if args.worker:
        return train(args)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        write_vectors(Path(folder), args.pairs, args.dim)
        written = time.perf_counter() - begin
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", folder]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(answer.stdout.splitlines()[-1])
    memory = {"anonymous MB before": found["before"], "peak": found["peak"]}
    if found["peak"] is None:
        memory = dict.fromkeys(memory, "not available")
    row = {
        "pairs": args.pairs,
        "epochs": args.epochs,
        "steps": found["steps"],
        "seconds": found["seconds"],
        "pairs a second": args.pairs * args.epochs / found["seconds"],
        **memory,
        "MB on disk": 2 * args.pairs * args.dim * 4 / 1e6,
    }
    title = f"AdapterFinetuner(None) on memory-mapped {args.dim}-d float32 vectors"
    written = f"in {written:.0f} s, before the fit"
    report(args, title, [row], negatives=args.negatives, vectors_written=written)


if __name__ == "__main__":
    main()
