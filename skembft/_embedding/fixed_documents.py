"""Documents that keep the vectors of the untouched model. Import it lazily."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sklearn.utils import check_random_state
from torch import Tensor, nn

from skembft._data.retrieval_data import RetrievalData
from skembft._embedding.examples import Examples
from skembft._embedding.losses import is_distributed, of_all
from skembft._embedding.speed.forward import on_host
from skembft._finetuner.trainer import Settings
from skembft._losses.infonce import InfoNCE
from skembft._losses.params import InfoNCEOptions, build_loss
from skembft._losses.table import LOSSES
from skembft._losses.unit_rows import UnitRows
from skembft._models.encoding import encode
from skembft._utils.types import BatchTokens, Ints, Items, Vectors
from skembft.encoders._sentence import StoreKey
from skembft.encoders._store import Portions, get_store

# documents that compete in one batch; of a larger corpus so many are drawn for each
MAX_CANDIDATES = 2**16
_STORE_BYTES = 2**30  # as of a SentenceEncoder


@dataclass(frozen=True)
class DocumentEncoder:
    """The untouched model, of whose vectors this process has a store.

    A `SentenceEncoder` of the same model and settings shares it.

    Attributes
    ----------
    model : SentenceTransformer
    key : StoreKey
        What determines the vectors.
    batch_tokens : int or "auto"
    """

    model: SentenceTransformer
    key: StoreKey
    batch_tokens: BatchTokens

    def vectors(self, documents: Items) -> Vectors:
        """Vectors of documents; those that are new are encoded."""
        return get_store(self.key).get(
            list(documents), self._compute, max_bytes=_STORE_BYTES
        )

    def _compute(self, documents: list[str]) -> Portions:
        vectors = encode(
            self.model,
            documents,
            role="document",
            prompt=self.key.prompt,
            normalize=self.key.normalize,
            precision="auto" if self.key.precision == "bf16" else "float32",
            batch_tokens=self.batch_tokens,
        )
        yield documents, vectors


class FixedDocuments(nn.Module):
    """A loss of queries that a model embeds, and of documents whose vectors stay.

    Batches hold the queries of `Examples`, and as labels the rows of these.

    Parameters
    ----------
    settings : EmbeddingFinetuner
    model : SentenceTransformer
        Embeds queries.
    data : RetrievalData
        What the examples are of.
    examples : Examples
    documents : ndarray of shape (n_documents, d)
        Vectors of the documents of the data.
    """

    def __init__(
        self,
        settings: Settings,
        model: SentenceTransformer,
        data: RetrievalData,
        examples: Examples,
        documents: Vectors,
    ) -> None:
        super().__init__()
        name = settings._find_loss()
        self.needs = LOSSES[name].needs
        self.normalize, self.truncate_dim = settings.normalize, settings.truncate_dim
        self.model = model
        self.examples, self.documents = examples, documents
        self.loss: Any
        if self.needs == "positives":
            self.loss = InfoNCE(
                InfoNCEOptions.of(name, settings.loss_params),
                data,
                UnitRows(documents),
                adapt=lambda vectors: vectors,
                negatives=settings.negatives,
                rng=check_random_state(None),  # whose state checkpoints hold
                max_candidates=MAX_CANDIDATES,
            )
        else:
            self.loss = build_loss(settings.loss, None, settings.loss_params)

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Any:
        queries = self.model(features[0])["sentence_embedding"]
        if is_distributed():
            queries, labels = of_all([queries, labels])
        rows = on_host(labels).numpy()
        with torch.autocast(queries.device.type, enabled=False):
            queries = queries.float()[:, : self.truncate_dim]
            if self.normalize:
                queries = F.normalize(queries, dim=1)
            return self._compute(queries, rows)

    def _compute(self, queries: Tensor, rows: Ints) -> Any:
        examples = self.examples
        places = examples.documents[rows]
        if self.needs == "positives":
            assert examples.queries is not None
            return self.loss(
                examples.queries[rows],
                places[:, 0],
                lambda first: F.normalize(queries[first], dim=1),
            )
        columns = [self._vectors(column, queries.device) for column in places.T]
        from_embeddings = self.loss.compute_loss_from_embeddings
        if self.needs == "targets":
            return from_embeddings([queries], columns)
        labels = None
        if examples.labels is not None:
            labels = torch.from_numpy(examples.labels[rows]).to(queries.device)
            labels = labels.float() if labels.is_floating_point() else labels
        columns.insert(0, queries)
        if self.needs == "classes":
            assert labels is not None
            labels, columns = labels.repeat(len(columns)), [torch.cat(columns)]
        return from_embeddings(columns, labels)

    def _vectors(self, index: Ints, device: torch.device) -> Tensor:
        return torch.from_numpy(np.float32(self.documents[index])).to(device)
