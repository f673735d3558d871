"""Read judgements and runs from files in TREC's formats."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from skembft._utils import types
from skembft.datasets._lines import numbered_lines

_N = TypeVar("_N", int, float)
_COLUMN = re.compile(r"[^ \t\r\n\f\v]+")  # an id may hold other white space


def load_trec_qrels(path: types.Path) -> dict[str, dict[str, int]]:
    """Load relevance judgements from a file in TREC's format.

    Each line has four columns, separated by spaces or tabs: query id, iteration (which
    is not read), document id and grade. What :func:`skembft.metrics.evaluate` takes as
    `qrels`.

    Parameters
    ----------
    path : str or path-like
        The file; gzip is decompressed.

    Returns
    -------
    qrels : dict of {query id: {document id: grade}}
        Ids are str, grades int, zeros and below included; in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line has other columns or judges a document for the second time, or if
        there is no judgement. trec_eval refuses these files too. As there, lines that
        begin with # are skipped.

    See Also
    --------
    load_trec_run : Load what a system retrieved.

    References
    ----------
    trec_eval, https://github.com/usnistgov/trec_eval

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_trec_qrels
    >>> from skembft.metrics import evaluate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "qrels.txt"
    ...     _ = path.write_text("q1 0 d1 2\\nq1 0 d2 0\\nq2 0 d2 1\\n")
    ...     qrels = load_trec_qrels(path)
    >>> qrels
    {'q1': {'d1': 2, 'd2': 0}, 'q2': {'d2': 1}}
    >>> evaluate(qrels, {"q1": {"d1": 0.9}, "q2": {"d1": 0.9, "d2": 0.8}}, "mrr@10")
    {'mrr@10': 0.75}
    """
    return _read_columns(
        path, 4, 3, int, "query id, iteration, document id and integer grade", "judges"
    )


def load_trec_run(path: types.Path) -> dict[str, dict[str, float]]:
    """Load a run, what a system retrieved, from a file in TREC's format.

    Each line has six columns, separated by spaces or tabs: query id, Q0, document id,
    rank, score and the name of the run. As in trec_eval only ids and scores count:
    Q0, rank and name are not read. What :func:`skembft.metrics.evaluate` takes as
    `run`.

    Parameters
    ----------
    path : str or path-like
        The file; gzip is decompressed.

    Returns
    -------
    run : dict of {query id: {document id: score}}
        Ids are str, scores float; in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line has other columns, a score that is no finite number, or a document
        that its query has already, or if there is no line. As in trec_eval, lines
        that begin with # are skipped.

    See Also
    --------
    load_trec_qrels : Load the judgements.

    References
    ----------
    trec_eval, https://github.com/usnistgov/trec_eval

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_trec_run
    >>> from skembft.metrics import evaluate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "bm25.run"
    ...     _ = path.write_text("q1 Q0 d2 1 14.5 bm25\\nq1 Q0 d1 2 12 bm25\\n")
    ...     run = load_trec_run(path)
    >>> run
    {'q1': {'d2': 14.5, 'd1': 12.0}}
    >>> evaluate({"q1": {"d1": 1}}, run, "mrr@10")
    {'mrr@10': 0.5}
    """
    wanted = "query id, Q0, document id, rank, finite score and name of the run"
    return _read_columns(path, 6, 4, _finite, wanted, "retrieves")


def _finite(column: str) -> float:
    score = float(column)
    if not math.isfinite(score):
        raise ValueError(f"{column} is not finite")
    return score


def _read_columns(
    path: types.Path,
    n_columns: int,
    at: int,
    number: Callable[[str], _N],
    wanted: str,
    verb: str,
) -> dict[str, dict[str, _N]]:
    """Read {query id: {document id: number}}; `at` is the column of the number."""
    path = Path(path)
    found: dict[str, dict[str, _N]] = {}
    for where, line in numbered_lines(path):
        if line.startswith("#"):
            continue
        columns = _COLUMN.findall(line)
        try:
            if len(columns) != n_columns:
                raise ValueError(f"{len(columns)} columns")
            value = number(columns[at])
        except ValueError as error:
            raise ValueError(
                f"{where} must be {wanted}, separated by spaces or tabs, "
                f"got {line!r:.80}."
            ) from error
        query_id, document_id = columns[0], columns[2]
        of_query = found.setdefault(query_id, {})
        if document_id in of_query:
            raise ValueError(
                f"{where} {verb} the document {document_id!r} for the query "
                f"{query_id!r} a second time. Keep one of the lines."
            )
        of_query[document_id] = value
    if not found:
        what = "judgement" if verb == "judges" else "result"
        raise ValueError(f"{path} holds no {what}.")
    return found
