"""What the loaders of data sets return."""

from typing import Any

from sklearn.utils import Bunch


def data_bunch(
    queries: list[str],
    relevant: list[Any],
    corpus: list[str],
    query_ids: list[str],
    corpus_ids: list[str],
    own_documents: dict[str, str],
    descr: str,
    return_X_y: bool,
) -> Any:
    """What the loaders of data sets return."""
    if return_X_y:
        return queries, relevant
    return Bunch(
        queries=queries,
        relevant=relevant,
        corpus=corpus,
        query_ids=query_ids,
        corpus_ids=corpus_ids,
        own_documents=own_documents,
        DESCR=descr,
    )


def own_documents(
    query_ids: list[str], queries: dict[str, str], documents: dict[str, str]
) -> dict[str, str]:
    """Return {query: document} of the queries whose id is the id of a document."""
    own: dict[str, str] = {}
    for query_id in query_ids:
        if query_id in documents:
            own.setdefault(queries[query_id], documents[query_id])
    return own
