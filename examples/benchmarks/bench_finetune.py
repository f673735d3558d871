"""Time and memory of `EmbeddingFinetuner` on a CPU, against what it is built on.

Pairs are docstrings and their summaries, cut to the lengths that a part is about; no
text comes twice. What a part compares is called in turn; models are loaded before.

trainer    The bare SentenceTransformerTrainer: time, and the weights that come out.
vocabulary The same of a model that knows the tokens of many languages, and of a static
           model, which is only a table.
precision  float32 and bfloat16.
lengths    Texts of mixed lengths, with sort_by_length and without.
trainable  All weights, the top layers only, and LoRA.
memory     A step of 1,024 pairs with a cached loss, and of 32 with the plain one.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
from _common import (
    bare_trainer,
    has_bf16,
    interleave,
    make_parser,
    median_ratio,
    model_path,
    report,
    start,
    timed,
)
from sklearn.base import clone

from skembft import EmbeddingFinetuner, SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.metrics import RetrievalScorer

VOCABULARY = 250_000  # about that of XLM-RoBERTa
STATIC_DIM = 1024  # as of sentence-transformers/static-retrieval-mrl-en-v1
STATUS = Path("/proc/self/status")
# for glibc: tensors are mapped one by one, so that freeing them tells
RETURN_FREE_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
# pairs of the step whose memory is measured, by loss
PAIRS_OF_STEP = {
    "multiple_negatives_ranking": 32,
    "cached_multiple_negatives_ranking": 1024,
}


def docstring_pairs(n_words=(10_000,)):
    """Lists of queries and documents in random order, none of them twice.

    Queries are cut to 15 words, documents to `n_words` in turn.
    """
    data = load_docstrings()
    pairs = {}
    for i in np.random.default_rng(0).permutation(len(data.queries)):
        document = cut(data.relevant[i], n_words[len(pairs) % len(n_words)])
        pairs.setdefault(cut(data.queries[i], 15), document)
    distinct = {document: query for query, document in pairs.items()}
    return list(distinct.values()), list(distinct)


def cut(text, n_words):
    return " ".join(text.split()[:n_words])


def make(**params):
    params = {"model_id": model_path(), "device": "cpu", "random_state": 0} | params
    return EmbeddingFinetuner(**params)


def largest_difference(model, other):
    """Of any weight of two models."""
    ours, theirs = model.state_dict(), other.state_dict()
    return max(float((ours[n] - theirs[n]).abs().max()) for n in ours | theirs)


def fit_in_turn(finetuners, queries, documents, repeats):
    """Return {name: [seconds]} of the fits, after a short one that is not timed."""
    functions = {
        name: partial(finetuner.fit, queries, documents)
        for name, finetuner in finetuners.items()
    }
    make(epochs=1).fit(queries[:10], documents[:10])  # first calls set things up
    return interleave(functions, repeats)


# ---- the parts


def against_trainer(args):
    """26 steps of 10 short pairs, which no batch is worth splitting for."""
    variants = {
        "EmbeddingFinetuner, sort_by_length=False": make(sort_by_length=False),
        "EmbeddingFinetuner": make(),
    }
    compare_with_trainer(
        args, "the bare SentenceTransformerTrainer", model_path(), variants, "≤ 1.05"
    )


def large_vocabulary(args):
    """The same, of a model with as many tokens as those of many languages have.

    And of a static model with random vectors: what it retrieves does not matter here.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        StaticEmbedding,
    )

    large = SentenceTransformer(model_path(), device="cpu")
    large.transformers_model.resize_token_embeddings(VOCABULARY)
    table = StaticEmbedding(large.tokenizer, embedding_dim=STATIC_DIM)
    static = SentenceTransformer(modules=[table, Normalize()], device="cpu")
    for name, model in ((f"{VOCABULARY:,} tokens", large), ("a static model", static)):
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, create_model_card=False)
            variants = {"EmbeddingFinetuner": make(model_id=folder)}
            compare_with_trainer(
                args, f"the bare trainer, {name}", folder, variants, None
            )


def compare_with_trainer(args, trainer, path, variants, limit):
    from sentence_transformers import SentenceTransformer

    n_pairs = 30 if args.quick else 130
    queries, documents = (texts[:n_pairs] for texts in docstring_pairs([15]))
    loaded = SentenceTransformer(path, device="cpu")
    models = {}

    def train_bare():
        models["bare"] = bare_trainer(deepcopy(loaded), queries, documents)

    def fit(name, finetuner):
        models[name] = finetuner.fit(queries, documents).model_

    bare_trainer(deepcopy(loaded), queries[:10], documents[:10], epochs=1)
    for finetuner in variants.values():
        clone(finetuner).set_params(epochs=1).fit(queries[:10], documents[:10])
    seconds = interleave(
        {"bare": train_bare, **{n: partial(fit, n, f) for n, f in variants.items()}},
        args.repeats,
    )
    bare = seconds.pop("bare")
    rows = [
        {
            "": "SentenceTransformerTrainer",
            "seconds": statistics.median(bare),
            "× trainer": 1.0,
        }
    ]
    for name, values in seconds.items():
        rows.append(
            {
                "": name,
                "seconds": statistics.median(values),
                "× trainer": median_ratio(values, bare),
                "limit": limit,
                "largest difference": largest_difference(models["bare"], models[name]),
            }
        )
    report(
        args,
        f"A fit in units of {trainer}",
        rows,
        pairs=f"{n_pairs}, batches of 10, 2 epochs",
        rounds=f"{args.repeats}, interleaved; medians, of ratios too",
    )


def bfloat16(args):
    """Short documents, and docstrings as they are, most of them cut at 256 tokens."""
    if not has_bf16():
        print("precision: not run, as this CPU has no bfloat16")
        return
    rows = []
    # the batches of short pairs are cheap: three times as many of them
    for name, n_words, n_pairs in (("15 words", 15, 192), ("docstrings", 10_000, 64)):
        n_pairs = 16 if args.quick else n_pairs
        queries, documents = (t[:n_pairs] for t in docstring_pairs([n_words]))
        finetuners = {p: make(precision=p, epochs=1) for p in ("float32", "auto")}
        seconds = fit_in_turn(finetuners, queries, documents, args.repeats)
        rows += [
            {
                "": f"{name}, {precision}",
                "pairs": n_pairs,
                "seconds": statistics.median(values),
                "times as fast": median_ratio(seconds["float32"], values),
                "limit": "≥ 1.8" if precision == "auto" else None,
            }
            for precision, values in seconds.items()
        ]
    report(
        args,
        "Training in bfloat16",
        rows,
        fits="1 epoch in batches of 10",
        rounds=f"{args.repeats}, interleaved; medians, of ratios too",
    )


def mixed_lengths(args):
    """Documents cut to 20, 60 or 200 words, so that batches are mostly padding."""
    n_train, n_test, limit = (32, 50, 64) if args.quick else (480, 300, None)
    queries, documents = docstring_pairs([20, 60, 200])
    test = slice(n_train, n_train + n_test)
    finetuners = {
        f"sort_by_length={flag}": make(
            batch_size=32, epochs=1, max_seq_length=limit, sort_by_length=flag
        )
        for flag in (False, True)
    }
    repeats = min(args.repeats, 3)
    seconds = fit_in_turn(finetuners, queries[:n_train], documents[:n_train], repeats)

    score = RetrievalScorer("ndcg@10")
    untouched = SentenceEncoder(model_path(), max_seq_length=limit, device="cpu")
    rows = [
        {
            "": name,
            "seconds": statistics.median(seconds[name]),
            "times as fast": median_ratio(
                seconds["sort_by_length=False"], seconds[name]
            ),
            "limit": "≥ 1.3" if finetuner.sort_by_length else None,
            "test nDCG@10": score(finetuner, queries[test], documents[test]),
        }
        for name, finetuner in finetuners.items()
    ]
    base = score(untouched, queries[test], documents[test])
    rows.append({"": "untouched model", "test nDCG@10": base})
    report(
        args,
        "Texts of mixed lengths in batches of 32",
        rows,
        pairs=f"{n_train} to train, 1 epoch, and {n_test} to test",
        rounds=f"{repeats}, interleaved; medians, of ratios too",
    )


def partly_trained(args):
    """Three epochs, in which layers that are not trained are computed once."""
    n_pairs, batch_size, max_seq_length = (16, 8, 64) if args.quick else (256, 32, 128)
    queries, documents = docstring_pairs()
    finetuners = {
        f"trainable={trainable!r}": make(
            trainable=trainable,
            batch_size=batch_size,
            epochs=3,
            max_seq_length=max_seq_length,
        )
        for trainable in ("all", 2, "lora")
    }
    repeats = min(args.repeats, 3)
    seconds = fit_in_turn(finetuners, queries[:n_pairs], documents[:n_pairs], repeats)
    everything = seconds["trainable='all'"]
    rows = [
        {
            "": name,
            "seconds an epoch": statistics.median(values) / 3,
            "times as fast": median_ratio(everything, values),
        }
        for name, values in seconds.items()
    ]
    report(
        args,
        "Training a part of the weights",
        rows,
        pairs=f"{n_pairs}, batches of {batch_size}, 3 epochs, "
        f"max_seq_length={max_seq_length}",
        rounds=f"{repeats}, interleaved; medians, of ratios too",
    )


def memory_of_a_step(args):
    """Each in a fresh process, with and without what malloc keeps for later."""
    if not STATUS.exists():
        print(f"memory is skipped: {STATUS} is there on Linux only.")
        return
    repeats = min(args.repeats, 3)
    ways = [
        ("returns what is free", RETURN_FREE_MEMORY, 1),  # hardly varies
        ("its defaults", {}, repeats),
    ]
    rows = []
    for malloc, environment, rounds in ways[:1] if args.quick else ways:
        steps = {
            loss: [run_step(loss, environment) for _ in range(rounds)]
            for loss in PAIRS_OF_STEP
        }
        peaks = {
            loss: statistics.median(step["peak"] for step in taken)
            for loss, taken in steps.items()
        }
        rows += [
            {
                "": loss,
                "pairs": taken[0]["pairs"],
                "malloc": malloc,
                "MB": peaks[loss],
                "× plain": peaks[loss] / peaks["multiple_negatives_ranking"],
                "limit": "≤ 1.3" if loss.startswith("cached") else None,
                "seconds": statistics.median(step["seconds"] for step in taken),
            }
            for loss, taken in steps.items()
        ]
    report(
        args,
        "Memory of one step",
        rows,
        documents="64 tokens each",
        memory="highest of the process (VmHWM), less its highest once the model is "
        "loaded",
        rounds=f"{repeats}, medians; 1 where malloc returns what is free",
    )


def run_step(loss, environment):
    """Take a step in a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", loss]
    answer = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def take_step(args):
    """What the fresh process does; prints JSON."""
    batch_size = PAIRS_OF_STEP[args.worker]
    if args.quick:
        batch_size = min(batch_size, 128)
    queries, documents = docstring_pairs([64])
    pairs = [
        pair
        for pair in zip(queries, documents, strict=True)
        if len(pair[1].split()) == 64
    ][:batch_size]
    options = {"max_seq_length": 64, "device": "cpu"}
    SentenceEncoder(model_path(), **options).transform(["load the model"])
    loaded = peak_mb()
    finetuner = EmbeddingFinetuner(
        model_path(), loss=args.worker, batch_size=batch_size, epochs=1, **options
    )
    seconds, _ = timed(lambda: finetuner.fit(pairs))
    if (len(pairs), finetuner.n_iter_) != (batch_size, 1):
        sys.exit("The docstrings did not make one step.")
    peak = peak_mb() - loaded
    print(json.dumps({"pairs": batch_size, "peak": peak, "seconds": seconds}))


def peak_mb():
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1e3
    raise OSError(f"{STATUS} has no VmHWM.")


PARTS = {
    "trainer": against_trainer,
    "vocabulary": large_vocabulary,
    "precision": bfloat16,
    "lengths": mixed_lengths,
    "trainable": partly_trained,
    "memory": memory_of_a_step,
}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="interleaved rounds of the first three parts; at most 3 of the others",
    )
    parser.add_argument("--quick", action="store_true", help="few pairs, one round")
    parser.add_argument("--worker", choices=PAIRS_OF_STEP, help="for internal use")
    args = start(parser)
    if args.worker:
        return take_step(args)
    if args.quick:
        args.repeats = 1
    for name in args.parts:
        PARTS[name](args)


if __name__ == "__main__":
    main()
