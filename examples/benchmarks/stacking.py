"""Adapter, moved documents, or both: which way of stacking them retrieves best?

Prints nDCG@10 on test queries (mean over seeds, and half the spread) of the untouched
all-MiniLM-L6-v2, of each method alone, and of ways to put the two together.
"""

import warnings

import numpy as np
from _common import make_parser, report, start
from _retrieval_sets import (
    NAMES,
    add_arguments,
    load_problems,
    make_encoder,
    run_all,
)
from sklearn.frozen import FrozenEstimator

from skembft import AdapterFinetuner, CorpusFinetuner


class SumOfScores:
    """Rank by the weighted sum of the cosines of two fitted finetuners."""

    def __init__(self, first, second, weight):
        self.parts = [(first, np.sqrt(weight)), (second, np.sqrt(1 - weight))]

    def transform(self, X):
        return np.hstack([root * part.transform(X) for part, root in self.parts])

    def transform_documents(self, D):
        vectors = [root * part.transform_documents(D) for part, root in self.parts]
        return np.hstack(vectors)


def recipes(encoder, problem, seed):
    """Yield (name, what ranks)."""

    def fit(finetuner):
        finetuner.set_params(random_state=seed)
        return finetuner.fit(*problem.train, corpus=problem.corpus)

    yield "untouched", encoder
    adapter = fit(AdapterFinetuner(encoder))
    yield "A: AdapterFinetuner", adapter
    moved = fit(CorpusFinetuner(encoder))
    yield "C: CorpusFinetuner", moved
    inner = AdapterFinetuner(encoder, random_state=seed)
    yield "C over A", fit(CorpusFinetuner(inner))
    yield "C over the fitted A", fit(CorpusFinetuner(FrozenEstimator(adapter)))
    inner = CorpusFinetuner(encoder, random_state=seed)
    yield "A over C", fit(AdapterFinetuner(inner))
    for weight in (0.3, 0.5, 0.7):
        name = f"{weight} A + {1 - weight:.1f} C, scores"
        yield name, SumOfScores(adapter, moved, weight)


def scores(args, cache_dir, name, seed):
    """Mean nDCG@10 of every recipe over the problems of a data set."""
    warnings.simplefilter("ignore", UserWarning)  # a part may not help
    encoder = make_encoder(cache_dir)
    table = [
        {label: problem.score(ranker) for label, ranker in ways}
        for problem in load_problems(args, name, seed)
        for ways in [recipes(encoder, problem, seed)]
    ]
    return {label: np.mean([row[label] for row in table]) for label in table[0]}


def main():
    parser = make_parser(__doc__)
    add_arguments(parser)
    args = start(parser)
    tasks = [(name, seed) for name in NAMES for seed in range(args.seeds)]
    results = run_all(args, scores, tasks)
    rows = []
    for label in results[0]:
        values = np.reshape([r[label] for r in results], (len(NAMES), args.seeds))
        row = {"": label, "mean": float(values.mean())}
        for name, of_set in zip(NAMES, values, strict=True):
            row[name] = f"{of_set.mean():.4f} ± {np.ptp(of_set) / 2:.4f}"
        rows.append(row)
    report(args, "nDCG@10 on test queries", rows, seeds=args.seeds)


if __name__ == "__main__":
    main()
