"""Exact top-k retrieval in chunks; the only place where vectors are ranked."""

import numpy as np

from skembft._utils import check_finite, unit_rows

# elements of the largest temporary score matrix: memory is set by this, not by the data
_BLOCK = 2**26


def top_k(queries, documents, k, *, similarity="cosine", exclude=None, hide=None):
    """Return the `k` best documents of every query, best first.

    Ties are broken by the order of documents.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, d)
    documents : ndarray of shape (n_documents, d)
    k : int
        Capped at the number of documents.
    similarity : {"cosine", "dot"}
    exclude : ndarray of shape (n_queries,) or None
        Index of one document that each query must not retrieve.
    hide : callable (scores, first_query, first_document) or None
        Sets scores of a block (a tensor) that must not be retrieved to -inf, in place.

    Returns
    -------
    indices : int64 ndarray of shape (n_queries, min(k, n_documents))
        -1 where nothing is left to retrieve.
    scores : float32 ndarray of the same shape
    """
    import torch

    n_queries, n_documents = len(queries), len(documents)
    k = min(k, n_documents)
    to_tensor = _unit_tensor if similarity == "cosine" else _tensor
    q = to_tensor(queries, 0, "query")
    query_step = max(1, min(n_queries, 1024))
    document_step = max(k, _BLOCK // max(query_step, queries.shape[1], 1))
    # one block of memory for all scores: the system is slow to give fresh pages
    block = torch.empty(min(query_step, n_queries) * min(document_step, n_documents))
    best = None
    for start in range(0, n_documents, document_step):
        chunk = documents[start : start + document_step]
        chunk = to_tensor(chunk, start, "document")
        found = []
        for first in range(0, n_queries, query_step):
            part = q[first : first + query_step]
            scores = block[: len(part) * len(chunk)].view(len(part), len(chunk))
            torch.mm(part, chunk.T, out=scores)
            if exclude is not None:
                own = torch.from_numpy(exclude[first : first + query_step] - start)
                rows = torch.nonzero((own >= 0) & (own < len(chunk)))[:, 0]
                scores[rows, own[rows]] = -torch.inf
            if hide is not None:
                hide(scores, first, start)
            score, index = block_top_k(scores, min(k, len(chunk)))
            found.append((score, index + start))
        score, index = map(torch.cat, zip(*found, strict=True))
        best = (score, index) if best is None else _merge(best, (score, index), k)
    if best is None:
        shape = (n_queries, 0)
        best = torch.empty(shape), torch.empty(shape, dtype=torch.int64)
    score, index = best
    index[score == -torch.inf] = -1
    return index.numpy(), score.numpy()


def _merge(best, found, k):
    """The k best of two lists, of which the first has the earlier documents."""
    import torch

    score, index = (torch.cat(pair, dim=1) for pair in zip(best, found, strict=True))
    # earlier documents stand first and the sort is stable: ties keep pool order
    score, order = torch.sort(score, dim=1, descending=True, stable=True)
    return score[:, :k].contiguous(), index.gather(1, order[:, :k])


def _unit_tensor(vectors, start, role):
    """Return float32 vectors of unit length as a tensor, or name the first bad row."""
    import torch

    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    tensor = torch.from_numpy(vectors)
    norms = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)
    # not finite, or so long or short that squares over- or underflow
    if not ((norms > 1e-15) & (norms < 1e15)).all():
        check_finite(vectors, f"The {role} vectors", start)
        return torch.from_numpy(unit_rows(vectors))
    if (norms - 1).abs().max() > 1e-6:  # most are unit vectors already
        tensor = tensor / norms.masked_fill(norms == 0, 1)
    return tensor


def _tensor(vectors, start, role):
    """Return float32 vectors as a tensor, or name the first bad row."""
    import torch

    check_finite(vectors, f"The {role} vectors", start)
    return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))


def block_top_k(scores, k):
    """Top k of every row, best first, equal scores in order of their index."""
    import torch

    # topk takes any of several documents with the score of the k-th; one place more
    # tells where there are more of them than places, and there the first are taken
    values, index = torch.topk(scores, min(k + 1, scores.shape[1]), dim=1)
    threshold, index = values[:, k - 1 : k], index[:, :k]
    crowded = (values[:, k:] == threshold).any(dim=1)
    for row in torch.nonzero(crowded)[:, 0].tolist():
        candidates = torch.nonzero(scores[row] >= threshold[row])[:, 0]
        above = candidates[scores[row, candidates] > threshold[row]]
        level = candidates[scores[row, candidates] == threshold[row]]
        index[row] = torch.cat([above, level[: k - len(above)]])
    values = scores.gather(1, index)
    tied = torch.nonzero((values[:, 1:] >= values[:, :-1]).any(dim=1))[:, 0]
    if len(tied):
        index[tied] = torch.sort(index[tied], dim=1).values
        values[tied], order = torch.sort(
            scores[tied[:, None], index[tied]], dim=1, descending=True, stable=True
        )
        index[tied] = index[tied].gather(1, order)
    return values, index
