"""InfoNCE on fixed document vectors, over a batch or a corpus. Import it lazily."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skembft._data.retrieval_data import RetrievalData
from skembft._losses.params import InfoNCEOptions
from skembft._losses.unit_rows import UnitRows
from skembft._utils.types import Ints

_NEVER = torch.finfo(torch.float32).min / 4  # a logit that a softmax does not see


class InfoNCE:
    """−log softmax of a positive among candidates that are not known positives.

    The candidates are the documents of the batch with the judged negatives of its
    queries, or the training corpus; every document is one candidate, however often it
    occurs. A query counts once, as the mean over its positives. The options are those
    of Sentence Transformers' MultipleNegativesRankingLoss, with its values.

    Parameters
    ----------
    options : InfoNCEOptions
    data : RetrievalData
    documents : UnitRows
    adapt : callable
        What makes of the vectors of documents, a tensor, those that compete.
    negatives : {"batch", "random", "hard", "corpus"}
    rng : RandomState
    max_candidates : int
        Documents that compete in one batch with "corpus"; of a larger corpus so many
        are drawn for each.

    References
    ----------
    A. van den Oord et al., 2018, arXiv:1807.03748 (InfoNCE); Z. Lan et al., 2025,
    arXiv:2503.04812 (hardness weighting).
    """

    def __init__(
        self,
        options: InfoNCEOptions,
        data: RetrievalData,
        documents: UnitRows,
        adapt: Callable[[Tensor], Tensor],
        negatives: str,
        rng: np.random.RandomState,
        max_candidates: int,
    ) -> None:
        self.options, self.data, self.rng = options, data, rng
        self.documents, self.adapt = documents, adapt
        self.negatives, self.max_candidates = negatives, max_candidates
        self.weight = None  # of every query, 1 on average
        if data.weights is not None:
            self.weight = data.weights / data.weights[data.answerable].mean()
        self.column_of = np.full(len(documents), -1)
        self.whole_corpus = negatives == "corpus" and len(data.pool) <= max_candidates
        self.corpus = None
        if self.whole_corpus:
            self.column_of[data.pool] = np.arange(len(data.pool))
            self.corpus = documents[data.pool]

    def __call__(
        self,
        pair_query: Ints,
        pair_document: Ints,
        embed: Callable[[Ints], Tensor],
    ) -> Tensor:
        """The loss of a batch of positive pairs.

        `embed` gives the unit vectors of the queries of some pairs, told by place.
        """
        options = self.options
        query_index, first, row = np.unique(
            pair_query, return_index=True, return_inverse=True
        )
        columns = self._candidates(query_index, pair_document)
        target = self.column_of[pair_document]
        q = embed(first)
        c = self.adapt(self._vectors(columns, q.device))
        cosines = q @ c.T
        logits = options.scale * cosines
        positive = logits[row, target]
        if options.hardness_mode is not None:
            logits = logits + self._hardness(cosines, query_index)
        known = self.data.relevance.known_places(query_index, self.column_of)
        logits[known] = _NEVER
        others = [torch.logsumexp(logits, dim=1)[row]]
        per_direction = [torch.logaddexp(others[0], positive)]
        if "query_to_query" in options.directions:
            others.append(self._query_to_query(q, query_index, row, pair_document))
        if "doc_to_query" in options.directions:
            back = self._doc_to_query(q, c, query_index, row, pair_document)
            others.append(back)
            per_direction.append(back)
        if "doc_to_doc" in options.directions:
            others.append(self._doc_to_doc(c, row, target, known, query_index))
        if options.partition_mode == "joint":
            log_z = torch.logsumexp(torch.stack([*others, positive]), dim=0)
        else:
            log_z = torch.stack(per_direction).mean(dim=0)
        if not self.whole_corpus:
            self.column_of[columns] = -1
        # of the documents of a query each counts by its grade, as in nDCG
        grade = self.data.relevance.grades(pair_query, pair_document[:, None])[:, 0]
        share = grade / np.bincount(row, grade)[row] / len(query_index)
        if self.weight is not None:
            share *= self.weight[query_index][row]
        shares = torch.from_numpy(share).float().to(q.device)
        return ((log_z - positive) * shares).sum()

    def _candidates(self, query_index: Ints, pair_document: Ints) -> Ints:
        """Sorted indices of the documents that compete; numbers their columns."""
        if self.whole_corpus:
            return self.data.pool
        parts = [pair_document, self.data.relevance.negative[query_index].indices]
        pool = self.data.pool
        if self.negatives == "corpus":
            parts.append(pool[self.rng.randint(len(pool), size=self.max_candidates)])
        elif self.negatives == "random":
            parts.append(pool[self.rng.randint(len(pool), size=len(pair_document))])
        columns = np.unique(np.concatenate(parts))
        self.column_of[columns] = np.arange(len(columns))
        return columns

    def _vectors(self, columns: Ints, device: torch.device) -> Tensor:
        """The vectors of the candidates; those of the whole corpus are kept there."""
        if self.corpus is None:
            return self.documents[columns].to(device)
        self.corpus = self.corpus.to(device)
        return self.corpus

    def _judged_negatives(self, query_index: Ints) -> tuple[Ints, Ints]:
        """Coordinates (row, column) of the queries' own negatives."""
        rows = self.data.relevance.negative[query_index]
        row = np.repeat(np.arange(len(query_index)), np.diff(rows.indptr))
        column = self.column_of[rows.indices]
        return row[column >= 0], column[column >= 0]

    def _hardness(self, cosines: Tensor, query_index: Ints) -> Tensor:
        """What hardness weighting adds to the logits of negatives."""
        penalty = self.options.hardness_strength * cosines.detach()
        is_own = torch.zeros_like(penalty, dtype=torch.bool)
        is_own[self._judged_negatives(query_index)] = True
        if self.options.hardness_mode == "in_batch_negatives":
            penalty = penalty.masked_fill(is_own, 0)
        elif self.options.hardness_mode == "hard_negatives":
            penalty = penalty.masked_fill(~is_own, 0)
        return penalty

    def _query_to_query(
        self, q: Tensor, query_index: Ints, row: Ints, pair_document: Ints
    ) -> Tensor:
        """Other queries of the batch that the document does not answer."""
        scores = (self.options.scale * q @ q.T)[row]
        answered = self._answered(query_index, pair_document).to(q.device)
        answered[np.arange(len(row)), row] = True  # the query itself
        return torch.logsumexp(scores.masked_fill(answered, _NEVER), dim=1)

    def _doc_to_query(
        self, q: Tensor, c: Tensor, query_index: Ints, row: Ints, pair_document: Ints
    ) -> Tensor:
        """The document against the queries of the batch, its own included."""
        d = c[self.column_of[pair_document]]
        answered = self._answered(query_index, pair_document).to(q.device)
        answered[np.arange(len(row)), row] = False
        scores = (self.options.scale * d @ q.T).masked_fill(answered, _NEVER)
        return torch.logsumexp(scores, dim=1)

    def _doc_to_doc(
        self,
        c: Tensor,
        row: Ints,
        target: Ints,
        known: tuple[Ints, Ints],
        query_index: Ints,
    ) -> Tensor:
        """The document against candidates that do not belong to its query."""
        shape = len(query_index), len(c)
        belongs = torch.zeros(shape, dtype=torch.bool, device=c.device)
        belongs[known] = True
        belongs[self._judged_negatives(query_index)] = True
        scores = self.options.scale * c[target] @ c.T
        return torch.logsumexp(scores.masked_fill(belongs[row], _NEVER), dim=1)

    def _answered(self, query_index: Ints, pair_document: Ints) -> Tensor:
        """Whether each pair's document is known to be relevant to each query."""
        shape = len(pair_document), len(query_index)
        known = self.data.relevance.is_known(
            np.tile(query_index, shape[0]), np.repeat(pair_document, shape[1])
        )
        return torch.from_numpy(known.reshape(shape))
