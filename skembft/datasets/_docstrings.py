"""Retrieval data that every machine has: the docstrings of numpy, scipy, sklearn."""

import inspect
import pkgutil
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, overload

import numpy as np

from skembft.datasets._bunch import data_bunch

_DOCUMENTED_PACKAGES = ("numpy", "scipy", "sklearn")
# Test helpers, shims of what moved elsewhere, and modules whose import warns or
# changes the library (sklearn.experimental).
_SKIPPED_MODULES = frozenset(
    {"conftest", "core", "distutils", "estimator_checks", "experimental", "externals"}
    | {"f2py", "matlib", "misc", "odr", "testing", "tests", "testutils"}
)
# "add(x1, x2, /, out=None)", "y = convolve(x,omega)", "-> int", the "--" of C types
_SIGNATURE = re.compile(r"([\w, ]+ = )?[\w.]+\(.*\)(\s*->.*)?(\n--)?", re.DOTALL)
# Gone soon, or there only after an import that switches an experiment on.
_UNSTABLE = re.compile(
    r"^\.\. (deprecated|versionremoved)::|from sklearn\.experimental import", re.M
)
_NOT_A_SUMMARY = re.compile(r"\.\. |.+\n[-=]{3,}")
_MIN_QUERY_WORDS = 3
_MIN_DOCUMENT_WORDS = 20


@overload
def load_docstrings(*, return_X_y: Literal[True]) -> tuple[list[str], list[str]]: ...
@overload
def load_docstrings(*, return_X_y: bool = False) -> Any: ...
def load_docstrings(*, return_X_y: bool = False) -> Any:
    """Make query-document pairs from the docstrings of numpy, scipy and scikit-learn.

    The summary of a public function or class is the query, the rest of its
    docstring is the document that answers it: about 2,800 real pairs, on any
    machine and without a download. The pairs are those of the installed versions,
    the same ones at every call. A summary that several functions share is there as
    often as they are.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(queries, relevant)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        `queries` (list of str, the summaries, each in one line), `relevant` (list of
        str, the document of each query), `corpus` (list of str, the same documents),
        `query_ids` and `corpus_ids` (lists of str, the full names of the functions
        and classes, sorted), `own_documents` ({}: no query is a document itself),
        `DESCR` (str).
    (queries, relevant) : tuple of two lists
        If `return_X_y` is True.

    Examples
    --------
    >>> from skembft.datasets import load_docstrings
    >>> data = load_docstrings()
    >>> row = data.query_ids.index("numpy.argsort")
    >>> data.queries[row]
    'Returns the indices that would sort an array.'
    >>> data.relevant[row][:44]
    'Perform an indirect sort along the given axi'
    """
    rows: dict[
        tuple[str, str], str
    ] = {}  # (query, document) -> name: identical pairs appear once
    for name, docstring in sorted(_public_docstrings().items()):
        pair = _split_docstring(docstring)
        if pair is not None:
            rows.setdefault(pair, name)
    queries = [query for query, _ in rows]
    documents = [document for _, document in rows]
    names = list(rows.values())
    versions = ", ".join(
        f"{package} {import_module(package).__version__}"
        for package in _DOCUMENTED_PACKAGES
    )
    descr = f"Summaries and docstrings of {versions}: {len(rows)} pairs."
    return data_bunch(
        queries, documents, list(documents), names, list(names), {}, descr, return_X_y
    )


def _public_docstrings() -> dict[str, str]:
    """Return {full name: docstring}, each object once, under its shortest name."""
    docstrings, seen = {}, {}  # seen keeps the objects alive: ids stay unique
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = [m for name in _DOCUMENTED_PACKAGES for m in _public_modules(name)]
        modules.sort(key=lambda module: (module.__name__.count("."), module.__name__))
        # a deprecated alias warns when it is looked up: an error tells it apart
        warnings.simplefilter("error", DeprecationWarning)
        warnings.simplefilter("error", FutureWarning)
        for module in modules:
            for name, item in _public_members(module):
                if id(item) not in seen and isinstance(item.__doc__, str):
                    full_name = f"{module.__name__}.{name}"
                    docstrings[full_name] = inspect.cleandoc(item.__doc__)
                seen[id(item)] = item
    return docstrings


def _public_modules(name: str) -> Iterator[ModuleType]:
    """Import a module and, when it is a package, all public modules in it."""
    try:
        module = import_module(name)
    except ImportError:  # needs something optional that is not installed
        return
    yield module
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not info.name.startswith("_") and info.name not in _SKIPPED_MODULES:
            yield from _public_modules(f"{name}.{info.name}")


def _public_members(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield the functions and classes of `module`, sorted by name."""
    listed = getattr(module, "__all__", None)
    for name in sorted(set(vars(module) if listed is None else listed)):
        if name.startswith("_") or name in _SKIPPED_MODULES:
            continue
        try:
            item = getattr(module, name)
        except (AttributeError, ImportError, DeprecationWarning, FutureWarning):
            continue
        # without __all__, what a module imports is not told from what it defines
        ours = listed is not None or getattr(item, "__module__", "") == module.__name__
        if ours and (inspect.isroutine(item) or isinstance(item, type | np.ufunc)):
            yield name, item


def _split_docstring(docstring: str) -> tuple[str, str] | None:
    """Split into (summary in one line, rest); None where that is no useful pair."""
    paragraphs = re.split(r"\n\s*\n", docstring.strip())
    while paragraphs and _SIGNATURE.fullmatch(paragraphs[0]):
        del paragraphs[0]
    if not paragraphs or _NOT_A_SUMMARY.match(paragraphs[0]):
        return None
    query = " ".join(paragraphs[0].split())
    document = "\n\n".join(paragraphs[1:])
    lines = (line.rstrip() for line in document.splitlines())
    # scipy.stats.Normal and its like draw such an output anew at every import
    document = "\n".join(x for x in lines if not x.endswith("# may vary")).strip()
    if (
        len(query.split()) < _MIN_QUERY_WORDS
        or len(document.split()) < _MIN_DOCUMENT_WORDS
        or query in " ".join(document.split())
        or _UNSTABLE.search(document)
    ):
        return None
    return query, document
