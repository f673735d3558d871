"""The four data sets on which defaults are chosen, as train/test problems."""

import tempfile
from dataclasses import dataclass

from _common import data_folder, load_ten_k, model_path
from joblib import Parallel, delayed
from sklearn.model_selection import GroupShuffleSplit, KFold

from skembft import SentenceEncoder
from skembft.datasets import load_beir, load_docstrings
from skembft.metrics import RetrievalScorer

NAMES = ("nfcorpus", "cranfield", "llamaindex-10k", "docstrings")


@dataclass
class Problem:
    """Fit on `train`, score on `test`; both retrieve from a corpus of their own."""

    name: str
    train: tuple
    test: tuple
    corpus: list
    test_corpus: list

    def score(self, estimator):
        return RetrievalScorer("ndcg@10", corpus=self.test_corpus)(
            estimator, *self.test
        )


def make_encoder(cache_dir):
    """all-MiniLM-L6-v2, whose vectors all processes share."""
    return SentenceEncoder(model_path(), cache_dir=cache_dir)


def add_arguments(parser):
    """The arguments that `run_all` reads, and the number of seeds."""
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-jobs", type=int, default=2, help="one thread each")
    parser.add_argument("--cache-dir", help="keep the encoded texts here")


def run_all(args, function, tasks):
    """Results of ``function(args, cache_dir, *task)``, every text encoded before."""
    with tempfile.TemporaryDirectory() as scratch:
        cache_dir = args.cache_dir or scratch
        warm(args, make_encoder(cache_dir))
        return Parallel(n_jobs=args.n_jobs, verbose=1)(
            delayed(function)(args, cache_dir, *task) for task in tasks
        )


def load_problems(args, name, seed):
    """The problems of a data set: its own split, or random ones where it has none."""
    if name == "llamaindex-10k":
        train, test = load_ten_k(args)
        return [_problem(name, _all(train), _all(test), train.corpus, test.corpus)]
    if name == "nfcorpus":
        folder = data_folder(args, name)
        train, test = load_beir(folder, "train"), load_beir(folder, "test")
        return [_problem(name, _all(train), _all(test), train.corpus)]
    if name == "cranfield":
        data = load_beir(data_folder(args, name), "test")
        splits = KFold(5, shuffle=True, random_state=seed).split(data.queries)
    else:
        data = load_docstrings()
        splits = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=seed).split(
            data.queries, groups=data.queries
        )
    return [
        _problem(name, _some(data, train), _some(data, test), data.corpus)
        for train, test in splits
    ]


def warm(args, encoder):
    """Encode every text once, before processes share the work."""
    for name in NAMES:
        for problem in load_problems(args, name, 0):
            encoder.transform([*problem.train[0], *problem.test[0]])
            encoder.transform_documents([*problem.corpus, *problem.test_corpus])


def _problem(name, train, test, corpus, test_corpus=None):
    return Problem(name, train, test, corpus, test_corpus or corpus)


def _all(data):
    return data.queries, data.relevant


def _some(data, rows):
    return [data.queries[i] for i in rows], [data.relevant[i] for i in rows]
