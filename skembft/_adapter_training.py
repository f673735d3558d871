"""Training of adapters on cached embeddings. Imports torch: import it lazily."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skembft._data import RetrievalData
from skembft._losses import LOSSES, build_loss
from skembft._utils import check_finite, check_same_width, unit_rows


class ResidualLinear(nn.Module):
    """x + Δx + b with Δ and b starting at 0, the identity, where decay pulls."""

    def __init__(self, dim, bias=False):
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x):
        return x + F.linear(x, self.delta, self.bias)

    def weights(self):
        """The arrays that `apply_weights` needs, without torch."""
        delta = self.delta.detach().numpy()
        out = {"weight": np.eye(len(delta), dtype=np.float32) + delta}
        if self.bias is not None:
            out["bias"] = self.bias.detach().numpy().copy()
        return out


@dataclass(frozen=True)
class EncodedData:
    """Data with the unit vectors of its distinct queries and documents."""

    data: RetrievalData
    queries: np.ndarray
    documents: np.ndarray

    def subset(self, queries):
        queries = np.sort(queries)
        return EncodedData(
            self.data.subset(queries), self.queries[queries], self.documents
        )


class AdapterTrainer:
    """Trains the adapter of an `AdapterFinetuner` on the vectors of its encoder."""

    def __init__(self, estimator, encoder, rng):
        self.settings = estimator
        self.loss_name = estimator._find_loss()
        self.encoder = encoder
        self.dim = None
        self.rng = rng
        self.tasks = None

    def prepare(self, data):
        """Encode the distinct queries and documents, as float32 unit vectors."""
        if self.encoder is None:
            queries, documents = data.queries, data.documents
        else:
            queries = np.asarray(self.encoder.transform(data.queries))
            documents = np.asarray(self.encoder.transform_documents(data.documents))
        check_finite(queries, "The query vectors of the encoder")
        check_finite(documents, "The document vectors of the encoder")
        check_same_width(queries, documents)
        queries, documents = (
            np.asarray(unit_rows(v), dtype=np.float32) for v in (queries, documents)
        )
        self.dim = queries.shape[1]
        return EncodedData(data, queries, documents)

    def train(self, encoded, monitor, epochs):
        """Train from the identity; return the state that the monitor chose."""
        settings = self.settings
        self.query = ResidualLinear(self.dim, **(settings.adapter_params or {}))
        self.document = self.query if settings.side == "both" else None
        self.optimizer = torch.optim.AdamW(
            self.query.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        compute_loss = self._loss(encoded)
        monitor.start()
        step, total, losses = 0, None, []
        for epoch in range(math.ceil(epochs)):
            batches = self._batches(encoded.data)
            if total is None:
                total = max(1, round(epochs * len(batches)))
                # of the full schedule, whatever share of it a refit trains
                planned = settings.epochs * len(batches)
                warmup = int(planned * settings.warmup_ratio)
            self.tasks.begin()
            stop = False
            for place, batch in enumerate(batches[: total - step], start=1):
                for group in self.optimizer.param_groups:
                    scale = min(1.0, (step + 1) / (warmup + 1))
                    group["lr"] = settings.learning_rate * scale
                losses.append(self._step(compute_loss, batch))
                step += 1
                every = settings.evaluation_steps
                due = step % every == 0 if every else place == len(batches)
                if due or step == total:
                    at = epoch + place / len(batches)
                    stop = monitor.update(step, at, np.mean(losses))
                    losses = []
                    if stop:
                        break
            if self.tasks.end(self.attributes):
                stop = True
                if losses:
                    monitor.update(step, epoch + 1, np.mean(losses))
            if stop or step >= total:
                break
        monitor.finish()
        return monitor.best_state

    def _step(self, compute_loss, batch):
        self.optimizer.zero_grad(set_to_none=True)
        loss = compute_loss(*batch)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _batches(self, data):
        """Shuffled batches of (queries, documents[, labels]) of about equal size."""
        settings = self.settings
        if LOSSES[self.loss_name].needs == "labels":
            columns = data.labelled_pairs(settings.use_all_docs, self.rng)
        else:
            columns = data.positive_pairs(settings.use_all_docs, self.rng)
        n = len(columns[0])
        if not n:
            raise ValueError(
                "There is nothing to learn: none of the queries that "
                "validation_fraction leaves for training has a relevant document."
            )
        order = self.rng.permutation(n)
        parts = np.array_split(order, math.ceil(n / settings.batch_size))
        return [tuple(column[part] for column in columns) for part in parts]

    # ---- losses

    def _loss(self, encoded):
        queries = torch.from_numpy(encoded.queries)
        documents = torch.from_numpy(encoded.documents)
        if self.loss_name == "multiple_negatives_ranking":
            return _InfoNCE(self, encoded.data, queries, documents)
        loss = build_loss(self.settings.loss, None, self.settings.loss_params)
        from_embeddings = loss.compute_loss_from_embeddings
        data, rng = encoded.data, self.rng
        spec = LOSSES[self.loss_name]
        if spec.draws_negatives(data, self.settings.negatives):
            data.check_negatives()  # again: held-out documents are not in the pool

        def embed(query_index, *document_indices):
            anchor = self.adapt(self.query, queries[query_index])
            others = [self.adapt(self.document, documents[i]) for i in document_indices]
            return [anchor, *others]

        def triplet(query_index, document_index):
            count = max(data.n_negatives, 1)
            negatives = data.negatives(query_index, count, rng).T.ravel()
            repeated = np.tile(query_index, count), np.tile(document_index, count)
            return from_embeddings(embed(*repeated, negatives), None)

        def labelled(query_index, document_index, labels):
            columns = embed(query_index, document_index)
            return from_embeddings(columns, torch.from_numpy(labels).float())

        return triplet if spec.needs == "triplets" else labelled

    @staticmethod
    def adapt(module, vectors):
        """Unit vectors; where there is no layer they are so already."""
        return vectors if module is None else F.normalize(module(vectors), dim=1)

    # ---- what the monitor and the estimator ask for

    @torch.no_grad()
    def vectors(self, encoded):
        return tuple(
            self.adapt(module, torch.from_numpy(vectors)).numpy()
            for module, vectors in (
                (self.query, encoded.queries),
                (self.document, encoded.documents),
            )
        )

    def snapshot(self):
        return self.query.weights()

    @staticmethod
    def is_finite(state):
        return all(np.isfinite(array).all() for array in state.values())

    def attributes(self, state=None):
        """The fitted attributes of a state, by default of the weights as they are."""
        state = self.snapshot() if state is None else state
        weights = {"query": state}
        if self.settings.side == "both":
            weights["document"] = state
        return {
            "weights_": weights,
            "embedding_dim_": self.dim,
            "encoder_": self.encoder,
        }


class _InfoNCE:
    """−log softmax of the positive among candidates, known positives left out.

    InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) over the documents of the batch
    or of the whole training corpus, each document once.
    """

    def __init__(self, trainer, data, queries, documents):
        settings = trainer.settings
        self.trainer, self.data = trainer, data
        self.queries, self.documents = queries, documents
        self.scale = (settings.loss_params or {}).get("scale", 20.0)
        self.whole_corpus = settings.negatives == "corpus"
        self.column_of = np.full(len(documents), -1)
        if self.whole_corpus:
            self.column_of[data.pool] = np.arange(len(data.pool))
            self.pool = documents[data.pool]

    def __call__(self, query_index, document_index):
        if self.whole_corpus:
            candidates, column_of = self.pool, self.column_of
        else:
            columns = self._batch_columns(query_index, document_index)
            candidates, column_of = self.documents[columns], self.column_of.copy()
            column_of[columns] = np.arange(len(columns))
        target = column_of[document_index]
        row, column = self.data.relevance.known_positives(query_index, column_of)
        other = column != target[row]
        trainer = self.trainer
        q = trainer.adapt(trainer.query, self.queries[query_index])
        candidates = trainer.adapt(trainer.document, candidates)
        logits = self.scale * (q @ candidates.T)
        logits[row[other], column[other]] = -torch.inf
        return F.cross_entropy(logits, torch.from_numpy(target))

    def _batch_columns(self, query_index, document_index):
        judged = [document_index]
        if self.data.n_negatives:
            rows = self.data.relevance.negative[query_index]
            judged.append(rows.indices)
        return np.unique(np.concatenate(judged))
