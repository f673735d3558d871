"""Load, save and describe retrieval data: queries, relevant documents, a corpus."""

import gzip
import inspect
import itertools
import json
import pkgutil
import re
import warnings
from collections.abc import Iterator, Mapping, Set
from importlib import import_module
from numbers import Real
from pathlib import Path
from types import ModuleType

import numpy as np
from sklearn.utils import Bunch

from skembft._atomic import write_json
from skembft._describe import describe
from skembft._generation import generate_pairs

__all__ = [
    "describe",
    "generate_pairs",
    "load_beir",
    "load_docstrings",
    "load_qa_dataset",
    "load_trec_qrels",
    "save_qa_dataset",
]

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


def load_docstrings(*, return_X_y=False):
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
        and classes, sorted), `DESCR` (str).
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
    rows = {}  # (query, document) -> name: identical pairs appear once
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
    return _bunch(
        queries, documents, list(documents), names, list(names), descr, return_X_y
    )


def load_beir(path, split="test", *, return_X_y=False):
    """Load a retrieval data set from a folder in BEIR's layout.

    The folder holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``
    (with a header line), see [1]_.

    Parameters
    ----------
    path : str or path-like
        The folder.
    split : str, default="test"
        The relevance judgements to read; only queries judged in them are returned.
    return_X_y : bool, default=False
        Return ``(queries, relevant)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        `queries` (list of str, the judged queries in the order of
        ``queries.jsonl``), `relevant` (list of ``{document: grade}`` dicts),
        `corpus` (list of str, every ``(title + " " + text).strip()`` in the order of
        ``corpus.jsonl``, repeats included), `query_ids` and `corpus_ids` (lists of
        str, parallel to `queries` and `corpus`), `DESCR` (str). Grades are the
        integers of the file, zeros included; documents with the same text are one
        document, with the highest of their grades.
    (queries, relevant) : tuple of two lists
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a line is malformed, or a judgement names an unknown query or document.

    References
    ----------
    .. [1] Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation
       of Information Retrieval Models", 2021, arXiv:2104.08663.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_beir
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     (folder / "qrels").mkdir()
    ...     files = {
    ...         "corpus.jsonl": '{"_id": "d1", "title": "Apples", "text": "are red"}',
    ...         "queries.jsonl": '{"_id": "q1", "text": "colour of apples"}',
    ...         "qrels/test.tsv": "query-id\\tcorpus-id\\tscore\\nq1\\td1\\t2",
    ...     }
    ...     for file, text in files.items():
    ...         _ = (folder / file).write_text(text)
    ...     data = load_beir(folder)
    >>> data.queries, data.relevant, data.corpus
    (['colour of apples'], [{'Apples are red': 2}], ['Apples are red'])
    """
    path = Path(path)
    qrels_path = path / "qrels" / f"{split}.tsv"
    if not qrels_path.is_file():
        splits = sorted(file.stem for file in path.glob("qrels/*.tsv"))
        raise FileNotFoundError(
            f"There is no file {qrels_path}. The splits of {path} are: "
            f"{', '.join(splits) or 'none'}."
        )
    documents = _read_jsonl(path / "corpus.jsonl", with_title=True)
    queries = _read_jsonl(path / "queries.jsonl", with_title=False)
    qrels = _read_qrels(qrels_path, queries, documents)
    query_ids = [query_id for query_id in queries if query_id in qrels]
    return _bunch(
        [queries[query_id] for query_id in query_ids],
        [qrels[query_id] for query_id in query_ids],
        list(documents.values()),
        query_ids,
        list(documents),
        f"{path.name}, {split} split: {len(query_ids)} judged queries, "
        f"{len(documents)} documents.",
        return_X_y,
    )


def load_trec_qrels(path):
    """Load relevance judgements from a file in TREC's format.

    Each line has four columns, separated by spaces or tabs: query id, iteration (which
    is not read), document id and grade. What :func:`skembft.metrics.evaluate` takes as
    `qrels`.

    Parameters
    ----------
    path : str or path-like
        The file; it is decompressed if its name ends in ``.gz``.

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
    path = Path(path)
    qrels = {}
    for where, line in _numbered_lines(path):
        if line.startswith("#"):
            continue
        try:
            query_id, _, document_id, grade = line.split()
            grade = int(grade)
        except ValueError as error:
            raise ValueError(
                f"{where} must be query id, iteration, document id and integer grade, "
                f"separated by spaces or tabs, got {line!r:.80}."
            ) from error
        judged = qrels.setdefault(query_id, {})
        if document_id in judged:
            raise ValueError(
                f"{where} judges the document {document_id!r} for the query "
                f"{query_id!r} a second time. Keep one of the lines."
            )
        judged[document_id] = grade
    if not qrels:
        raise ValueError(f"{path} holds no judgement.")
    return qrels


def load_qa_dataset(path, *, return_X_y=False):
    """Load a data set that LlamaIndex's ``EmbeddingQAFinetuneDataset`` saved.

    Parameters
    ----------
    path : str or path-like
        A JSON file: ``{"queries": {id: text}, "corpus": {id: text},
        "relevant_docs": {query id: [document id, ...]}, "mode": "text"}``.
    return_X_y : bool, default=False
        Return ``(queries, relevant)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        `queries` (list of str, those that have relevant documents), `relevant` (list
        of lists of str, most relevant first), `corpus` (list of str), `query_ids`
        and `corpus_ids` (lists of str, parallel to `queries` and `corpus`), `DESCR`
        (str). Everything is in the order of the file.
    (queries, relevant) : tuple of two lists
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has another structure, or names an unknown query or document.

    See Also
    --------
    save_qa_dataset : Write such a file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_qa_dataset, save_qa_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "train.json"
    ...     save_qa_dataset(path, ["colour of apples"], ["red"], ["blue", "red"])
    ...     data = load_qa_dataset(path)
    >>> data.queries, data.relevant, data.corpus
    (['colour of apples'], [['red']], ['blue', 'red'])
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object.")
    if content.get("mode", "text") != "text":
        raise ValueError(
            f"{path}: the mode is {content['mode']!r}; only 'text' is known."
        )
    queries = _read_mapping(path, content, "queries", str)
    documents = _read_mapping(path, content, "corpus", str)
    relevant_ids = _read_mapping(path, content, "relevant_docs", list)
    for query_id, document_ids in relevant_ids.items():
        if query_id not in queries:
            raise ValueError(
                f"{path}: relevant_docs names the query {query_id!r}, not in queries."
            )
        for document_id in document_ids:
            if not isinstance(document_id, str) or document_id not in documents:
                raise ValueError(
                    f"{path}: relevant_docs[{query_id!r}] names the document "
                    f"{document_id!r}, not in corpus."
                )
    query_ids = [query_id for query_id in queries if relevant_ids.get(query_id)]
    return _bunch(
        [queries[query_id] for query_id in query_ids],
        [[documents[i] for i in relevant_ids[query_id]] for query_id in query_ids],
        list(documents.values()),
        query_ids,
        list(documents),
        f"{path.name}: {len(query_ids)} judged queries, {len(documents)} documents.",
        return_X_y,
    )


def save_qa_dataset(path, queries, relevant, corpus):
    """Save a data set as LlamaIndex's ``EmbeddingQAFinetuneDataset`` does.

    The file is written whole or not at all. Its ids are ``"q0"``, ``"q1"``, … and
    ``"d0"``, ``"d1"``, …; documents with the same text are one document.

    Parameters
    ----------
    path : str or path-like
        The JSON file to write; an existing one is replaced.
    queries : list of str
        The queries.
    relevant : list of str, list of str lists, or list of dict
        What is relevant to each query: a document, a list of documents (most
        relevant first) or a ``{document: grade}`` dict. Of a dict the documents
        with a grade above 0 are written, the highest grade first.
    corpus : list of str
        The documents. Relevant documents that it lacks are added at its end.

    Raises
    ------
    TypeError
        If a query or a document is not a str, or a grade is not a number.
    ValueError
        If `queries` and `relevant` differ in length, or a query has no relevant
        document.
    FileNotFoundError
        If the folder of `path` does not exist.

    See Also
    --------
    load_qa_dataset : Read such a file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skembft.datasets import load_qa_dataset, save_qa_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "train.json"
    ...     save_qa_dataset(path, ["a fruit"], [{"plum": 1, "pear": 2}], ["stone"])
    ...     load_qa_dataset(path, return_X_y=True)
    (['a fruit'], [['pear', 'plum']])
    """
    path = Path(path)
    queries = _check_texts("queries", queries)
    corpus = _check_texts("corpus", corpus)
    relevant = _check_list("relevant", relevant)
    if len(queries) != len(relevant):
        raise ValueError(
            f"queries and relevant differ in length: {len(queries)} and "
            f"{len(relevant)}. Pass one item of relevant for each query."
        )
    relevant = [_positives(f"relevant[{i}]", item) for i, item in enumerate(relevant)]
    distinct = dict.fromkeys([*corpus, *(text for row in relevant for text in row)])
    ids = {text: f"d{i}" for i, text in enumerate(distinct)}
    content = {
        "queries": {f"q{i}": query for i, query in enumerate(queries)},
        "corpus": {document_id: text for text, document_id in ids.items()},
        "relevant_docs": {
            f"q{i}": [ids[text] for text in row] for i, row in enumerate(relevant)
        },
        "mode": "text",
    }
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: its folder does not exist.")
    write_json(path, content)


def _bunch(queries, relevant, corpus, query_ids, corpus_ids, descr, return_X_y):
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


# docstrings


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


# BEIR


def _read_jsonl(path: Path, with_title: bool) -> dict[str, str]:
    """Read {id: text} from a file with one JSON object in a line."""
    texts = {}
    for where, line in _numbered_lines(path):
        try:
            record = json.loads(line)
        except ValueError:
            record = None  # the error below shows the line
        match record:
            case {"_id": str(identifier), "text": str(text)}:
                title = (record.get("title") or "") if with_title else ""
            case _:
                raise ValueError(
                    f'{where} must be a JSON object with the strings "_id" and '
                    f'"text", got {line!r:.80}.'
                )
        if identifier in texts:
            raise ValueError(f"{where} repeats the id {identifier!r}.")
        texts[identifier] = f"{title} {text}".strip() if with_title else text
    return texts


def _read_qrels(
    path: Path, queries: dict[str, str], documents: dict[str, str]
) -> dict[str, dict[str, int]]:
    """Read {query id: {document: grade}} from a file of three tabbed columns."""
    qrels = {}
    lines = _numbered_lines(path)
    for where, header in itertools.islice(lines, 1):
        if header.split("\t")[-1].lstrip("-").isdigit():
            raise ValueError(
                f"{where} must be a header such as 'query-id\\tcorpus-id\\tscore', "
                f"got {header!r:.80}."
            )
    for where, line in lines:
        try:
            query_id, document_id, grade = line.split("\t")
            grade = int(grade)
        except ValueError as error:
            raise ValueError(
                f"{where} must be query id, document id and integer grade, "
                f"separated by tabs, got {line!r:.80}."
            ) from error
        if query_id not in queries:
            raise ValueError(
                f"{where} names the query {query_id!r}, not in queries.jsonl."
            )
        if document_id not in documents:
            raise ValueError(
                f"{where} names the document {document_id!r}, not in corpus.jsonl."
            )
        grades = qrels.setdefault(query_id, {})
        text = documents[document_id]
        grades[text] = max(grade, grades.get(text, grade))
    return qrels


def _numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ("file, line number", line) for the lines that are not blank."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where} is not UTF-8: {error}") from error
            if text.strip():
                yield where, text


# LlamaIndex's JSON


def _read_mapping(path: Path, content: dict, key: str, kind: type) -> dict:
    """Return content[key], checked to be an object whose values are of `kind`."""
    mapping = content.get(key)
    if not isinstance(mapping, dict):
        got = f"a {type(mapping).__name__}" if key in content else "no such key"
        raise ValueError(f"{path}: {key!r} must be an object, got {got}.")
    for identifier, value in mapping.items():
        if not isinstance(value, kind):
            raise ValueError(
                f"{path}: {key}[{identifier!r}] must be a {kind.__name__}, "
                f"got {value!r:.80}."
            )
    return mapping


def _check_list(name: str, values: object) -> list:
    # a set has no reproducible order, the length of a generator is unknown
    unfit = isinstance(values, str | bytes | Mapping | Set)
    if unfit or not hasattr(values, "__len__"):
        raise TypeError(f"{name} must be a list, got {values!r:.80}.")
    return list(values)


def _check_texts(name: str, values: object) -> list[str]:
    values = _check_list(name, values)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{name}[{i}] must be a str, got {value!r:.80}.")
    return values


def _positives(name: str, item: object) -> list[str]:
    """Return the distinct relevant documents of a query, most relevant first."""
    if isinstance(item, str):
        return [item]
    if isinstance(item, Mapping):
        for text, grade in item.items():
            if not isinstance(grade, Real) or grade != grade:
                kind = ValueError if isinstance(grade, Real) else TypeError
                raise kind(f"{name}[{text!r:.80}] must be a number, got {grade!r}.")
        item = sorted((d for d in item if item[d] > 0), key=item.get, reverse=True)
    item = list(dict.fromkeys(_check_texts(name, item)))
    if not item:
        raise ValueError(
            f"{name} has no relevant document. Leave this query out of queries "
            "and relevant."
        )
    return item
