"""What the loaders of data sets return."""

from sklearn.utils import Bunch


def data_bunch(queries, relevant, corpus, query_ids, corpus_ids, descr, return_X_y):
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
