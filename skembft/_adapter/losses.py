"""Losses on cached embeddings: Sentence Transformers' own, and InfoNCE."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from skembft._data.encoded import EncodedData
from skembft._data.relevance import LabelRelevance
from skembft._finetuner.trainer import Settings
from skembft._losses.infonce import InfoNCE
from skembft._losses.params import InfoNCEOptions, build_loss
from skembft._losses.table import LOSSES
from skembft._losses.unit_rows import UnitRows
from skembft._utils.types import Floats, Ints, Role

# documents that compete in one batch; of a larger corpus so many are drawn for each
MAX_CANDIDATES = 2**13


class _Training(Protocol):
    settings: Settings
    loss_name: str
    rng: np.random.RandomState
    negatives: str

    def adapt(self, side: Role, vectors: Tensor) -> Tensor: ...


def make_loss(training: _Training, encoded: EncodedData) -> Callable[..., Tensor]:
    """Return a callable that computes the loss of a batch of `RetrievalData.examples`.

    Parameters
    ----------
    training : AdapterTraining
    encoded : EncodedData
    """
    settings, data = training.settings, encoded.data
    spec = LOSSES[training.loss_name]
    queries, documents = UnitRows(encoded.queries), UnitRows(encoded.documents)
    if settings._draws_negatives(data):
        data.check_negatives(some=True)  # held-out documents are not in the pool

    def query(index: Ints) -> Tensor:
        return training.adapt("query", queries[index])

    def document(index: Ints) -> Tensor:
        return training.adapt("document", documents[index])

    if spec.needs == "positives":
        infonce = InfoNCE(
            InfoNCEOptions.of(training.loss_name, settings.loss_params),
            data,
            documents,
            partial(training.adapt, "document"),
            negatives=training.negatives,
            rng=training.rng,
            max_candidates=MAX_CANDIDATES,
        )
        return lambda pair_query, pair_document: infonce(
            pair_query, pair_document, lambda places: query(pair_query[places])
        )
    loss = build_loss(settings.loss, None, settings.loss_params)
    from_embeddings = loss.compute_loss_from_embeddings

    def triplets(query_index: Ints, document_index: Ints) -> Tensor:
        count = max(data.n_negatives, 1)
        negatives = data.negatives(query_index, count, training.rng).T.ravel()
        q, d = query(query_index), document(document_index)
        columns = [q.repeat(count, 1), d.repeat(count, 1), document(negatives)]
        return from_embeddings(columns, None)

    def labels(query_index: Ints, document_index: Ints, labels: Floats) -> Tensor:
        target = labels > 0 if spec.binary else labels
        columns = [query(query_index), document(document_index)]
        return from_embeddings(columns, torch.from_numpy(target).float())

    def scores(
        query_index: Ints,
        first: Ints,
        second: Ints,
        first_score: Floats,
        second_score: Floats,
    ) -> Tensor:
        columns = [query(query_index), document(first), document(second)]
        teacher = np.column_stack([first_score, second_score])
        return from_embeddings(columns, torch.from_numpy(teacher).float())

    def targets(query_index: Ints, document_index: Ints) -> Tensor:
        target = [documents[document_index]]  # as the encoder gives it
        return from_embeddings([query(query_index)], target)

    def pairs(query_index: Ints, document_index: Ints) -> Tensor:
        columns = [query(query_index), document(document_index)]
        return sum(from_embeddings(columns, None).values())

    def classes(query_index: Ints, document_index: Ints) -> Tensor:
        relevance = data.relevance
        assert isinstance(relevance, LabelRelevance)
        # rows of X are queries and documents; those held out are not among the queries
        rows = relevance.self_index[query_index]
        rows = np.unique(np.concatenate([rows, document_index]))
        of_class = torch.from_numpy(relevance.labels[rows])
        return from_embeddings([training.adapt("query", documents[rows])], of_class)

    by_needs: dict[str, Callable[..., Tensor]] = {
        "triplets": triplets,
        "labels": labels,
        "scores": scores,
        "targets": targets,
        "pairs": pairs,
        "classes": classes,
    }
    return by_needs[spec.needs]
