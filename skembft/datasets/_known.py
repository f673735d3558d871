"""Judgements of queries and documents that a data set lacks: left out, or refused."""

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeAlias

# where it stands, for messages; query id, document id, grade
Judgement: TypeAlias = tuple[str, str, str, int]


def known_judgements(
    judgements: Iterable[Judgement],
    queries: Collection[str],
    documents: Collection[str],
    *,
    path: Path,
    sources: tuple[str, str],
    strict: bool,
) -> dict[str, list[tuple[str, int]]]:
    """Return {query id: [(document id, grade), …]} of what the data hold.

    What names an unknown id is left out with one warning, and so is a query that lost
    a judgement and has nothing relevant. With `strict` an unknown id is an error.

    Parameters
    ----------
    queries, documents : collection of str
        The known ids.
    path : Path
        The file of the judgements, for messages.
    sources : tuple of two str
        What holds the queries and the documents, for messages.
    """
    judged: dict[str, list[tuple[str, int]]] = {}
    # dicts as sets that keep the order
    losers: dict[str, None] = {}
    unknown: tuple[dict[str, None], dict[str, None]] = {}, {}
    n_judgements = n_lost = 0
    for where, query_id, document_id, grade in judgements:
        n_judgements += 1
        if query_id in queries and document_id in documents:
            judged.setdefault(query_id, []).append((document_id, grade))
            continue
        if strict:
            is_query = query_id not in queries
            what = f"query {query_id!r}" if is_query else f"document {document_id!r}"
            source = sources[0] if is_query else sources[1]
            raise ValueError(
                f"{where} names the {what}, not in {source}. Delete it, or leave such "
                "judgements out with strict=False."
            )
        n_lost += 1
        (losers if query_id in queries else unknown[0])[query_id] = None
        if document_id not in documents:
            unknown[1][document_id] = None
    if not n_judgements:
        raise ValueError(f"{path} holds no judgement.")
    if not n_lost:
        return judged
    empty = [q for q in losers if all(grade <= 0 for _, grade in judged.get(q, ()))]
    for query_id in empty:
        judged.pop(query_id, None)
    counts = {
        f"documents not in {sources[1]}": unknown[1],
        f"queries not in {sources[0]}": unknown[0],
        "queries left without a relevant document, so left out too": empty,
    }
    parts = [
        f"{what}: {len(ids)} ({_some(ids)})" for what, ids in counts.items() if ids
    ]
    message = "; ".join(
        [f"{path}: {n_lost} of {n_judgements} judgements are left out", *parts]
    )
    if not judged:
        raise ValueError(
            f"{message}. No query is left: are these the judgements of this corpus?"
        )
    warnings.warn(
        f"{message}. strict=True refuses such judgements.", UserWarning, stacklevel=3
    )
    return judged


def _some(ids: Collection[str]) -> str:
    """The first three ids, for a message."""
    shown = [repr(identifier) for identifier, _ in zip(ids, range(3), strict=False)]
    return ", ".join(shown + ["…"] * (len(ids) > 3))
