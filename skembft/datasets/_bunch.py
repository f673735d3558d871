"""What the loaders of data sets return."""

from typing import Any

from sklearn.utils import Bunch


def data_bunch(
    queries: list[str],
    relevant: list[Any],
    corpus: list[str],
    query_ids: list[str],
    corpus_ids: list[str],
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
        DESCR=descr,
    )
