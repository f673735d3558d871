"""A search of 24 candidates × 5 folds with two workers against one, on three engines.

The engines are joblib's loky, dask and ray, with two worker processes of one thread
each; the yardstick is the same search in this process, with one thread. All texts are
in `cache_dir` before. One engine after the other is started, by a small search, and
then searches in turn with the yardstick; ray starts new workers for every search, which
is in its time.
"""

import logging
import statistics
import tempfile
from contextlib import contextmanager

import numpy as np
from _common import (
    first_queries,
    interleave,
    make_parser,
    median_ratio,
    model_path,
    report,
    start,
    tell,
    timed,
)
from bench_grid import CV, GRID, finetuner
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, ParameterGrid
from sklearn.utils import Bunch

from skembft import SentenceEncoder
from skembft.datasets import load_docstrings
from skembft.metrics import RetrievalScorer

WORKERS = 2
TRIM = "MALLOC_TRIM_THRESHOLD_"
SMALL = {"epochs": [1, 2]}  # to start the workers, and to try the benchmark


@contextmanager
def loky():
    yield lambda: parallel_config("loky", inner_max_num_threads=1)


@contextmanager
def dask():
    from dask import config
    from distributed import Client, LocalCluster

    # dask has its workers return every freed page to the system, which makes fits take
    # nearly twice as long: see the guide on clusters
    config.set({f"distributed.nanny.pre-spawn-environ.{TRIM}": None})
    options = {"threads_per_worker": 1, "dashboard_address": None}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(WORKERS, local_directory=folder, **options) as cluster,
        Client(cluster),
    ):
        yield lambda: parallel_config("dask")


@contextmanager
def ray():
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    memory = {"object_store_memory": 2**28}
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, **memory)
    try:
        yield lambda: parallel_config("ray")
    finally:
        ray.shutdown()


ENGINES = {"loky": loky, "dask": dask, "ray": ray}


def search(encoder, data, grid, n_jobs=1):
    scoring = RetrievalScorer("ndcg@10", corpus=data.corpus)
    options = {"scoring": scoring, "cv": CV, "error_score": "raise"}
    grid = GridSearchCV(finetuner(encoder), grid, n_jobs=n_jobs, **options)
    return grid.fit(data.queries, data.relevant)


def in_workers(engine, *arguments):
    with engine():
        return search(*arguments, n_jobs=WORKERS)


def all_docstrings():
    data = load_docstrings()
    relevant = [[document] for document in data.relevant]
    return Bunch(queries=data.queries, relevant=relevant, corpus=data.corpus)


def main():
    parser = make_parser(__doc__)
    parser.set_defaults(threads=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--queries", type=int, default=2500)
    parser.add_argument("--repeats", type=int, default=1, help="interleaved rounds")
    parser.add_argument("--quick", action="store_true", help="only two candidates")
    args = start(parser)
    logging.getLogger("distributed").setLevel(logging.ERROR)
    data = first_queries(all_docstrings(), args.queries)
    grid = SMALL if args.quick else GRID
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        encoder = SentenceEncoder(model_path(), cache_dir=cache)
        encoder.warm(data.queries + data.corpus)
        for name in args.engines:
            with ENGINES[name]() as engine:
                rows.append(measure(name, engine, encoder, data, grid, args.repeats))
            tell(rows[-1])
    report(
        args,
        f"GridSearchCV with two workers: {len(ParameterGrid(grid))} candidates × 5 "
        "folds",
        rows,
        queries=len(data.queries),
        documents=len(data.corpus),
    )


def measure(name, engine, encoder, data, grid, repeats):
    first, _ = timed(lambda: in_workers(engine, encoder, data, SMALL))
    results = {}

    def one_process():
        results["one"] = search(encoder, data, grid)

    def two_workers():
        results["two"] = in_workers(engine, encoder, data, grid)

    seconds = interleave({"one": one_process, "two": two_workers}, repeats)
    return {
        "": name,
        "one process, s": statistics.median(seconds["one"]),
        "two workers, s": statistics.median(seconds["two"]),
        "times as fast": median_ratio(seconds["one"], seconds["two"]),
        "largest difference of a score": difference(results["two"], results["one"]),
        "first, small search, s": first,
    }


def difference(search, other):
    names = [f"split{i}_test_score" for i in range(CV.n_splits)]
    scores = [[s.cv_results_[name] for name in names] for s in (search, other)]
    return float(np.abs(np.subtract(*scores)).max())


if __name__ == "__main__":
    main()
