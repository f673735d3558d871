"""Do probabilities and cut-offs of `RelevanceCalibrator` hold for other queries?

The test queries of each data set are halved at random, again and again: one half
calibrates, the other judges. Retrievers are the untouched all-MiniLM-L6-v2 and adapters
over it, whose losses move scores up or down. Nothing is timed.
"""

import warnings

import numpy as np
import torch
from _common import make_parser, report, start, tell
from _retrieval_sets import add_arguments, load_problems, make_encoder, run_all
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import train_test_split

from skembft import AdapterFinetuner, PrecomputedEncoder
from skembft.calibration import RelevanceCalibrator

NAMES = ("docstrings", "llamaindex-10k", "nfcorpus")
RETRIEVERS = {
    "untouched": None,
    "adapter": {},
    'adapter, loss="triplet"': {"loss": "triplet"},
    'adapter, loss="cosine_similarity"': {"loss": "cosine_similarity"},
}
OLD = 0.5  # the cut-off on cosines that was there before the fine-tuning
COVERED = ("untouched", "adapter")
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9)


def load(args, name):
    """A data set: unique test queries with their documents, and the problem."""
    problem = load_problems(args, name, seed=0)[0]
    X, y = problem.test
    X, first = np.unique(np.array(X, dtype=object), return_index=True)
    return X.tolist(), [answers(y[i]) for i in first], problem


def make_index(encoder, label, X, corpus, problem):
    """The vectors of a retriever, kept."""
    retriever = encoder
    if RETRIEVERS[label] is not None:
        retriever = AdapterFinetuner(encoder, random_state=0, **RETRIEVERS[label])
        retriever.fit(*problem.train, corpus=problem.corpus)
    return PrecomputedEncoder(
        (X, retriever.transform(X)), (corpus, retriever.transform_documents(corpus))
    )


def answers(relevant):
    """One item of y as {document: grade}."""
    if isinstance(relevant, str):
        return {relevant: 1}
    return relevant if isinstance(relevant, dict) else dict.fromkeys(relevant, 1)


def halves(X, y, seed):
    half = train_test_split(range(len(X)), test_size=0.5, random_state=seed)
    return [([X[i] for i in rows], [y[i] for i in rows]) for rows in half]


def search(index, X, y, corpus, k):
    """Scores of the k best documents of every query, and which are relevant."""
    queries, documents = index.transform(X), index.transform_documents(corpus)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    scores = queries @ documents.T
    best = np.argsort(-scores, axis=1)[:, :k]
    scores = np.take_along_axis(scores, best, axis=1)
    return scores, judged(best, y, corpus)


def judged(indices, y, corpus):
    """Whether retrieved documents are relevant; -1 is none."""
    return np.array(
        [
            [i >= 0 and relevant.get(corpus[i], 0) > 0 for i in row]
            for row, relevant in zip(indices, y, strict=True)
        ]
    )


def n_relevant(y):
    return sum(grade > 0 for relevant in y for grade in relevant.values())


def expected_error(relevant, probability):
    """Expected calibration error over ten bins of equal width."""
    bins = np.minimum(10 * probability, 9).astype(int)
    masks = [bins == b for b in np.unique(bins)]
    return sum(
        m.mean() * abs(relevant[m].mean() - probability[m].mean()) for m in masks
    )


def errors(index, calibrate, test, corpus):
    """Brier score and calibration error of cosines, and of both methods."""
    scores, relevant = search(index, *test, corpus, k=10)
    found = {"cosine": (relevant.ravel(), scores.ravel().clip(0, 1))}
    for method in ("sigmoid", "isotonic"):
        calibrator = RelevanceCalibrator(index, method=method, k=10)
        calibrator.fit(*calibrate, corpus=corpus)
        found[method] = calibrator.judge(*test, corpus=corpus)
    row = {f"Brier, {name}": brier_score_loss(*pairs) for name, pairs in found.items()}
    return row | {
        f"ECE, {name}": expected_error(*pairs) for name, pairs in found.items()
    }


def passing(index, calibrate, test, corpus, recall, k):
    """What passes the old cut-off, and what a threshold of the old recall passes."""
    scores, relevant = search(index, *test, corpus, k)
    old = scores >= OLD
    calibrator = RelevanceCalibrator(index, k=k).fit(*calibrate, corpus=corpus)
    threshold = calibrator.threshold(recall=recall)
    indices, _ = calibrator.retrieve(test[0], corpus, threshold=threshold)
    right, total = judged(indices, test[1], corpus), n_relevant(test[1])
    return {
        "cosine >= 0.5 passes": old.sum(axis=1).mean(),
        "recall": (old & relevant).sum() / total,
        "the old recall": recall,
        "threshold(recall=the old) passes": (indices >= 0).sum(axis=1).mean(),
        "recall ": right.sum() / total,
    }


def covering(index, calibrate, test, corpus, coverage, method, k):
    """How often an answer passes, and nothing where it is taken from the corpus."""
    calibrator = RelevanceCalibrator(index, method=method, k=k)
    calibrator.fit(*calibrate, corpus=corpus)
    try:
        threshold = calibrator.threshold(coverage=coverage)
    except ValueError:  # so many answers are not among the k best
        return None
    indices, _ = calibrator.retrieve(test[0], corpus, threshold=threshold)
    right = judged(indices, test[1], corpus)
    return right.any(axis=1), ~((indices >= 0) & ~right).any(axis=1)


def run(args, cache_dir, name, label):
    """Rows of the three tables for one retriever on one data set."""
    warnings.simplefilter("ignore", UserWarning)  # an adapter may not help
    torch.set_num_threads(1)
    encoder = make_encoder(cache_dir)
    X, y, problem = load(args, name)
    corpus = list(dict.fromkeys(problem.test_corpus))
    index = make_index(encoder, label, X, corpus, problem)
    untouched = make_index(encoder, "untouched", X, corpus, problem)
    splits = [halves(X, y, seed) for seed in range(args.seeds)]
    which = {"data": name, "retriever": label}
    calibrated = which | means([errors(index, *split, corpus) for split in splits])
    tell(calibrated)
    rows = []
    for calibrate, test in splits:
        scores, right = search(untouched, *calibrate, corpus, args.k)
        recall = (right & (scores >= OLD)).sum() / n_relevant(calibrate[1])
        rows.append(passing(index, calibrate, test, corpus, recall, args.k))
    cut = which | means(rows)
    tell(cut)
    covered = []
    if label in COVERED:
        for coverage in COVERAGES:
            row = coverage_row(index, splits, corpus, coverage, args.k)
            covered += [which | row] * bool(row)
            tell(row)
    return calibrated, cut, covered


def coverage_row(index, splits, corpus, coverage, k):
    """Empty where a coverage cannot be had."""
    row = {"asked": coverage}
    for method in ("sigmoid", "isotonic"):
        found = [
            covering(index, *split, corpus, coverage, method, k) for split in splits
        ]
        if None in found:
            return {}
        of_split = [passes.mean() for passes, _ in found]
        row[f"measured, {method}"] = f"{np.mean(of_split):.3f}"
        if method == "sigmoid":
            row["one split"] = f"± {np.std(of_split):.3f}"
        nothing = np.mean([none.mean() for _, none in found])
        row[f"answer taken away: nothing passes, {method}"] = f"{nothing:.3f}"
    return row


def main():
    parser = make_parser(__doc__)
    add_arguments(parser)
    parser.set_defaults(seeds=20)
    parser.add_argument("--k", type=int, default=50, help="of the last two tables")
    args = start(parser)
    tasks = [(name, label) for name in NAMES for label in RETRIEVERS]
    tables = list(zip(*run_all(args, run, tasks), strict=True))
    report(args, "Errors of probabilities, 10 best documents", tables[0])
    report(args, "Documents a query that pass", tables[1], k=args.k)
    covered = [row for rows in tables[2] for row in rows]
    report(args, "Coverage", covered, splits=args.seeds, k=args.k)


def means(rows):
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


if __name__ == "__main__":
    main()
