"""How time and memory grow with the data.

A subject is a function that makes data of size n and returns what is measured on them.
Each size runs in a fresh process, while a thread samples its anonymous memory
(RssAnon). The exponent e of a row says that its seconds are (n / n before) ** e times
those of the row above: 1 is linear. Of queries × documents only one grows, but in
`scores`, `mining` and `leakage` (near-duplicates, exact), which take all pairs.

The last table is the fit of an adapter on 100,000 queries and a million documents, with
validation and without.
"""

import argparse
import json
import math
import subprocess
import sys

import numpy as np
from _common import PeakMemory, make_parser, report, start, tell, timed

from skembft import AdapterFinetuner, CorpusFinetuner, PrecomputedEncoder
from skembft._data.judgements import check_retrieval_data
from skembft._data.vectors import check_vector_data
from skembft.inspection import compare_retrieval
from skembft.inspection._statistics import compare_values
from skembft.metrics import RetrievalScorer, evaluate
from skembft.mining import mine_hard_negatives
from skembft.model_selection import document_groups, leakage_report

DEPTH = 1000
DIM = 32
ALL_PAIRS = "scores", "mining", "leakage"  # of n queries × n documents or queries
QUERIES, DOCUMENTS, WIDTH = 100_000, 1_000_000, 384
FIT_HELP = "the fit on a million documents, which needs 9 GB"


def pairs(n):
    """Ids of n queries and of as many documents, which four queries share."""
    queries, ids = [f"q{i}" for i in range(n)], [f"d{i}" for i in range(n)]
    return queries, ids, [ids[i - i % 4] for i in range(n)]


def index(n):
    """The same with vectors."""
    rng = np.random.default_rng(0)
    queries, ids, y = pairs(n)
    documents = rng.standard_normal((n, DIM), dtype=np.float32)
    noise = rng.standard_normal((n, DIM), dtype=np.float32)
    places = np.arange(n)
    vectors = documents[places - places % 4] + noise
    encoder = PrecomputedEncoder((queries, vectors), (ids, documents)).fit()
    return encoder, queries, ids, y


def reading(n):
    """Lists of two graded documents for n queries, and a corpus."""
    queries, ids, _ = pairs(n)
    y = [{ids[i]: 2, ids[i - 1]: 1} for i in range(n)]
    return lambda: check_retrieval_data(queries, y, kind="text", corpus=ids)


def adapter_fits(n):
    """`AdapterFinetuner.fit` on n pairs, one epoch, validation and refit."""
    encoder, queries, ids, y = index(n)
    finetuner = AdapterFinetuner(encoder, epochs=1, random_state=0)
    return lambda: finetuner.fit(queries, y, corpus=ids)


def corpus_fits(n):
    """`CorpusFinetuner.fit` on n queries, validation and refit."""
    encoder, queries, ids, y = index(n)
    finetuner = CorpusFinetuner(encoder, random_state=0)
    return lambda: finetuner.fit(queries, y, corpus=ids)


def scores_of_a_thousand(n):
    """`RetrievalScorer` for 1,000 queries and n documents."""
    encoder, queries, ids, y = index(n)
    scorer = RetrievalScorer("ndcg@10", corpus=ids)
    return lambda: scorer(encoder, queries[:1000], y[:1000])


def scores(n):
    """`RetrievalScorer` for n queries and n documents."""
    encoder, queries, ids, y = index(n)
    scorer = RetrievalScorer("ndcg@10", corpus=ids)
    return lambda: scorer(encoder, queries, y)


def mining(n):
    """`mine_hard_negatives` for n queries among n documents."""
    encoder, queries, ids, y = index(n)
    return lambda: mine_hard_negatives(encoder, queries, y, corpus=ids)


def groups(n):
    """`document_groups` of n queries with two documents each."""
    queries, ids, _ = pairs(n)
    y = [[ids[i - i % 4], ids[(i * 7919) % n]] for i in range(n)]
    return lambda: document_groups(y, X=queries)


def comparison(n):
    """`compare_retrieval` of two adapters on n queries and 1,000 documents."""
    encoder, queries, ids, _ = index(n)
    y = [ids[i % 1000] for i in range(n)]
    fits = [
        AdapterFinetuner(encoder, epochs=1, side=side, random_state=0).fit(
            queries[:1000], y[:1000]
        )
        for side in ("query", "both")
    ]
    return lambda: compare_retrieval(*fits, queries, y, corpus=ids[:1000])


def statistics(n):
    """The interval and the p-value of the gains of n queries."""
    rng = np.random.default_rng(0)
    before, gains = rng.random(n), rng.normal(0.01, 0.3, n)
    return lambda: compare_values("ndcg@10", before, before + gains, 0.95, rng)


def leakage(n):
    """`leakage_report` of n training and n test queries of other texts."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(5000)])
    texts = [" ".join(row) for row in words[rng.integers(5000, size=(2 * n, 8))]]
    ids = [f"d{i}" for i in range(2 * n)]
    return lambda: leakage_report(texts[:n], texts[n:], ids[:n], ids[n:])


def fit_of_a_million(validation_fraction):
    """An adapter on 100,000 queries and a million documents, one epoch."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((DOCUMENTS, WIDTH), dtype=np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    queries = documents[:QUERIES] + 0.05 * rng.standard_normal(
        (QUERIES, WIDTH), dtype=np.float32
    )
    names, ids = [f"q{i}" for i in range(QUERIES)], list(range(DOCUMENTS))
    encoder = PrecomputedEncoder((names, queries), (ids, documents)).fit()
    params = {"epochs": 1, "validation_fraction": validation_fraction}
    finetuner = AdapterFinetuner(encoder, random_state=0, **params)
    return lambda: finetuner.fit(names, ids[:QUERIES], corpus=ids)


def evaluate_runs(n):
    """`evaluate` on n results, a thousand a query."""
    rng = np.random.default_rng(0)
    queries, k = [f"q{i}" for i in range(n // DEPTH)], DEPTH
    qrels = {q: {f"d{d}": 1 for d in rng.integers(10**6, size=3)} for q in queries}
    run = {}
    for query in queries:
        found = rng.choice(10**6, k, replace=False).tolist()
        scores = rng.random(k).tolist()
        run[query] = {f"d{d}": s for d, s in zip(found, scores, strict=True)}
    names = ["ndcg@10", "map@100", f"recall@{DEPTH}"]
    return lambda: evaluate(qrels, run, names)


def unbalanced_negatives(n):
    """A random negative for each of n rows, of which 95 % are of one class."""
    rng = np.random.RandomState(0)
    labels = (rng.rand(n) < 0.95).astype(int)
    data = check_vector_data(rng.standard_normal((n, 4)), labels)
    return lambda: data.negatives(np.arange(n), 1, rng)


def judged_negatives(n):
    """A judged negative for each of n queries that have five."""
    ids = [f"d{i}" for i in range(n)]
    y = [
        {ids[i]: 1, **{ids[(7 * i + j) % n]: 0 for j in range(1, 6)}} for i in range(n)
    ]
    queries = [f"q{i}" for i in range(n)]
    data = check_retrieval_data(queries, y, kind="text")
    rng = np.random.RandomState(0)
    return lambda: data.negatives(np.arange(n), 1, rng)


def deep_scores(n):
    """`RetrievalScorer` at depth 1,000 for n queries and 5,000 documents."""
    rng = np.random.default_rng(0)
    queries, documents = [f"q{i}" for i in range(n)], list(range(5000))
    index = PrecomputedEncoder(
        (queries, rng.standard_normal((n, 8), dtype=np.float32)),
        (documents, rng.standard_normal((len(documents), 8), dtype=np.float32)),
    ).fit()
    relevant = [i % len(documents) for i in range(n)]
    scorer = RetrievalScorer(["ndcg@10", f"recall@{DEPTH}"], corpus=documents)
    return lambda: scorer(index, queries, relevant)


SUBJECTS = {
    function.__name__: function
    for function in (
        reading,
        adapter_fits,
        corpus_fits,
        scores_of_a_thousand,
        scores,
        mining,
        groups,
        comparison,
        statistics,
        leakage,
        evaluate_runs,
        unbalanced_negatives,
        judged_negatives,
        deep_scores,
    )
}


def measure(subject, n):
    """What the fresh process does; prints JSON."""
    import torch  # noqa: F401 (its import is not part of what is measured)

    if subject in SUBJECTS:
        function = SUBJECTS[subject](n)
    else:
        function = fit_of_a_million({"with": 0.1, "without": None}[subject])
    before = PeakMemory.now()
    memory = PeakMemory(seconds_between=0.002)
    memory.start()
    seconds, _ = timed(function)
    memory.stop()
    peak = memory.peak or PeakMemory.now()
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak}))


def in_a_fresh_process(subject, n, args):
    """What `measure` finds."""
    command = [sys.executable, __file__, "--worker", subject, str(n)]
    command += ["--threads", str(args.threads)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[10**4, 10**5, 10**6])
    parser.add_argument(
        "--fit", action=argparse.BooleanOptionalAction, default=True, help=FIT_HELP
    )
    parser.add_argument("--worker", nargs=2, help="for internal use: subject, n")
    args = start(parser)
    if args.worker:
        return measure(args.worker[0], int(args.worker[1]))
    rows = []
    for subject in args.subjects:
        last = None
        for n in args.sizes:
            if subject in ALL_PAIRS and n > 10**5:
                continue  # a million times a million takes hours
            found = in_a_fresh_process(subject, n, args)
            row = {"subject": subject, "n": n, "seconds": found["seconds"]}
            row["exponent"] = None
            if last is not None:
                growth = math.log(row["seconds"] / last["seconds"])
                row["exponent"] = growth / math.log(n / last["n"])
            row["anonymous MB before"] = found["before"]
            row["peak"] = found["peak"]
            tell(row)
            rows.append(row)
            last = row
    report(args, "Growth of time and memory", rows)
    if args.fit:
        report(args, "A fit with validation and without", list(fits(args)))


def fits(args):
    """Rows of the fit on a million documents; limit: 2.5 times the time, and 6 GB."""
    without = None
    for validation in ("without", "with"):
        found = in_a_fresh_process(validation, 0, args)
        without = without or found["seconds"]
        row = {"validation": validation, "seconds": found["seconds"]}
        row["ratio"] = found["seconds"] / without
        row["anonymous MB before"], row["peak"] = found["before"], found["peak"]
        tell(row)
        yield row


if __name__ == "__main__":
    main()
