"""Read the training data of FlagEmbedding."""

from pathlib import Path
from typing import Any, Literal, overload

from skembft._utils import types
from skembft.datasets._bunch import data_bunch
from skembft.datasets._lines import numbered_lines, parse_json


@overload
def load_flag_embedding(
    path: types.Path, *, return_X_y: Literal[True]
) -> tuple[list[str], list[dict[str, int]]]: ...
@overload
def load_flag_embedding(path: types.Path, *, return_X_y: bool = False) -> Any: ...
def load_flag_embedding(path: types.Path, *, return_X_y: bool = False) -> Any:
    """Load training data from a file in the format of FlagEmbedding (BGE).

    Each line is a JSON object ``{"query": text, "pos": [text, ...], "neg": [text,
    ...]}``, see [1]_; "neg" may be missing. Other fields (prompt, pos_scores,
    neg_scores, type) are not read.

    Parameters
    ----------
    path : str or path-like
        The file; gzip is decompressed.
    return_X_y : bool, default=False
        Return ``(queries, relevant)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        `queries` (list of str, one a line), `relevant` (list of ``{document: grade}``
        dicts: 1 for every text of "pos", 0 for those of "neg" that are not in "pos"),
        `corpus` (list of str, every distinct document), `query_ids` and `corpus_ids`
        (lists of str, "q0", "q1", … and "d0", "d1", …, parallel to `queries` and
        `corpus`), `own_documents` ({}), `DESCR` (str). Everything is in the order of
        the file.
    (queries, relevant) : tuple of two lists
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is malformed or its "pos" is empty, or if there is no line.

    References
    ----------
    .. [1] FlagEmbedding, https://github.com/FlagOpen/FlagEmbedding

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_flag_embedding
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "train.jsonl"
    ...     _ = path.write_text('{"query": "a fruit", "pos": ["pear"], "neg": ["nut"]}')
    ...     data = load_flag_embedding(path)
    >>> data.queries, data.relevant, data.corpus
    (['a fruit'], [{'pear': 1, 'nut': 0}], ['pear', 'nut'])
    """
    path = Path(path)
    queries: list[str] = []
    relevant: list[dict[str, int]] = []
    for where, line in numbered_lines(path):
        record = parse_json(line)
        if not isinstance(record, dict) or not isinstance(record.get("query"), str):
            raise ValueError(
                f'{where} must be a JSON object with the string "query" and the lists '
                f'"pos" and "neg", got {line!r:.80}.'
            )
        positives, negatives = (_texts(where, record, key) for key in ("pos", "neg"))
        if not positives:
            raise ValueError(
                f'{where} has nothing in "pos": the query has no relevant document. '
                "Delete the line, or give its document."
            )
        queries.append(record["query"])
        judged = dict.fromkeys([*positives, *negatives], 0)
        relevant.append(judged | dict.fromkeys(positives, 1))
    if not queries:
        raise ValueError(f"{path} holds no query.")
    corpus = list(dict.fromkeys(document for judged in relevant for document in judged))
    return data_bunch(
        queries,
        relevant,
        corpus,
        [f"q{i}" for i in range(len(queries))],
        [f"d{i}" for i in range(len(corpus))],
        {},
        f"{path.name}: {len(queries)} queries, {len(corpus)} documents.",
        return_X_y,
    )


def _texts(where: str, record: dict[str, Any], key: str) -> list[str]:
    texts = record.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise ValueError(
            f'{where}: "{key}" must be a list of strings, got {texts!r:.80}.'
        )
    return texts
