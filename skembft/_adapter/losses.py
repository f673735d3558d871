"""Losses on cached embeddings: Sentence Transformers' own, and InfoNCE."""

import numpy as np
import torch

from skembft._adapter.infonce import InfoNCE
from skembft._adapter.unit_rows import UnitRows
from skembft._losses.params import InfoNCEOptions, build_loss
from skembft._losses.table import LOSSES


def make_loss(trainer, encoded):
    """Return a callable that computes the loss of a batch of `RetrievalData.examples`.

    Parameters
    ----------
    trainer : AdapterTrainer
    encoded : EncodedData
    """
    settings, data = trainer.settings, encoded.data
    spec = LOSSES[trainer.loss_name]
    queries, documents = UnitRows(encoded.queries), UnitRows(encoded.documents)
    if settings._draws_negatives(data):
        data.check_negatives()  # again: held-out documents are not in the pool
    if spec.needs == "positives":
        return InfoNCE(
            InfoNCEOptions.of(trainer.loss_name, settings.loss_params),
            data,
            queries,
            documents,
            trainer.adapt,
            negatives=settings.negatives,
            rng=trainer.rng,
        )
    loss = build_loss(settings.loss, None, settings.loss_params)
    from_embeddings = loss.compute_loss_from_embeddings

    def query(index):
        return trainer.adapt("query", queries[index])

    def document(index):
        return trainer.adapt("document", documents[index])

    def triplets(query_index, document_index):
        count = max(data.n_negatives, 1)
        negatives = data.negatives(query_index, count, trainer.rng).T.ravel()
        q, d = query(query_index), document(document_index)
        columns = [q.repeat(count, 1), d.repeat(count, 1), document(negatives)]
        return from_embeddings(columns, None)

    def labels(query_index, document_index, labels):
        if spec.binary:
            labels = labels > 0
        columns = [query(query_index), document(document_index)]
        return from_embeddings(columns, torch.from_numpy(labels).float())

    def scores(query_index, first, second, first_score, second_score):
        columns = [query(query_index), document(first), document(second)]
        teacher = np.column_stack([first_score, second_score])
        return from_embeddings(columns, torch.from_numpy(teacher).float())

    def targets(query_index, document_index):
        target = [documents[document_index]]  # as the encoder gives it
        return from_embeddings([query(query_index)], target)

    def pairs(query_index, document_index):
        columns = [query(query_index), document(document_index)]
        return sum(from_embeddings(columns, None).values())

    def classes(query_index, document_index):
        # rows of X are queries and documents; those held out are not among the queries
        rows = data.relevance.self_index[query_index]
        rows = np.unique(np.concatenate([rows, document_index]))
        of_class = torch.from_numpy(data.relevance.labels[rows])
        return from_embeddings([trainer.adapt("query", documents[rows])], of_class)

    by_needs = {
        "triplets": triplets,
        "labels": labels,
        "scores": scores,
        "targets": targets,
        "pairs": pairs,
        "classes": classes,
    }
    return by_needs[spec.needs]
