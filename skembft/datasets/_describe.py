"""What a retrieval data set holds, in numbers."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from skembft._data.judgements import check_retrieval_data
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.types import Data, Ints, Items
from skembft.encoders._sentence import as_encoder
from skembft.metrics._scoring import item_kind

_PORTION = 4096  # texts that are tokenized together
_NO_LIMIT = 1e9  # what stands for no limit is larger: infinity, 1e30


@dataclass(frozen=True, repr=False)
class DataDescription:
    """A retrieval data set in numbers; made by :func:`describe`.

    Attributes
    ----------
    n_rows : int
        Rows of X.
    n_queries, n_repeated_queries, n_queries_without_document : int
        Distinct queries; those of them in several rows; those without a relevant
        document, which no metric counts.
    n_documents, n_documents_without_query : int
        Distinct documents of y and the corpus; those relevant to no query.
    n_judged_negatives : int
        Distinct pairs of a query and a document that is judged not relevant to it.
    relevant_per_query : dict of {str: float}
        Relevant documents of a query: "min", "median", "mean", "max".
    length_unit : "tokens", "words" or None
        Tokens are counted with the prompt and special tokens, before anything is cut.
        None for ids.
    query_lengths, document_lengths : dict of {str: float} or None
        Of the distinct queries and documents: "min", "median", "95%", "max".
    max_seq_length : int or None
        Tokens after which the encoder cuts a text: the smallest of its
        `max_seq_length`, its positions and what its tokenizer's file says. None without
        an encoder, or where it has no limit.
    truncated_queries, truncated_documents : float or None
        Share of the queries and documents that are cut. None without an encoder.
    """

    n_rows: int
    n_queries: int
    n_repeated_queries: int
    n_queries_without_document: int
    n_documents: int
    n_documents_without_query: int
    n_judged_negatives: int
    relevant_per_query: dict[str, float]
    length_unit: str | None = None
    query_lengths: dict[str, float] | None = None
    document_lengths: dict[str, float] | None = None
    max_seq_length: int | None = None
    truncated_queries: float | None = None
    truncated_documents: float | None = None

    def __repr__(self) -> str:
        lines = [
            f"Retrieval data of {self.n_rows} row(s)",
            f"  queries: {self.n_queries}, "
            f"of them {self.n_repeated_queries} in several rows, "
            f"{self.n_queries_without_document} without a relevant document",
            f"  documents: {self.n_documents}, "
            f"of them {self.n_documents_without_query} relevant to no query",
            f"  relevant documents per query: {_show(self.relevant_per_query)}",
            f"  judged negatives: {self.n_judged_negatives}",
        ]
        if self.query_lengths is not None and self.document_lengths is not None:
            lines += [
                f"  {self.length_unit} per query: {_show(self.query_lengths)}",
                f"  {self.length_unit} per document: {_show(self.document_lengths)}",
            ]
        if self.max_seq_length is not None:
            lines.append(
                f"  cut at {self.max_seq_length} tokens: "
                f"{self.truncated_queries:.1%} of the queries, "
                f"{self.truncated_documents:.1%} of the documents"
            )
        return "\n".join(lines)


def _show(summary: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in summary.items())


def describe(
    X: Data, y: Data = None, *, corpus: Data = None, encoder: Any = None
) -> DataDescription:
    """Count what a retrieval data set holds, and how long its texts are.

    Parameters
    ----------
    X, y : same forms as in ``fit``
        Queries and their relevant documents, texts or ids.
    corpus : array-like of documents, default=None
        More documents.
    encoder : str, SentenceEncoder or finetuner, default=None
        Whose tokens are counted, and how many texts it cuts; a str means
        ``SentenceEncoder(encoder)``. None counts words. With a `PrecomputedEncoder`,
        and where some queries or documents are int, lengths are left out.

    Returns
    -------
    description : DataDescription
        Print it, or read its attributes: `n_rows`, `n_queries`, `n_repeated_queries`,
        `n_queries_without_document`, `n_documents`, `n_documents_without_query`,
        `n_judged_negatives`, `relevant_per_query`, `length_unit`, `query_lengths`,
        `document_lengths`, `max_seq_length`, `truncated_queries`,
        `truncated_documents`.

    Raises
    ------
    TypeError, ValueError
        Bad data, as in ``fit``, or an encoder without a tokenizer.
    OSError
        A model that cannot be loaded.

    Examples
    --------
    >>> from skembft.datasets import describe
    >>> queries = ["reset my password", "close the account"]
    >>> relevant = [{"Go to settings": 2, "Call us": 0}, "Write to the help desk"]
    >>> describe(queries, relevant, corpus=["Opening hours"])
    Retrieval data of 2 row(s)
      queries: 2, of them 0 in several rows, 0 without a relevant document
      documents: 4, of them 2 relevant to no query
      relevant documents per query: min 1, median 1, mean 1, max 1
      judged negatives: 1
      words per query: min 3, median 3, 95% 3, max 3
      words per document: min 2, median 2.5, 95% 4.7, max 5
    """
    kind = "id" if encoder is None else item_kind(encoder)
    if kind == "vector":
        raise ValueError("describe takes texts or ids, and this encoder takes vectors.")
    text_encoder = None if kind == "id" else _text_encoder(encoder)
    data = check_retrieval_data(X, y, kind=kind, corpus=corpus, name="describe")
    if text_encoder is not None:
        lengths = _count_tokens(data, text_encoder)
    elif encoder is None and _are_texts(data):
        lengths = _count_words(data)
    else:
        lengths = {}
    relevance = data.judged
    n_relevant = relevance.n_relevant
    asked = np.unique(relevance.positive.indices)
    return DataDescription(
        n_rows=len(data.row_query),
        n_queries=data.n_queries,
        n_repeated_queries=int((np.bincount(data.row_query) > 1).sum()),
        n_queries_without_document=int((n_relevant == 0).sum()),
        n_documents=len(data.documents),
        n_documents_without_query=len(data.documents) - len(asked),
        n_judged_negatives=relevance.negative.nnz,
        relevant_per_query={
            "min": float(n_relevant.min()),
            "median": float(np.median(n_relevant)),
            "mean": float(n_relevant.mean()),
            "max": float(n_relevant.max()),
        },
        **lengths,
    )


def _text_encoder(encoder: Any) -> Any:
    """The encoder or finetuner that has a model, within those that stand over it."""
    inner = as_encoder(encoder)
    while not hasattr(inner, "model_id"):
        # of a finetuner that is fitted, the encoder that was fitted with it
        inner = getattr(inner, "encoder_", getattr(inner, "encoder", None))
        inner = as_encoder(inner)
        if inner is None:
            raise _cannot_count(type(encoder).__name__)
    return inner


def _cannot_count(what: str) -> ValueError:
    return ValueError(
        f"The tokens of {what} cannot be counted: it has no tokenizer of Hugging Face. "
        "Pass encoder=None to count words, or the name of a model with such a one."
    )


def _are_texts(data: RetrievalData) -> bool:
    return all(isinstance(item, str) for item in [*data.queries, *data.documents])


def _count_words(data: RetrievalData) -> dict[str, Any]:
    queries, documents = (
        [len(text.split()) for text in texts]
        for texts in (data.queries, data.documents)
    )
    return {
        "length_unit": "words",
        "query_lengths": _summary(queries),
        "document_lengths": _summary(documents),
    }


def _count_tokens(data: RetrievalData, encoder: Any) -> dict[str, Any]:
    from skembft._models.lengths import length_limit
    from skembft._models.loading import ModelOptions, load_shared
    from skembft._models.prompts import choose_prompt

    encoder._validate_params()
    used: AbstractContextManager[Any]
    if hasattr(encoder, "model_"):  # a fitted EmbeddingFinetuner
        used = nullcontext(encoder.model_)
    else:
        options = ModelOptions.of(encoder)
        used = load_shared(options).using(options)
    with used as model:
        tokenizer = getattr(model[0], "tokenizer", None)
        if not callable(tokenizer) and not hasattr(tokenizer, "encode_batch"):
            raise _cannot_count(f"the model {os.fspath(encoder.model_id)!r}")
        own: dict[str, Any] = model.prompts  # none is None, whatever its type says
        prompts = (
            choose_prompt(own, encoder.query_prompt, "query"),
            choose_prompt(own, encoder.document_prompt, "document"),
        )
        queries = _token_counts(tokenizer, data.queries, prompts[0])
        documents = _token_counts(tokenizer, data.documents, prompts[1])
        limit = length_limit(model)
    return {
        "length_unit": "tokens",
        "query_lengths": _summary(queries),
        "document_lengths": _summary(documents),
        "max_seq_length": int(limit) if limit < _NO_LIMIT else None,
        "truncated_queries": float(np.mean(queries > limit)),
        "truncated_documents": float(np.mean(documents > limit)),
    }


def _token_counts(tokenizer: Any, texts: Items, prompt: str) -> Ints:
    """Tokens of every text with its prompt and special tokens, none cut off."""
    counts: list[int] = []
    if hasattr(tokenizer, "encode_batch"):  # StaticEmbedding's, as it calls it
        tokenizer = deepcopy(tokenizer)  # whose file may say to cut and to pad
        tokenizer.no_truncation()
        tokenizer.no_padding()
    for start in range(0, len(texts), _PORTION):
        portion = [prompt + text for text in texts[start : start + _PORTION]]
        if hasattr(tokenizer, "encode_batch"):
            encoded = tokenizer.encode_batch(portion, add_special_tokens=False)
            counts += [len(encoding.ids) for encoding in encoded]
        else:
            encoded = tokenizer(portion, return_attention_mask=False, verbose=False)
            counts += [len(ids) for ids in encoded["input_ids"]]
    return np.array(counts)


def _summary(lengths: Ints | list[int]) -> dict[str, float]:
    return {
        "min": float(np.min(lengths)),
        "median": float(np.median(lengths)),
        "95%": float(np.percentile(lengths, 95)),
        "max": float(np.max(lengths)),
    }
