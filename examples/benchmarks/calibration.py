"""Do probabilities and cut-offs of `RelevanceCalibrator` hold for other queries?

The test queries of each data set are halved at random, again and again: one half
calibrates, the other judges. Retrievers are the untouched all-MiniLM-L6-v2 and adapters
over it, whose losses move scores up or down. Nothing is timed.
"""

import warnings

import numpy as np
from _common import make_parser, report, start, tell
from _retrieval_sets import load_problems, make_encoder
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import train_test_split

from skembft import AdapterFinetuner, PrecomputedEncoder
from skembft.calibration import RelevanceCalibrator

NAMES = ("docstrings", "llamaindex-10k", "nfcorpus")
ADAPTERS = {
    "adapter": {},
    'adapter, loss="triplet"': {"loss": "triplet"},
    'adapter, loss="cosine_similarity"': {"loss": "cosine_similarity"},
}
OLD = 0.5  # the cut-off on cosines that was there before the fine-tuning
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9)


def load(args, encoder, name):
    """A data set, and an index of every retriever: {label: encoder}."""
    problem = load_problems(args, name, seed=0)[0]
    X, y = problem.test
    corpus = list(dict.fromkeys(problem.test_corpus))
    retrievers = {"untouched": encoder}
    for label, params in ADAPTERS.items():
        adapter = AdapterFinetuner(encoder, random_state=0, **params)
        retrievers[label] = adapter.fit(*problem.train, corpus=problem.corpus)
    X, first = np.unique(np.array(X, dtype=object), return_index=True)
    y = [answers(y[i]) for i in first]
    return (
        X.tolist(),
        y,
        corpus,
        {
            label: PrecomputedEncoder(
                (X, retriever.transform(X)),
                (corpus, retriever.transform_documents(corpus)),
            )
            for label, retriever in retrievers.items()
        },
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


def main():
    warnings.simplefilter("ignore", UserWarning)  # an adapter may not help
    parser = make_parser(__doc__)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--k", type=int, default=50, help="of the last two tables")
    parser.add_argument("--cache-dir", help="keep the encoded texts here")
    args = start(parser)
    encoder = make_encoder(args.cache_dir)
    calibrated, cut, covered = [], [], []
    for name in NAMES:
        X, y, corpus, indexes = load(args, encoder, name)
        splits = [halves(X, y, seed) for seed in range(args.splits)]
        for label, index in indexes.items():
            which = {"data": name, "retriever": label}
            rows = [errors(index, *split, corpus) for split in splits]
            calibrated.append(which | means(rows))
            tell(calibrated[-1])
            rows = []
            for calibrate, test in splits:
                scores, right = search(indexes["untouched"], *calibrate, corpus, args.k)
                recall = (right & (scores >= OLD)).sum() / n_relevant(calibrate[1])
                rows.append(passing(index, calibrate, test, corpus, recall, args.k))
            cut.append(which | means(rows))
            tell(cut[-1])
        for coverage in COVERAGES:
            covered += coverage_rows(name, indexes, splits, corpus, coverage, args.k)
    report(args, "Errors of probabilities, 10 best documents", calibrated)
    report(args, "Documents a query that pass", cut, k=args.k)
    report(args, "Coverage", covered, splits=args.splits, k=args.k)


def coverage_rows(name, indexes, splits, corpus, coverage, k):
    rows = []
    for label in ("untouched", "adapter"):
        row = {"data": name, "retriever": label, "asked": coverage}
        for method in ("sigmoid", "isotonic"):
            found = [
                covering(indexes[label], *split, corpus, coverage, method, k)
                for split in splits
            ]
            if None in found:
                break
            of_split = [passes.mean() for passes, _ in found]
            row[f"measured, {method}"] = f"{np.mean(of_split):.3f}"
            if method == "sigmoid":
                row["one split"] = f"± {np.std(of_split):.3f}"
            nothing = np.mean([none.mean() for _, none in found])
            row[f"answer taken away: nothing passes, {method}"] = f"{nothing:.3f}"
        else:
            rows.append(row)
            tell(row)
    return rows


def means(rows):
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


if __name__ == "__main__":
    main()
