"""What the defaults of `AdapterFinetuner` gain, situation by situation.

Few queries and many, documents that answered training queries and documents that did
not, a corpus and none, and pairs put together at random, from which nothing can be
learnt. Prints the gain in nDCG@10 on test queries over the untouched all-MiniLM-L6-v2,
the mean over seeds: of one kind of negatives, a tenth of the queries held out, and
whatever does best on these (`before`), and of the defaults.
"""

import time
import warnings
from unittest import mock

import numpy as np
from _common import data_folder, load_ten_k, make_parser, report, start
from _retrieval_sets import NAMES, Problem, add_arguments, make_encoder, run_all

from skembft import AdapterFinetuner
from skembft._finetuner.chance import Chance
from skembft.datasets import load_beir, load_docstrings

BEFORE = {"negatives": "random", "validation_fraction": 0.1, "interpolation": None}
# whose pairs are also put together at random
NOISE = (
    "NFCorpus, 300",
    "Cranfield, 180",
    "llamaindex-10k, 150",
    "llamaindex-10k, all",
    "docstrings, 200",
    "docstrings, 500, no corpus",
)


def rows_of(data):
    """(query, {document: grade}) of every query."""
    rows = []
    for query, relevant in zip(data.queries, data.relevant, strict=True):
        if not isinstance(relevant, dict):
            documents = [relevant] if isinstance(relevant, str) else relevant
            relevant = dict.fromkeys(documents, 1)
        rows.append((query, relevant))
    return rows


def make_problem(name, train, test, corpus, test_corpus=None, given=True):
    X, y = zip(*train, strict=True)
    return Problem(
        name,
        (list(X), list(y)),
        tuple(map(list, zip(*test, strict=True))),
        corpus if given else None,
        test_corpus or corpus,
    )


def _unseen(name, train, test, corpus, rng):
    """Training queries know one half of the documents, test queries the other."""
    order = rng.permutation(len(corpus))
    halves = [[corpus[i] for i in part] for part in np.array_split(order, 2)]

    def within(rows, documents):
        documents = set(documents)
        kept = [(q, {d: g for d, g in r.items() if d in documents}) for q, r in rows]
        return [(q, r) for q, r in kept if any(g > 0 for g in r.values())]

    parts = [
        within(rows, half) for rows, half in zip((train, test), halves, strict=True)
    ]
    return make_problem(name, *parts, *halves)


def situations(args, seed):
    """Yield the problems, whose names tell the number of training queries."""
    rng = np.random.RandomState(1000 + seed)

    def shuffled(rows):
        return [rows[i] for i in rng.permutation(len(rows))]

    folder = data_folder(args, "nfcorpus")
    data = load_beir(folder, "train")
    train, test = shuffled(rows_of(data)), rows_of(load_beir(folder, "test"))
    for n in (30, 100, 300, 1000):
        yield make_problem(f"NFCorpus, {n}", train[:n], test, data.corpus)
    yield make_problem("NFCorpus, all", train, test, data.corpus)
    name = "NFCorpus, 300, no corpus"
    yield make_problem(name, train[:300], test, data.corpus, given=False)
    yield _unseen("NFCorpus, unseen documents", train, test, data.corpus, rng)

    data = load_beir(data_folder(args, "cranfield"), "test")
    rows = shuffled(rows_of(data))
    yield make_problem("Cranfield, 180", rows[:180], rows[180:], data.corpus)
    yield make_problem("Cranfield, 50", rows[:50], rows[95:], data.corpus)
    yield _unseen(
        "Cranfield, unseen documents", rows[:120], rows[120:], data.corpus, rng
    )

    first, second = load_ten_k(args)
    rows, others = shuffled(rows_of(first)), rows_of(second)
    for n in (20, 40, 150, None):
        name = f"llamaindex-10k, {n or 'all'}"
        yield make_problem(name, rows[:n], others, first.corpus, second.corpus)
    corpus = [*first.corpus, *second.corpus]
    rows = shuffled([*rows, *others])
    half = len(rows) // 2
    for n in (150, half):
        name = f"llamaindex-10k, {n}, seen documents"
        yield make_problem(name, rows[:n], rows[half:], corpus)

    data = load_docstrings()
    queries = sorted(set(data.queries))
    test = {queries[i] for i in rng.permutation(len(queries))[: len(queries) // 4]}
    rows = shuffled(rows_of(data))
    train = [row for row in rows if row[0] not in test]
    held_out = [row for row in rows if row[0] in test]
    for n in (40, 200, None):
        yield make_problem(
            f"docstrings, {n or 'all'}", train[:n], held_out, data.corpus
        )
    name = "docstrings, 500, no corpus"
    yield make_problem(name, train[:500], held_out, data.corpus, given=False)


def gain_of(problem, encoder, params, seed):
    finetuner = AdapterFinetuner(encoder, random_state=seed, **params)
    begin = time.process_time()
    finetuner.fit(*problem.train, corpus=problem.corpus)
    seconds = time.process_time() - begin
    return problem.score(finetuner) - problem.score(encoder), seconds


def run(args, cache_dir, problem, seed):
    """Gains and CPU seconds of both ways, of a situation and of its noise."""
    warnings.simplefilter("ignore", UserWarning)  # training may not help
    encoder = make_encoder(cache_dir)
    out = []
    for each in with_noise(problem, seed):
        with mock.patch.object(Chance, "p_value", 0.0):  # any gain was kept
            before = gain_of(each, encoder, BEFORE, seed)
        out.append((each.name, (before, gain_of(each, encoder, {}, seed))))
    return out


def with_noise(problem, seed):
    """A situation, and the same with documents put to its queries at random."""
    if problem.name not in NOISE:
        return [problem]
    X, y = problem.train
    order = np.random.RandomState(seed).permutation(len(y))
    pairs = X, [y[i] for i in order]
    pools = problem.corpus, problem.test_corpus
    return [problem, Problem(f"{problem.name}, noise", pairs, problem.test, *pools)]


def summary_rows(results, row):
    """Rows of all situations, of their mean and of that of noise.

    `results` are lists of (name, values), `row` makes a row of a name and the values of
    all seeds.
    """
    table = {}
    for result in results:
        for name, values in result:
            table.setdefault(name, []).append(values)
    rows = [row(name, np.array(values)) for name, values in table.items()]
    for kind in (False, True):
        values = [v for name, v in table.items() if name.endswith("noise") == kind]
        rows.append(row("mean of noise" if kind else "mean", np.mean(values, axis=0)))
    return rows


def main():
    parser = make_parser(__doc__)
    add_arguments(parser)
    args = start(parser)
    tasks = [
        (problem, seed)
        for seed in range(args.seeds)
        for problem in situations(args, seed)
    ]
    results = run_all(args, run, tasks)
    report(
        args,
        "Gain in nDCG@10 on test queries over the untouched model",
        summary_rows(results, row),
        seeds=args.seeds,
        sets=", ".join(NAMES),
    )


def row(name, values):
    """`values`: (seeds, before or now, gain or seconds)."""
    gains, seconds = values[:, :, 0], values[:, :, 1].mean(axis=0)
    change = gains[:, 1] - gains[:, 0]
    return {
        "": name,
        "before": f"{gains[:, 0].mean():+.4f}",
        "defaults": f"{gains[:, 1].mean():+.4f}",
        "change": f"{change.mean():+.4f} ± {np.ptp(change) / 2:.4f}",
        "lowest before": float(gains[:, 0].min()),
        "lowest": float(gains[:, 1].min()),
        "CPU s before": float(seconds[0]),
        "CPU s": float(seconds[1]),
    }


if __name__ == "__main__":
    main()
