"""A grid search over adapters against one encode plus its fits alone.

24 candidates × 5 folds + the refit = 121 fits, with nothing encoded when the search
starts. The yardstick is one `SentenceTransformer.encode` of the distinct texts, then
the same 121 fits in a plain loop on vectors that exist (no scores, no search). Then the
search with the encodings in `cache_dir`, with one worker and with two.
"""

import statistics
import tempfile
from pathlib import Path

from _common import (
    counted_rows,
    distinct_texts,
    first_queries,
    interleave,
    load_ten_k,
    make_parser,
    median_ratio,
    model_path,
    report,
    start,
    timed,
)
from sklearn.model_selection import GridSearchCV, KFold, ParameterGrid

from skembft import AdapterFinetuner, PrecomputedEncoder, SentenceEncoder
from skembft.metrics import RetrievalScorer

GRID = {
    "learning_rate": [1e-4, 3e-4, 1e-3],
    "side": ["query", "both"],
    "batch_size": [64, 128],
    "epochs": [3, 10],
}
CV = KFold(5)


def finetuner(encoder, **params):
    settings = {"validation_fraction": None, "random_state": 0, **params}
    return AdapterFinetuner(encoder, **settings)


def search(encoder, data, n_jobs=None):
    scoring = RetrievalScorer("ndcg@10", corpus=data.corpus)
    grid = GridSearchCV(finetuner(encoder), GRID, scoring=scoring, cv=CV, n_jobs=n_jobs)
    return grid.fit(data.queries, data.relevant)


def fits_alone(encoder, data):
    """The fits of the search, in a plain loop; of the refit any candidate will do."""
    folds = [train for train, _ in CV.split(data.queries)]
    everything = range(len(data.queries))
    n_fits = 0
    for params in ParameterGrid(GRID):
        last = params == list(ParameterGrid(GRID))[-1]
        for rows in [*folds, everything] if last else folds:
            X, y = (
                [values[i] for i in rows] for values in (data.queries, data.relevant)
            )
            finetuner(encoder, **params).fit(X, y)
            n_fits += 1
    return n_fits


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="interleaved rounds")
    parser.add_argument("--quick", action="store_true", help="only 100 queries")
    args = start(parser)
    from sentence_transformers import SentenceTransformer

    data, _ = load_ten_k(args)
    if args.quick:
        data = first_queries(data, 100)
    texts = distinct_texts(data)
    model = SentenceTransformer(model_path())
    encoder = SentenceEncoder(model_path())
    encoder.transform(texts[:4])  # loads the model
    counts = {}

    def cold_search():
        encoder.clear()
        with counted_rows() as count:
            search(encoder, data)
        counts["search"] = count["rows"]

    def encode_and_fits():
        with counted_rows() as count:
            vectors = model.encode(texts)
        counts["alone"] = count["rows"]
        counts["fits"] = fits_alone(PrecomputedEncoder((texts, vectors)), data)

    seconds = interleave(
        {"alone": encode_and_fits, "search": cold_search}, args.repeats
    )
    workers, files = warm_searches(args, data, texts)
    rows = [
        {
            "": "one encode + the fits alone",
            "seconds": statistics.median(seconds["alone"]),
            "ratio": 1.0,
            "rows encoded": counts["alone"],
        },
        {
            "": "GridSearchCV, nothing encoded",
            "seconds": statistics.median(seconds["search"]),
            "ratio": median_ratio(seconds["search"], seconds["alone"]),
            "rows encoded": counts["search"],
        },
        *workers,
    ]
    title = f"GridSearchCV: {len(ParameterGrid(GRID))} candidates × 5 folds"
    report(
        args,
        title,
        rows,
        texts=f"{len(texts)} distinct",
        fits=counts["fits"],
        store=files,
    )


def warm_searches(args, data, texts):
    """Rows of the search with one worker and two; the encodings are in `cache_dir`."""
    with tempfile.TemporaryDirectory() as cache:
        encoder = SentenceEncoder(model_path(), cache_dir=cache).warm(texts)
        before = n_files(cache)
        starting, _ = timed(lambda: search(encoder, data, n_jobs=2))
        functions = {n: lambda n=n: search(encoder, data, n_jobs=n) for n in (1, 2)}
        with counted_rows() as count:
            seconds = interleave(functions, args.repeats)
        after = n_files(cache)
    rows = [
        {
            "": "warm, n_jobs=2, workers start",
            "seconds": starting,
            "ratio": starting / statistics.median(seconds[1]),
        }
    ]
    for n, values in seconds.items():
        rows.append(
            {
                "": f"warm, n_jobs={n}",
                "seconds": statistics.median(values),
                "ratio": median_ratio(values, seconds[1]),
                "rows encoded": count["rows"],
            }
        )
    return rows, f"{before} files before, {after} after the warm searches"


def n_files(folder):
    return sum(path.is_file() for path in Path(folder).rglob("*"))


if __name__ == "__main__":
    main()
