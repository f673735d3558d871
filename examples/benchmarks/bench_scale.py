"""How time and memory grow with the data.

A subject is a function that makes data of size n and returns what is measured on them.
Each size runs in a fresh process, while a thread samples its anonymous memory
(RssAnon). The exponent e of a row says that its seconds are (n / n before) ** e times
those of the row above: 1 is linear.
"""

import json
import math
import subprocess
import sys

import numpy as np
from _common import PeakMemory, make_parser, report, start, tell, timed

from skembft import PrecomputedEncoder
from skembft._data.judgements import check_retrieval_data
from skembft._data.vectors import check_vector_data
from skembft.metrics import RetrievalScorer, evaluate

DEPTH = 1000


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
        evaluate_runs,
        unbalanced_negatives,
        judged_negatives,
        deep_scores,
    )
}


def measure(subject, n):
    """What the fresh process does; prints JSON."""
    import torch  # noqa: F401 (its import is not part of what is measured)

    function = SUBJECTS[subject](n)
    before = PeakMemory.now()
    memory = PeakMemory(seconds_between=0.002)
    memory.start()
    seconds, _ = timed(function)
    memory.stop()
    peak = memory.peak or PeakMemory.now()
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak}))


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[10**4, 10**5, 10**6])
    parser.add_argument("--worker", nargs=2, help="for internal use: subject, n")
    args = start(parser)
    if args.worker:
        return measure(args.worker[0], int(args.worker[1]))
    rows = []
    for subject in args.subjects:
        last = None
        for n in args.sizes:
            command = [sys.executable, __file__, "--worker", subject, str(n)]
            command += ["--threads", str(args.threads)]
            answer = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True
            )
            found = json.loads(answer.stdout.splitlines()[-1])
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


if __name__ == "__main__":
    main()
