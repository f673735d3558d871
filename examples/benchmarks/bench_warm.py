"""Two million short texts into one directory by two processes, one of which is killed.

The model is a static one with the vocabulary of all-MiniLM-L6-v2 and random vectors.
First one process encodes all of them, then two do, then two of which one is killed in
the middle. How many texts entered a model, and how many vectors are in the directory,
tells whether any was encoded twice; memory is the highest anonymous memory of a
process, over that of one with its texts and the model.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import (
    PeakMemory,
    counted_rows,
    make_parser,
    report,
    start,
    vocabulary,
    write_static_model,
)

from skembft import SentenceEncoder
from skembft.encoders._shards import ShardFolder

DIM = 256
WORDS = 8  # of a text


def make_texts(n):
    """Distinct texts of eight words of the vocabulary."""
    words = np.array(vocabulary())
    drawn = words[np.random.default_rng(0).integers(len(words), size=(n, WORDS - 1))]
    return [f"{i} {' '.join(row)}" for i, row in enumerate(drawn)]


def warm(args):
    """In a process of its own: warm, and say on each line what was encoded so far."""
    texts = make_texts(args.texts)
    encoder = SentenceEncoder(args.model, cache_dir=args.cache_dir)
    SentenceEncoder(args.model).transform(["loads the model"])
    before = PeakMemory.now() or 0
    memory = PeakMemory()
    memory.start()
    with counted_rows() as count, open(args.notes, "w", encoding="utf-8") as notes:

        def note():
            memory_mb = memory.peak and memory.peak - before
            notes.write(json.dumps({"rows": count["rows"], "memory": memory_mb}) + "\n")
            notes.flush()

        compute = encoder._compute

        def noting(*arguments, **options):
            for portion in compute(*arguments, **options):
                note()
                yield portion

        encoder._compute = noting
        encoder.warm(texts)
        note()


class Run:
    """Processes that warm one directory."""

    def __init__(self, args, folder, model):
        self.args, self.folder, self.model = args, folder, model
        folder.mkdir()
        self.cache_dir = folder / "vectors"
        self.notes = []

    def start(self):
        self.notes.append(self.folder / f"{len(self.notes)}.jsonl")
        command = [sys.executable, __file__, "--worker"]
        command += ["--texts", str(self.args.texts), "--model", str(self.model)]
        command += ["--cache-dir", str(self.cache_dir), "--notes", str(self.notes[-1])]
        command += ["--threads", str(self.args.threads)]
        return subprocess.Popen(command)

    def noted(self):
        """The last line of every process."""
        lines = [path.read_text().splitlines() for path in self.notes if path.exists()]
        return [json.loads(found[-1]) for found in lines if found]

    def encoded(self):
        return sum(note["rows"] for note in self.noted())

    def go(self, n_processes, kill):
        processes = [self.start() for _ in range(n_processes)]
        while not self.encoded():
            time.sleep(0.01)
        begin = time.perf_counter()
        if kill:
            while self.encoded() < self.args.texts / 3:
                time.sleep(0.01)
            processes[0].send_signal(signal.SIGKILL)
            processes.append(self.start())
        codes = [process.wait() for process in processes]
        assert set(codes) <= {0, -signal.SIGKILL}, codes
        return time.perf_counter() - begin

    def row(self, name, seconds):
        (path,) = self.cache_dir.iterdir()
        store = ShardFolder(str(path))
        store.refresh()
        return {
            "": name,
            "seconds": seconds,
            "texts a second": self.args.texts / seconds,
            "encoded": self.encoded(),
            "vectors stored": store.n_vectors,
            "files": len(store.shards),
            "MB a process": max(note["memory"] or 0 for note in self.noted()),
        }


def main():
    parser = make_parser(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("--texts", type=int, default=2_000_000)
    for name in ("--model", "--cache-dir", "--notes"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = start(parser)
    if args.worker:
        warm(args)
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_static_model(folder / "model", DIM)
        for n_processes, kill in ((1, False), (2, False), (2, True)):
            title = f"processes: {n_processes}" + ", one killed" * kill
            run = Run(args, folder / f"{n_processes}{kill}", folder / "model")
            rows.append(run.row(title, run.go(n_processes, kill)))
    report(args, f"warm: {args.texts} short texts, {DIM} dimensions", rows)


if __name__ == "__main__":
    main()
