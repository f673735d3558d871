"""Memory of fine-tuning a model on pairs of texts that lie on disk.

Pairs are written as a data set of Hugging Face. A fresh process loads it, trains a
static model on some batches of it, and a thread samples its anonymous memory (RssAnon:
what the process itself has allocated; pages of the files are not counted, the system
drops them at will). So for two numbers of pairs: the difference is what a pair takes.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _common import (
    PeakMemory,
    make_parser,
    report,
    start,
    timed,
    vocabulary,
    write_static_model,
)

QUERY, DOCUMENT = 8, 40  # words
PORTION = 20_000


def write_pairs(folder, n_pairs):
    """Save distinct pairs as a data set; return the size of its texts in MB."""
    import datasets
    import pyarrow as pa

    words, rng = np.array(vocabulary()), np.random.default_rng(0)
    arrow, n_bytes = folder / "pairs.arrow", 0
    names = {"query": pa.string(), "document": pa.string()}
    with pa.ipc.new_stream(str(arrow), pa.schema(names)) as stream:
        for first in range(0, n_pairs, PORTION):
            count = min(PORTION, n_pairs - first)
            drawn = words[rng.integers(len(words), size=(count, QUERY + DOCUMENT))]
            rows = [f"{first + i} {' '.join(row)}" for i, row in enumerate(drawn)]
            cut = [row.split(" ", QUERY) for row in rows]
            columns = {
                "query": [" ".join(row[:QUERY]) for row in cut],
                "document": [f"{first + i} {row[-1]}" for i, row in enumerate(cut)],
            }
            n_bytes += sum(len(t) for column in columns.values() for t in column)
            stream.write_table(pa.table(columns, pa.schema(names)))
    datasets.Dataset.from_file(str(arrow)).save_to_disk(str(folder / "pairs"))
    arrow.unlink()
    return n_bytes / 1e6


def train(args):
    """What the fresh process does; prints JSON."""
    import datasets

    from skembft import EmbeddingFinetuner

    finetuner = EmbeddingFinetuner(
        str(Path(args.worker, "model")),
        validation_fraction=None,
        trainer_params={"max_steps": args.steps},
        random_state=0,
    )
    few = [(f"query {i}", f"document {i}") for i in range(50)]
    EmbeddingFinetuner(**finetuner.get_params()).fit(few)  # imports, optimizer
    pairs = datasets.load_from_disk(str(Path(args.worker, "pairs")))
    before = PeakMemory.now()
    memory = PeakMemory()
    memory.start()
    X = [tuple(row.values()) for row in pairs] if args.lists else pairs
    seconds, _ = timed(lambda: finetuner.fit(X))
    memory.stop()
    print(json.dumps({"seconds": seconds, "before": before, "peak": memory.peak}))


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[100_000, 5_000_000])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lists", action="store_true", help="of the pairs, to compare")
    parser.add_argument("--worker", help="for internal use: folder of the pairs")
    args = start(parser)
    if args.worker:
        return train(args)
    rows = []
    for n_pairs in args.pairs:
        with tempfile.TemporaryDirectory() as folder:
            megabytes = write_pairs(Path(folder), n_pairs)
            write_static_model(Path(folder, "model"), 64)
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", folder]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True
            )
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            {
                "pairs": n_pairs,
                "MB of texts": megabytes,
                "seconds": found["seconds"],
                "anonymous MB before": found["before"],
                "peak": found["peak"],
            }
        )
    facts = {}
    if len(rows) > 1 and rows[0]["peak"] is not None:
        few, many = rows[0], rows[-1]
        more = many["pairs"] - few["pairs"]
        facts["bytes_a_pair_more"] = (many["peak"] - few["peak"]) * 1e6 / more
        texts = many["MB of texts"] - few["MB of texts"]
        facts["bytes_of_its_texts"] = texts * 1e6 / more
    report(args, "EmbeddingFinetuner on pairs of texts on disk", rows, **facts)


if __name__ == "__main__":
    main()
