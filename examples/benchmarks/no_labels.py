"""Can an adapter be had without labelled pairs, and without a language model?

Prints the gain in nDCG@10 on test queries over the untouched all-MiniLM-L6-v2 of

first sentences  adapters trained on (first sentence or title, document) pairs of the
                 corpus (inverse cloze), at most 2,000 of them, the document with and
                 without that sentence
PCA              vectors projected on the main directions of unlabelled queries, those
                 of the training split, of which no document is known
labelled pairs   the same adapter trained on the pairs of the training split
"""

import re
import warnings

import numpy as np
import torch
from _common import make_parser, report, start
from _retrieval_sets import (
    NAMES,
    add_arguments,
    load_problems,
    make_encoder,
    run_all,
)
from sklearn.utils import resample

from skembft import AdapterFinetuner

NEGATIVES = ("auto", "batch")
MAX_PAIRS = 2000
SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")
COMPONENTS = (32, 64, 128, 256)


def first_sentences(documents):
    """(first sentence, the rest) of documents that have more than one of them."""
    split = [SENTENCE.split(document.strip(), maxsplit=1) for document in documents]
    return [parts for parts in split if len(parts) == 2 and len(parts[0].split()) > 2]


class Projected:
    """The vectors of an encoder in the main directions of some queries."""

    def __init__(self, encoder, queries, n_components):
        self.encoder = encoder
        vectors = encoder.transform(queries)
        _, _, directions = np.linalg.svd(
            vectors - vectors.mean(axis=0), full_matrices=False
        )
        self.directions = directions[:n_components].T

    def transform(self, queries):
        return self.encoder.transform(queries) @ self.directions

    def transform_documents(self, documents):
        return self.encoder.transform_documents(documents) @ self.directions


def ways(encoder, problem, seed):
    """Yield (name, what ranks)."""
    corpus = [d for d in problem.test_corpus if first_sentences([d])]
    if len(corpus) > MAX_PAIRS:
        corpus = resample(corpus, replace=False, n_samples=MAX_PAIRS, random_state=seed)
    sentences, rests = zip(*first_sentences(corpus), strict=True)
    for name, documents in (("whole documents", corpus), ("the rest", rests)):
        for negatives in NEGATIVES:
            finetuner = AdapterFinetuner(
                encoder, negatives=negatives, random_state=seed
            )
            finetuner.fit(list(sentences), list(documents))
            yield f"first sentences, {name}, {negatives}", finetuner
    for n in COMPONENTS:
        yield f"PCA, {n}", Projected(encoder, problem.train[0], n)
    labelled = AdapterFinetuner(encoder, random_state=seed)
    yield "labelled pairs", labelled.fit(*problem.train, corpus=problem.corpus)


def run(args, cache_dir, name, seed):
    """Gains of every way, the mean over the problems of a data set."""
    warnings.simplefilter("ignore", UserWarning)  # training may not help
    torch.set_num_threads(1)
    encoder = make_encoder(cache_dir)
    table = []
    for problem in load_problems(args, name, seed)[:2]:
        base = problem.score(encoder)
        table.append(
            {
                way: problem.score(ranker) - base
                for way, ranker in ways(encoder, problem, seed)
            }
        )
    return {way: np.mean([row[way] for row in table]) for way in table[0]}


def main():
    parser = make_parser(__doc__)
    add_arguments(parser)
    args = start(parser)
    tasks = [(name, seed) for name in NAMES for seed in range(args.seeds)]
    results = run_all(args, run, tasks)
    rows = []
    for way in results[0]:
        values = np.reshape([r[way] for r in results], (len(NAMES), args.seeds))
        row = {"": way, "mean": f"{values.mean():+.4f}"}
        for name, gains in zip(NAMES, values, strict=True):
            row[name] = f"{gains.mean():+.4f} ± {np.ptp(gains) / 2:.4f}"
        rows.append(row)
    report(args, "Gain in nDCG@10 without labels", rows, seeds=args.seeds)


if __name__ == "__main__":
    main()
