"""How far `CorpusFinetuner` moves documents, situation by situation.

Prints the gain in nDCG@10 on test queries over the untouched all-MiniLM-L6-v2, the mean
over seeds: of the gamma that the defaults choose; of the one that a tenth of the
queries choose; of the one that a tenth choose all of which ask for documents that
others move; and of the one that is best for the test queries, which nobody knows.
The situations are those of situations.py, and some more: documents of which training
queries ask for a few only, several times, and pairs put together at random.
"""

import re
import warnings
from collections import Counter

import numpy as np
import torch
from _common import data_folder, load_ten_k, make_parser, report, start
from _retrieval_sets import NAMES, add_arguments, make_encoder, run_all
from situations import make_problem, rows_of, situations, summary_rows, with_noise

from skembft import CorpusFinetuner
from skembft.datasets import load_beir, load_docstrings

GAMMAS = [round(0.02 * i, 2) for i in range(1, 25)]


def more_situations(args, seed):
    rng = np.random.RandomState(5000 + seed)

    def shuffled(rows):
        return [rows[i] for i in rng.permutation(len(rows))]

    data = load_beir(data_folder(args, "cranfield"), "test")
    rows = shuffled(rows_of(data))
    for n in (30, 100):
        yield make_problem(f"Cranfield, {n}", rows[:n], rows[140:], data.corpus)
    first, second = load_ten_k(args)
    rows = shuffled([*rows_of(first), *rows_of(second)])
    corpus = [*first.corpus, *second.corpus]
    for n in (400, 1000):
        name = f"llamaindex-10k, {n}, both reports"
        yield make_problem(name, rows[:n], rows[1000:], corpus)
    # two queries a document: its summary line, and its name
    data = load_docstrings()
    rows = rows_of(data)
    names = dict(zip(data.relevant, data.query_ids, strict=True))
    named = [(re.sub(r"[._]", " ", names[next(iter(r))]), r) for _, r in rows]
    rows = shuffled([*rows, *named])
    for n in (300, 1500, 3500):
        name = f"docstrings, {n}, lines and names"
        yield make_problem(name, rows[:n], rows[3500:4500], data.corpus)


def run(args, cache_dir, problem, seed):
    """Gains of a situation and of its noise."""
    warnings.simplefilter("ignore", UserWarning)  # moving may not help
    torch.set_num_threads(1)
    encoder = make_encoder(cache_dir)
    return [(p.name, gains(p, encoder, seed)) for p in with_noise(problem, seed)]


def gains(problem, encoder, seed):
    base = problem.score(encoder)

    def gain(**params):
        finetuner = CorpusFinetuner(encoder, random_state=seed, **params)
        finetuner.fit(*problem.train, corpus=problem.corpus)
        return problem.score(finetuner) - base

    given = {g: gain(gamma=g, validation_fraction=None) for g in GAMMAS}
    given[0.0] = 0.0
    by_moved = given[gamma_by_moved(problem, encoder, seed)]
    return gain(), gain(validation_fraction=0.1), by_moved, max(given.values())


def gamma_by_moved(problem, encoder, seed):
    """The gamma that queries of moved documents choose; 0 for fewer than ten."""
    X, y = problem.train
    count = Counter(document for answers in y for document in answers)
    held_out = []
    for i in np.random.RandomState(seed).permutation(len(X)):
        if all(count[document] > 1 for document in y[i]):
            held_out.append(i)
            count.subtract(y[i])
        if len(held_out) >= max(10, len(X) // 10):
            break
    if len(held_out) < 10:
        return 0.0
    kept = np.setdiff1d(np.arange(len(X)), held_out)
    train, test = (
        ([X[i] for i in rows], [y[i] for i in rows]) for rows in (kept, held_out)
    )
    finetuner = CorpusFinetuner(encoder, random_state=seed)
    finetuner.fit(*train, corpus=problem.corpus, X_val=test[0], y_val=test[1])
    return finetuner.gamma_


def main():
    parser = make_parser(__doc__)
    add_arguments(parser)
    args = start(parser)
    tasks = [
        (problem, seed)
        for seed in range(args.seeds)
        for of_seed in (situations, more_situations)
        for problem in of_seed(args, seed)
    ]
    results = run_all(args, run, tasks)
    report(
        args,
        "Gain in nDCG@10 on test queries over the untouched vectors",
        summary_rows(results, row),
        seeds=args.seeds,
        sets=", ".join(NAMES),
    )


def row(name, values):
    """`values`: (seeds, ways)."""
    default, tenth, by_moved, best = values.mean(axis=0)
    lowest = values.min(axis=0)
    return {
        "": name,
        "defaults": f"{default:+.4f}",
        "lowest": float(lowest[0]),
        "validation_fraction=0.1": f"{tenth:+.4f}",
        "lowest ": float(lowest[1]),
        "by queries of moved documents": f"{by_moved:+.4f}",
        "lowest  ": float(lowest[2]),
        "best gamma in hindsight": f"{best:+.4f}",
    }


if __name__ == "__main__":
    main()
