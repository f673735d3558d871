"""What bench_nudge.py compares on: NFCorpus, or random vectors of its size."""

import numpy as np
from _common import data_folder, model_path

from skembft import PrecomputedEncoder, SentenceEncoder
from skembft.datasets import load_beir

N_DOCUMENTS, N_ANSWERS = 3633, 38  # of NFCorpus
N_QUERIES = {"train": 2590, "val": 324, "test": 323}


class Data:
    """Unit vectors of documents and of the queries of three splits; ids are int.

    Parameters
    ----------
    documents : float32 ndarray of shape (n_documents, d)
    queries : dict of {split: float32 ndarray of shape (n, d)}
    answers : dict of {split: list of lists of int}
        Of every query the rows of the documents that are relevant to it.
    """

    def __init__(self, documents, queries, answers):
        self.documents = documents
        self.queries = queries
        self.answers = answers
        self.corpus = list(range(len(documents)))
        starts = np.cumsum([0, *map(len, queries.values())]).tolist()
        self.ids = {
            split: list(range(first, last))
            for split, first, last in zip(queries, starts, starts[1:], strict=False)
        }
        ids = [i for split in self.ids.values() for i in split]
        stacked = np.concatenate(list(queries.values()))
        self.encoder = PrecomputedEncoder((ids, stacked), (self.corpus, documents))


def nfcorpus(args, cache_dir):
    """NFCorpus, encoded; repeated documents are one."""
    folder = data_folder(args, "nfcorpus")
    encoder = SentenceEncoder(model_path(), precision="auto", cache_dir=cache_dir)
    splits = {"train": "train", "val": "dev", "test": "test"}
    loaded = {ours: load_beir(folder, theirs) for ours, theirs in splits.items()}
    corpus = list(dict.fromkeys(loaded["test"].corpus))
    place = {text: i for i, text in enumerate(corpus)}
    answers = {
        split: [
            [place[t] for t, grade in row.items() if grade > 0] for row in d.relevant
        ]
        for split, d in loaded.items()
    }
    queries = {split: encoder.transform(d.queries) for split, d in loaded.items()}
    return Data(encoder.transform_documents(corpus), queries, answers)


def random_data(dim=384):
    """Queries ask for where their documents should be, not for where they are."""
    rng = np.random.default_rng(0)

    def unit(vectors):
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)

    documents = unit(rng.normal(size=(N_DOCUMENTS, dim)))
    wanted = unit(documents + 2 * unit(rng.normal(size=documents.shape)))
    queries, answers = {}, {}
    for split, n in N_QUERIES.items():
        chosen = [rng.choice(N_DOCUMENTS, N_ANSWERS, replace=False) for _ in range(n)]
        means = unit(np.stack([wanted[rows].mean(axis=0) for rows in chosen]))
        queries[split] = unit(means + unit(rng.normal(size=means.shape)))
        answers[split] = [rows.tolist() for rows in chosen]
    return Data(documents, queries, answers)
