"""Training examples of whole models, in the columns of losses. Import it lazily."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.trainer import Settings
from skembft._losses.table import LossSpec, query_classes
from skembft._models.encoding import encode
from skembft._models.prompts import choose_prompt
from skembft._utils.types import Floats, Ints, Items, Role

_DELETED = 0.6  # the share of words that TSDAE deletes (arXiv:2104.06979)


@dataclass(frozen=True)
class Examples:
    """Training examples in the columns that a loss takes, as indices.

    Attributes
    ----------
    data : RetrievalData
    queries : ndarray of shape (n,) or None
        None where the texts are documents alone.
    documents : ndarray of shape (n, n_documents)
        A column for positives, or second texts, and one for each negative.
    labels : ndarray of shape (n,) or (n, n_labels), or None
    in_batch : bool
        Whether the other documents of a batch are taken as not relevant.
    damaged : list of str or None
        The documents with words deleted, as a column of their own before them.
    fixed : bool
        Whether documents keep their vectors, so that batches hold queries, and as
        labels the rows of the examples.
    """

    data: RetrievalData
    queries: Ints | None
    documents: Ints
    labels: np.ndarray | None = None
    in_batch: bool = False
    damaged: list[str] | None = None
    fixed: bool = False

    @classmethod
    def of(
        cls,
        data: RetrievalData,
        spec: LossSpec,
        settings: Settings,
        rng: np.random.RandomState,
        model: SentenceTransformer,
    ) -> "Examples":
        """Make the examples that a loss needs, or raise an error that says why not.

        Parameters
        ----------
        data : RetrievalData
        spec : LossSpec
        settings : EmbeddingFinetuner
        rng : RandomState
            Draws negatives, and deletes words.
        model : SentenceTransformer
            As it is now: documents' vectors may be targets.
        """
        # again: held-out documents are not in the pool, and held-out labels are gone
        spec.check_data(data)
        spec.check_batch(data, settings.negatives, settings.batch_size)
        fixed = settings.side == "query"
        masks = fixed and spec.needs == "positives"  # what is no negative
        if spec.draws_negatives(data, settings.negatives) and not masks:
            data.check_negatives()
        make = {
            "labels": _labelled,
            "scores": _scored,
            "targets": _with_targets,
            "classes": _of_classes,
            "texts": _documents,
            "damaged": _damaged,
        }.get(spec.needs, _ranked)
        if fixed and spec.needs in ("positives", "targets"):
            make = _positive_pairs
        examples = replace(make(data, spec, settings, rng, model), fixed=fixed)
        if not len(examples) or (
            examples.weights is not None and not examples.weights.any()
        ):
            raise ValueError(
                "There is nothing to learn: none of the queries that "
                "validation_fraction leaves for training has a relevant document (and "
                "a weight above 0)."
            )
        return examples

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def weights(self) -> Floats | None:
        """What each counts, or None where all count the same."""
        if self.data.weights is None or self.queries is None:
            return None
        return self.data.weights[self.queries]

    @property
    def columns(self) -> list[str]:
        """Names of the text columns; Sentence Transformers reads them by place."""
        if self.queries is None:
            return ["text"] if self.damaged is None else ["damaged", "text"]
        if self.fixed:
            return ["anchor"]
        count = self.documents.shape[1]
        return ["anchor", "positive", *(f"negative_{i}" for i in range(1, count))]

    @property
    def roles(self) -> list[Role]:
        """Of every column "query" or "document"."""
        first: Role = "document" if self.queries is None else "query"
        others: list[Role] = ["document"] * (len(self.columns) - 1)
        return [first, *others]

    def distinct_texts(self) -> Iterator[tuple[Role, list[str]]]:
        """Pairs of a role and the distinct texts of it."""
        parts: list[tuple[Role, Items, Ints | None]] = [
            ("query", self.data.queries, self.queries),
            ("document", self.data.documents, None if self.fixed else self.documents),
        ]
        for role, source, index in parts:
            if index is not None:
                yield role, [source[i] for i in np.unique(index)]

    def dataset(self) -> "ExampleRows":
        """What the trainer takes: columns of texts, and of labels."""
        sources: list[Items] = []
        numbers: list[np.ndarray] = []
        if self.queries is not None:
            sources.append(self.data.queries)
            numbers.append(self.queries)
        elif self.damaged is not None:
            sources.append(self.damaged)
            numbers.append(np.arange(len(self)))
        if not self.fixed:
            sources += [self.data.documents] * self.documents.shape[1]
            numbers += [*self.documents.T]
        columns = dict(zip(self.columns, numbers, strict=True))
        if self.fixed:
            columns["label"] = np.arange(len(self))
        elif self.labels is not None:
            columns["label"] = self.labels
        rows = ExampleRows.from_dict(columns)
        rows.texts = dict(zip(self.columns, sources, strict=True))
        return rows


class ExampleRows(Dataset):
    """A data set that holds the numbers of texts, and gives the texts."""

    texts: dict[str, Items]  # of every column that holds texts

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, str):
            return self._texts(key, found)
        return {name: self._texts(name, values) for name, values in found.items()}

    def _texts(self, name: str, numbers: Any) -> Any:
        if name not in self.texts:
            return numbers
        texts = self.texts[name]
        if isinstance(numbers, int):
            return texts[numbers]
        return [texts[i] for i in numbers]


def _ranked(
    data: RetrievalData,
    spec: LossSpec,
    settings: Settings,
    rng: np.random.RandomState,
    model: SentenceTransformer,
) -> Examples:
    """Pairs, triplets and n-tuples: query, relevant document, negatives."""
    queries, positives = data.positive_pairs(settings.use_all_docs, rng)
    count = 0
    if spec.max_negatives != 0:
        draws = spec.draws_negatives(data, settings.negatives)
        count = max(data.n_negatives, int(draws))
    negatives = data.negatives(queries, count, rng)
    limit = 1 if spec.needs == "triplets" else spec.max_negatives
    if limit is not None and count > limit:  # a row for each
        queries, positives = np.repeat(queries, count), np.repeat(positives, count)
        negatives = negatives.reshape(-1, 1)
    documents = np.column_stack([positives, negatives])
    return Examples(data, queries, documents, in_batch=spec.in_batch)


def _positive_pairs(
    data: RetrievalData,
    spec: LossSpec,
    settings: Settings,
    rng: np.random.RandomState,
    model: SentenceTransformer,
) -> Examples:
    """Pairs for losses that find the vectors of other documents themselves."""
    queries, positives = data.positive_pairs(settings.use_all_docs, rng)
    if spec.needs == "positives" and data.weights is not None:  # it weighs them itself
        counted = data.weights[queries] > 0
        queries, positives = queries[counted], positives[counted]
        data = replace(data, weights=None)
    return Examples(data, queries, positives[:, None])


def _labelled(
    data: RetrievalData,
    spec: LossSpec,
    settings: Settings,
    rng: np.random.RandomState,
    model: SentenceTransformer,
) -> Examples:
    labels: np.ndarray
    queries, documents, labels = data.labelled_pairs(settings.use_all_docs, rng)
    if spec.binary:
        labels = (labels > 0).astype(np.int64)
    elif spec.categories:
        _, labels = np.unique(labels, return_inverse=True)
    return Examples(data, queries, documents[:, None], labels)


def _scored(
    data: RetrievalData,
    spec: LossSpec,
    settings: Settings,
    rng: np.random.RandomState,
    model: SentenceTransformer,
) -> Examples:
    queries, first, second, *grades = data.graded_pairs(rng)
    documents = np.column_stack([first, second])
    return Examples(data, queries, documents, np.column_stack(grades))


def _with_targets(
    data: RetrievalData,
    spec: LossSpec,
    settings: Settings,
    rng: np.random.RandomState,
    model: SentenceTransformer,
) -> Examples:
    """Pairs, and as the target of both texts the document's vector as it is now."""
    queries, positives = data.positive_pairs(settings.use_all_docs, rng)
    distinct, rows = np.unique(positives, return_inverse=True)
    prompts: dict[str, Any] = model.prompts  # none is None, whatever its type says
    with model.truncate_embeddings(None):  # as the loss gets them
        targets = encode(
            model,
            [data.documents[i] for i in distinct],
            role="document",
            prompt=choose_prompt(prompts, settings.document_prompt, "document"),
            normalize=settings.normalize,
            precision=settings.precision,
            batch_tokens=settings.encode_batch_tokens,
        )
    return Examples(data, queries, positives[:, None], targets[rows])


def _of_classes(
    data: RetrievalData,
    spec: LossSpec,
    settings: Settings,
    rng: np.random.RandomState,
    model: SentenceTransformer,
) -> Examples:
    queries, positives = data.positive_pairs(settings.use_all_docs, rng)
    return Examples(data, queries, positives[:, None], query_classes(data)[queries])


def _documents(
    data: RetrievalData,
    spec: LossSpec,
    settings: Settings,
    rng: np.random.RandomState,
    model: SentenceTransformer,
) -> Examples:
    return Examples(data, None, data.pool[:, None])


def _damaged(
    data: RetrievalData,
    spec: LossSpec,
    settings: Settings,
    rng: np.random.RandomState,
    model: SentenceTransformer,
) -> Examples:
    texts = [_delete_words(data.documents[i], rng) for i in data.pool]
    return Examples(data, None, data.pool[:, None], damaged=texts)


def _delete_words(text: str, rng: np.random.RandomState) -> str:
    words = text.split()
    if not words:
        return text
    kept = rng.random_sample(len(words)) > _DELETED
    kept[rng.randint(len(words))] |= not kept.any()  # one word at least
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)
