"""Fitted finetuners as the embedding objects of LlamaIndex and LangChain."""

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

from skembft._utils.estimators import thawed
from skembft._utils.optional import import_optional
from skembft.encoders._precomputed import PrecomputedEncoder
from skembft.integrations._common import fitted
from skembft.metrics._scoring import item_kind

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from llama_index.core.base.embeddings.base import BaseEmbedding


def to_llama_index(finetuner: Any) -> "BaseEmbedding":
    """Return a fitted finetuner as an embedding model of LlamaIndex.

    Queries are embedded by `transform`, texts in batches by `transform_documents`.

    Parameters
    ----------
    finetuner : fitted finetuner, encoder or search
        Of a search the best estimator is taken.

    Returns
    -------
    embed_model : llama_index.core.base.embeddings.base.BaseEmbedding
        What LlamaIndex calls `embed_model`. Its `model_name` changes with what the
        finetuner has learned, so that an `IngestionPipeline` does not take vectors of
        another one from its cache. It can be pickled, and contains the finetuner.

    Raises
    ------
    ImportError
        Without the package llama-index-core, of the extra ``llama-index``.
    TypeError
        If `finetuner` has no `transform_documents`.
    ValueError
        If it takes vectors instead of texts (``encoder=None``).

    Warns
    -----
    UserWarning
        If its vectors must be ranked by inner product (``method="nudge_m"``), which
        stores do not do by default.

    See Also
    --------
    to_langchain : The same for LangChain.

    Notes
    -----
    Methods that are asynchronous compute in a thread. Threads that use the same object
    wait for one another.

    Examples
    --------
    >>> from skembft import SentenceEncoder
    >>> from skembft.integrations import to_llama_index
    >>> embed_model = to_llama_index(SentenceEncoder("my-model"))  # doctest: +SKIP
    >>> Settings.embed_model = embed_model  # doctest: +SKIP
    """
    embedder = TextEmbedder(finetuner)
    return _llama_index_class()(embedder, model_name=embedder.name())


def to_langchain(finetuner: Any) -> "Embeddings":
    """Return a fitted finetuner as an embedding object of LangChain.

    Queries are embedded by `transform`, documents by `transform_documents`.

    Parameters
    ----------
    finetuner : fitted finetuner, encoder or search
        Of a search the best estimator is taken.

    Returns
    -------
    embeddings : langchain_core.embeddings.Embeddings
        It can be pickled, and contains the finetuner.

    Raises
    ------
    ImportError
        Without the package langchain-core, of the extra ``langchain``.
    TypeError
        If `finetuner` has no `transform_documents`.
    ValueError
        If it takes vectors instead of texts (``encoder=None``).

    Warns
    -----
    UserWarning
        If its vectors must be ranked by inner product (``method="nudge_m"``), which
        stores do not do by default.

    See Also
    --------
    to_llama_index : The same for LlamaIndex.

    Examples
    --------
    >>> from skembft import SentenceEncoder
    >>> from skembft.integrations import to_langchain
    >>> embeddings = to_langchain(SentenceEncoder("my-model"))  # doctest: +SKIP
    >>> store = InMemoryVectorStore(embeddings)  # doctest: +SKIP
    """
    embedder = TextEmbedder(finetuner)
    return _langchain_class()(embedder)


class TextEmbedder:
    """A fitted finetuner that gives lists of floats, to one thread at a time."""

    def __init__(self, finetuner: Any) -> None:
        self.finetuner = finetuner = fitted(finetuner)
        if not hasattr(finetuner, "transform_documents"):
            raise TypeError(
                f"{type(finetuner).__name__} has no transform_documents: pass a fitted "
                "finetuner, of a Pipeline its last step."
            )
        if item_kind(finetuner) == "vector":
            raise ValueError(
                f"This {type(finetuner).__name__} takes vectors (encoder=None), and "
                "here come texts: fit it over an encoder, such as APIEncoder(client)."
            )
        if getattr(finetuner, "_similarity", "cosine") == "dot":
            warnings.warn(
                f"Vectors of this {type(finetuner).__name__} must be ranked by inner "
                "product: set it in the vector store, whose default is often the "
                "cosine, or fit with method='nudge_n' or normalize=True.",
                UserWarning,
                stacklevel=3,
            )
        self._lock = threading.Lock()  # tokenizers are not for several threads

    def __getstate__(self) -> Any:
        return self.finetuner

    def __setstate__(self, finetuner: Any) -> None:
        self.finetuner, self._lock = finetuner, threading.Lock()

    def query(self, text: str) -> list[float]:
        with self._lock:
            return np.asarray(self.finetuner.transform([text]))[0].tolist()

    def documents(self, texts: list[str]) -> list[list[float]]:
        if not texts:
            return []
        with self._lock:
            vectors = self.finetuner.transform_documents(list(texts))
        return np.asarray(vectors).tolist()

    def name(self) -> str:
        """A name that changes with what the finetuner has learned."""
        digest = joblib.hash(list(_learned(self.finetuner)))
        return f"{type(self.finetuner).__name__} {digest[:12]}"


def _learned(estimator: Any) -> Iterator[object]:
    """Yield what determines the vectors of a fitted estimator."""
    estimator = thawed(estimator)
    if isinstance(estimator, PrecomputedEncoder):
        yield [estimator._table(name) for name in ("queries", "documents")]
    elif hasattr(estimator, "_fingerprint"):
        yield estimator._fingerprint()
    yield str(getattr(estimator, "_adapter_spec", None))
    for name in ("weights_", "moved_documents_", "moved_vectors_"):
        yield getattr(estimator, name, None)
    if hasattr(estimator, "model_"):
        model = estimator.model_
        yield str((model.prompts, model.max_seq_length, model.truncate_dim))
        for tensor in model.state_dict().values():
            yield tensor.detach().cpu().float().numpy()
    if hasattr(estimator, "encoder_"):
        yield from _learned(estimator.encoder_)


# Made when asked for, as their base classes are those of optional packages; a pickle
# therefore holds the call that makes the object, not its class.


@cache
def _llama_index_class() -> type[Any]:
    package = "llama_index.core"
    who = "to_llama_index"
    base = import_optional(f"{package}.base.embeddings.base", who, "llama-index")
    BaseEmbedding: Any = base.BaseEmbedding
    pydantic = import_optional(f"{package}.bridge.pydantic", who, "llama-index")

    class FinetunedEmbedding(BaseEmbedding):
        """A fitted finetuner of skembft."""

        _embedder: TextEmbedder = pydantic.PrivateAttr()

        def __init__(self, embedder: TextEmbedder, **fields: Any) -> None:
            # more texts of equal length are found among more, and hardly padded
            super().__init__(**{"embed_batch_size": 256, **fields})
            self._embedder = embedder

        @classmethod
        def class_name(cls) -> str:
            return "FinetunedEmbedding"

        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            names = ("model_name", "embed_batch_size", "num_workers")
            fields = {name: getattr(self, name) for name in names}
            return _remake, (_llama_index_class, self._embedder, fields)

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._embedder.query(query)

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._embedder.documents([text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return self._embedder.documents(texts)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return await asyncio.to_thread(self._embedder.query, query)

        async def _aget_text_embedding(self, text: str) -> list[float]:
            return (await self._aget_text_embeddings([text]))[0]

        async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return await asyncio.to_thread(self._embedder.documents, texts)

    return FinetunedEmbedding


@cache
def _langchain_class() -> type[Any]:
    base = import_optional("langchain_core.embeddings", "to_langchain", "langchain")
    Embeddings: Any = base.Embeddings

    class FinetunedEmbeddings(Embeddings):
        """A fitted finetuner of skembft."""

        def __init__(self, embedder: TextEmbedder) -> None:
            self._embedder = embedder

        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return _remake, (_langchain_class, self._embedder, {})

        def embed_query(self, text: str) -> list[float]:
            return self._embedder.query(text)

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return self._embedder.documents(texts)

    return FinetunedEmbeddings


def _remake(
    find_class: Callable[[], type[Any]], embedder: TextEmbedder, fields: dict[str, Any]
) -> Any:
    return find_class()(embedder, **fields)
