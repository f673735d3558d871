"""Training data without labels: a language model writes the queries of documents."""

import hashlib
import json
import os
import queue
import re
import string
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from numbers import Integral
from pathlib import Path

from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from skembft._atomic import write_json
from skembft._inputs import check_items
from skembft._utils import shorten

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DEFAULT_PROMPT = """\
Here is a passage from a collection of documents:

<passage>
{document}
</passage>

People search this collection by typing questions. Write {n_queries} different \
questions that this passage answers.

- The passage alone must be enough to answer each question.
- Each question must be clear to someone who has not seen the passage: name the things \
it is about, and do not mention "the passage", "the text" or "the document".
- Write in the language of the passage.

Answer with a numbered list, one question per line, and nothing else.
"""
_SAVE_EVERY = 100  # documents
_GIVE_UP_AFTER = 10  # documents, when the llm has not answered for any,
_IN_A_ROW = 50  # and when it has for some: an expired key, a server that is gone
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # seconds
_FORMAT = b'{"generate_pairs": 1, '  # how a journal begins


@validate_params(
    {
        "n_queries": [Interval(Integral, 1, None, closed="left")],
        "path": [str, os.PathLike, None],
        "n_jobs": [Interval(Integral, 1, None, closed="left")],
        "n_retries": [Interval(Integral, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def generate_pairs(
    documents, llm, *, prompt=None, n_queries=2, path=None, n_jobs=4, n_retries=3
):
    """Let a language model write the queries that documents answer.

    Every document is put into the prompt, and the numbered list that the model answers
    with is read. With `path` the answers are kept as they arrive: after a crash, an
    interrupt or failures call again with the same arguments, and the model is asked
    only for what is missing.

    Read more in the :doc:`guide on training data without labels </generating>`.

    Parameters
    ----------
    documents : list of str, or dict of {id: text}
        The documents. Those with the same text are one document, with the first of
        their ids. The ids of a list are ``"d0"``, ``"d1"``, …
    llm : callable
        Takes a prompt and returns the answer, both str. It is called from several
        threads at once, unless ``n_jobs=1``.
    prompt : str, default=None
        A template with the placeholders ``{document}`` and ``{n_queries}``; other
        braces are doubled. It should ask for a numbered list. None is the text that
        the guide shows.
    n_queries : int, default=2
        How many queries to ask for, and the most that are taken of an answer.
    path : str or path-like, default=None
        The JSON file to write, which :func:`load_qa_dataset` and LlamaIndex read. It
        is brought up to date, whole or not at all, after every 100 documents and at
        the end. The answers themselves are appended to the journal ``path +
        ".journal"``, each before it counts. None writes nothing.
    n_jobs : int, default=4
        The most calls of `llm` at a time.
    n_retries : int, default=3
        How often a failed call is repeated, after 1, 2, 4, … seconds, at most 60. An
        answer without a query is a failed call too.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        `queries` (list of str), `relevant` (list of lists of str: several documents
        for a query that was written for each of them), `corpus` (list of str, every
        distinct document), `query_ids` and `corpus_ids` (lists of str, parallel to
        `queries` and `corpus`), `failures` (list of (document id, error text)),
        `DESCR` (str). Everything is in the order of `documents`, whatever the order
        of the answers; so ids of queries change when a document that had failed is
        answered by a later call.

    Raises
    ------
    TypeError
        If a document is not a str, or `llm` is not callable or returns something else
        than a str.
    ValueError
        If there is no document, the prompt lacks a placeholder or has an unknown one,
        or the files at `path` are damaged or were made from other documents, another
        prompt or another `n_queries`.
    FileExistsError
        If the file at `path` holds something else than this function wrote there.
    FileNotFoundError
        If the folder of `path` does not exist.
    RuntimeError
        If `llm` failed for every document, or for the first 10 (for ``2 * n_jobs``, if
        that is more), or another process is writing to `path`.

    Warns
    -----
    UserWarning
        If some documents failed: how many, and why the first of them did. After 50
        failures in a row no more documents are asked for.

    See Also
    --------
    load_qa_dataset : Read the file.
    skembft.inspection.compare_retrieval : See whether training on it helped.

    Examples
    --------
    >>> from skembft.datasets import generate_pairs
    >>> def llm(prompt):  # stands for a call of a real model
    ...     fruit = "apples" if "Apples" in prompt else "plums"
    ...     return f"Here are the questions:\\n1. What colour are {fruit}?"
    >>> data = generate_pairs(["Apples are red.", "Plums are blue."], llm, n_queries=1)
    >>> data.queries
    ['What colour are apples?', 'What colour are plums?']
    >>> data.relevant
    [['Apples are red.'], ['Plums are blue.']]
    """
    documents = _check_documents(documents)
    prompt = _check_prompt(DEFAULT_PROMPT if prompt is None else prompt)
    _check_llm(llm)
    with (
        _Answers(documents)
        if path is None
        else _Journal(Path(path), documents, prompt, n_queries)
    ) as answers:
        errors = _ask_all(answers, llm, prompt, n_queries, n_jobs, n_retries)
    failures = [(i, _describe(errors[i])) for i in documents if i in errors]
    if failures:
        (first, why), *_ = failures
        again = "" if path is None else " Call again to ask for them alone."
        warnings.warn(
            f"{len(failures)} of {len(documents)} documents have no queries, see "
            f"`failures`.{again} The first is {first!r}: {why:.200}",
            UserWarning,
            stacklevel=3,
        )
    return _bunch(answers.content(), failures)


# what a model answers

_LABEL = r"(?:question|query|q)\s*#?\d{0,3}[*_]*(?:[.:：)]|\s[-–—])[*_]*(?:\s+|$)"
# "1. ", "2) ", "(3) ", "**4.** ", "5、", "Q6: ", "- **Question 7:** ", "8. Query: "
_NUMBER = re.compile(
    r"[\s>#*_(\[•–—-]*"
    rf"(?:\d{{1,3}}[*_]*[.:：)\]、．]{{1,2}}[*_]*(?!\d)\s*(?:[*_]*{_LABEL})?|{_LABEL})",
    re.IGNORECASE,
)
_BULLET = re.compile(r"[-*+•–—]\s+")
_WRAPPERS = [("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`")]
_WRAPPERS += [('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("„", "“")]


def parse_queries(answer, n_queries):
    """Return the distinct queries of a language model's answer, at most `n_queries`.

    They are the items of a numbered list; without one those of a bulleted list;
    without either the lines that end in a question mark. Anything else, such as
    "Here are two questions:", is left out.
    """
    # what a reasoning model has thought; without an end it never came to an answer
    answer = answer.rpartition("</think>")[2].partition("<think>")[0]
    lines = [line for line in map(str.strip, answer.splitlines()) if line]
    for marker in (_NUMBER, _BULLET, None):
        queries = {}
        for text in _items(lines, marker):
            text = _undress(text)
            if any(map(str.isalnum, text)) and not text.endswith((":", "：")):
                queries.setdefault(text.casefold(), text)
        if queries:
            return list(queries.values())[:n_queries]
    return []


def _items(lines, marker):
    """Yield the lines that begin with a marker, without it; None: the questions."""
    for i, line in enumerate(lines):
        if marker is None:
            if _undress(line).endswith(("?", "？", "؟")):
                yield line
        elif match := marker.match(line):
            text = line[match.end() :]
            following = lines[i + 1] if i + 1 < len(lines) else ""
            # "**Question 1:**" can have its question on the next line
            yield following if not text and not marker.match(following) else text


def _undress(text):
    """Take quotes and Markdown's emphasis off a query."""
    text = text.strip().removesuffix(",")  # of a JSON list
    if text.count("**") % 2:  # the marker had the other one
        text = text.removeprefix("**").removesuffix("**").strip()
    for _ in range(3):  # quotes in emphasis, emphasis in quotes
        for start, end in _WRAPPERS:
            inner = text[len(start) : -len(end)]
            wrapped = text.startswith(start) and text.endswith(end)
            if wrapped and inner and start not in inner and end not in inner:
                text = inner.strip()
    return text


# asking


def _ask_all(answers, llm, prompt, n_queries, n_jobs, n_retries):
    """Ask for every document without an answer; return {id: error} of the failures."""
    stop = threading.Event()

    def ask(document_id):
        """Return the id, and None or why the last call failed."""
        document = answers.documents[document_id]
        request = prompt.format(document=document, n_queries=n_queries)
        for attempt in range(n_retries + 1):
            delay = min(_FIRST_DELAY * 2 ** (attempt - 1), _LONGEST_DELAY)
            if attempt and stop.wait(delay):
                break
            try:
                answer = llm(request)
            except Exception as raised:
                error = raised
                continue
            queries = parse_queries(_check_answer(answer), n_queries)
            if queries:
                answers.add(document_id, queries)
                return document_id, None
            error = ValueError(f"no query in the answer {shorten(answer)}")
        return document_id, error

    missing = [i for i in answers.documents if i not in answers.queries]
    blank = [i for i in missing if not answers.documents[i].strip()]
    errors = dict.fromkeys(blank, ValueError("the document is empty"))
    done = queue.SimpleQueue()
    with ThreadPoolExecutor(n_jobs) as pool:
        try:
            asked = [i for i in missing if i not in errors]
            for document_id in asked:
                pool.submit(ask, document_id).add_done_callback(done.put)
            n_in_a_row = 0
            for n_done in range(1, len(asked) + 1):
                document_id, error = _next(done).result()
                n_in_a_row = 0 if error is None else n_in_a_row + 1
                if error is not None:
                    errors[document_id] = error
                if not answers.queries and n_done >= max(_GIVE_UP_AFTER, 2 * n_jobs):
                    raise _no_queries(n_done, answers.documents, error) from error
                if n_in_a_row >= max(_IN_A_ROW, 2 * n_jobs):
                    break
                if n_done % _SAVE_EVERY == 0:
                    answers.save()
        finally:  # calls under way end, and are kept; others are not begun
            stop.set()
            pool.shutdown(cancel_futures=True)
    why = RuntimeError("not asked, after many failures in a row")
    for document_id in asked:  # all of which were, unless the loop was left
        if document_id not in answers.queries:
            errors.setdefault(document_id, why)
    if not answers.queries:
        error = list(errors.values())[-1]
        raise _no_queries(len(errors), answers.documents, error) from error
    return errors


def _next(done):
    """Wait for a future, with pauses.

    A wait without end cannot be interrupted on Windows, nor anywhere after
    ``import polars``.
    """
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=0.5)


def _no_queries(n_failed, documents, error):
    return RuntimeError(
        f"All of the first {n_failed} documents failed, of {len(documents)}; nothing "
        f"was generated. The last error is {_describe(error)}"
    )


def _describe(error):
    return f"{type(error).__name__}: {error}"


# what has been answered


class _Answers:
    """The queries of the documents, in memory."""

    def __init__(self, documents):
        self.documents = documents  # {id: text}
        self.queries = {}  # {id: queries}

    def add(self, document_id, queries):
        self.queries[document_id] = queries

    def save(self):
        pass

    def content(self):
        """The data set in LlamaIndex's form, in the order of the documents."""
        return _content(self.documents, self.queries)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.save()


class _Journal(_Answers):
    """The same, kept in a file to which whole lines are appended, and in the JSON file.

    The first line tells what the answers were made from; each other line is the answer
    for one document. A line without its end was being written when the process died:
    it does not count.
    """

    def __init__(self, path, documents, prompt, n_queries):
        super().__init__(documents)
        self.path = path
        self.journal = path.with_name(f"{path.name}.journal")
        self._lock = threading.Lock()
        if not path.parent.is_dir():
            raise FileNotFoundError(f"Cannot write {path}: its folder does not exist.")
        if path.exists() and not self.journal.exists():
            raise FileExistsError(
                f"{path} exists, and there is no {self.journal.name} beside it: it was "
                "not written by generate_pairs, or can no longer be continued. Pass "
                "another path, or load the file with load_qa_dataset."
            )
        header = {
            "generate_pairs": 1,
            "prompt": prompt,
            "n_queries": int(n_queries),
            "documents": {i: _digest(text) for i, text in documents.items()},
        }
        # unbuffered: a line is one write, and nothing is left to be written at the end
        self._file = open(self.journal, "a+b", buffering=0)
        try:
            self._take()
            self._read(header)
            self._check_path()
        except BaseException:
            self._file.close()
            raise

    def __exit__(self, *exception):
        try:
            self.save()
        finally:
            self._file.close()

    def add(self, document_id, queries):
        self._append({"document": document_id, "queries": queries})
        super().add(document_id, queries)

    def save(self):
        if self.queries:
            write_json(self.path, self.content())

    def _take(self):
        """Keep other processes out for as long as the file is open."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"Another call of generate_pairs is writing to {self.path}. Wait for "
                "its end, or pass another path."
            ) from error
        except OSError:  # a file system without locks
            pass

    def _append(self, record):
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            end = self._file.seek(0, os.SEEK_END)
            try:
                if self._file.write(line) < len(line):
                    raise OSError(f"{self.journal}: no space left for a line.")
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(end)  # the next line begins where this one did
                raise

    def _read(self, header):
        self._file.seek(0)
        content = self._file.read()
        complete = content[: content.rfind(b"\n") + 1]
        if not complete and _FORMAT.startswith(content[: len(_FORMAT)]):
            return self._begin(header)
        lines = complete.splitlines()
        difference = self._compare(lines[0] if lines else content, header)
        if difference and len(lines) == 1:  # no answer was made from the other ones
            return self._begin(header)
        if difference:
            raise ValueError(
                f"{self.path} was begun with other arguments: {difference}. Pass "
                "another path; data sets are joined by adding up their lists."
            )
        for number, line in enumerate(lines[1:], 2):
            self._read_line(f"{self.journal}, line {number}", line)
        self._file.truncate(len(complete))

    def _begin(self, header):
        self._file.truncate(0)
        self._append(header)

    def _compare(self, line, header):
        """Say in what the first line differs, or return an empty str."""
        try:
            before = json.loads(line)
        except (ValueError, RecursionError):
            before = None  # the error below names the file
        match before:
            case {
                "generate_pairs": 1,
                "prompt": str(),
                "n_queries": int(),
                "documents": dict(),
            }:
                return _difference(before, header)
            case _:
                raise ValueError(
                    f"{self.journal} is not a journal of generate_pairs: its first "
                    f"line is {shorten(line)}. Pass another path."
                )

    def _read_line(self, where, line):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None  # the error below shows the line
        match record:
            case {"document": str(document_id), "queries": [_, *_] as queries} if all(
                isinstance(query, str) for query in queries
            ):
                pass
            case _:
                raise ValueError(
                    f'{where} must be a JSON object with the str "document" and the '
                    f'list of str "queries", got {shorten(line)}. Remove the line to '
                    "ask for its document again."
                )
        if document_id not in self.documents or document_id in self.queries:
            fault = "repeats the" if document_id in self.queries else "names an unknown"
            raise ValueError(
                f"{where} {fault} document {document_id!r}. Remove the line."
            )
        self.queries[document_id] = queries

    def _check_path(self):
        """Refuse to replace a file that these answers do not make."""
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_bytes())
            named = {i for row in content["relevant_docs"].values() for i in row}
            then = {i: queries for i, queries in self.queries.items() if i in named}
            known = content == _content(self.documents, then)
        except (ValueError, TypeError, KeyError, AttributeError):
            known = False
        if not known:
            raise FileExistsError(
                f"{self.path} does not hold what {self.journal.name} says: something "
                "else has changed it. Load it with load_qa_dataset to go on with it; "
                "move it away to have it written anew."
            )


def _content(documents, queries):
    """Return LlamaIndex's form; a query of several documents has all of them."""
    texts, relevant = {}, {}
    for document_id in documents:
        for text in queries.get(document_id, ()):
            query = text.casefold()
            texts.setdefault(query, text)
            relevant.setdefault(query, []).append(document_id)
    return {
        "queries": {f"q{i}": text for i, text in enumerate(texts.values())},
        "corpus": documents,
        "relevant_docs": {f"q{i}": ids for i, ids in enumerate(relevant.values())},
        "mode": "text",
    }


def _bunch(content, failures):
    queries, corpus = content["queries"], content["corpus"]
    relevant = content["relevant_docs"].values()
    return Bunch(
        queries=list(queries.values()),
        relevant=[[corpus[i] for i in ids] for ids in relevant],
        corpus=list(corpus.values()),
        query_ids=list(queries),
        corpus_ids=list(corpus),
        failures=failures,
        DESCR=f"{len(queries)} generated queries, {len(corpus)} documents, of which "
        f"{len(failures)} have none.",
    )


def _digest(text):
    text = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _difference(before, now):
    """Say what is not as it was, or return an empty str."""
    if before["prompt"] != now["prompt"]:
        at = len(os.path.commonprefix([before["prompt"], now["prompt"]]))
        was, now_is = (shorten(side["prompt"][at:]) for side in (before, now))
        return f"from character {at} on the prompt was {was}, and is {now_is}"
    if before["n_queries"] != now["n_queries"]:
        return f"n_queries was {before['n_queries']}, and is {now['n_queries']}"
    then, today = before["documents"], now["documents"]
    changes = {
        "new": [i for i in today if i not in then],
        "missing": [i for i in then if i not in today],
        "changed": [i for i in today if i in then and then[i] != today[i]],
    }
    said = [
        f"{len(ids)} documents are {change} (the first is {ids[0]!r})"
        for change, ids in changes.items()
        if ids
    ]
    if not said and list(then) != list(today):
        return "the documents are in another order"
    return ", ".join(said)


# arguments


def _check_documents(documents):
    """Return {id: text} of the distinct documents."""
    if isinstance(documents, Mapping):
        for document_id in documents:
            if not isinstance(document_id, str):
                raise TypeError(
                    f"The ids of documents must be str, as JSON's keys are, got "
                    f"{shorten(document_id)}: convert them with str(id)."
                )
        ids, texts = list(documents), list(documents.values())
        texts = check_items(texts, "documents.values()", "text")
    else:
        texts = list(dict.fromkeys(check_items(documents, "documents", "text")))
        ids = [f"d{i}" for i in range(len(texts))]
    if not texts:
        raise ValueError("documents is empty: pass at least one document.")
    first = {}  # text -> id
    for document_id, text in zip(ids, texts, strict=True):
        first.setdefault(text, document_id)
    return {document_id: text for text, document_id in first.items()}


def _check_prompt(prompt):
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str or None, got {shorten(prompt)}.")
    wanted = {"document", "n_queries"}
    hint = "Write {{ and }} for braces that are not placeholders."
    try:
        parts = string.Formatter().parse(prompt)
        names = {name for _, name, _, _ in parts if name is not None}
        if names == wanted:
            prompt.format(document="", n_queries=1)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"prompt is not a template: {error}. {hint}") from error
    if names != wanted:
        raise ValueError(
            "prompt must have the placeholders {document} and {n_queries} and no "
            f"others, got {sorted(names) or 'none'}. {hint}"
        )
    return prompt


def _check_llm(llm):
    if callable(llm):
        return
    mends = {
        "complete": "lambda prompt: llm.complete(prompt).text",  # LlamaIndex
        "invoke": "lambda prompt: llm.invoke(prompt).content",  # LangChain
    }
    known = [mend for method, mend in mends.items() if hasattr(llm, method)]
    raise TypeError(
        f"llm must be a callable that takes a prompt and returns a str, got a "
        f"{type(llm).__name__}"
        + (f": pass {known[0]}." if known else "; see the guide on generating.")
    )


def _check_answer(answer):
    if not isinstance(answer, str):
        raise TypeError(
            f"llm must return a str, got the {type(answer).__name__} "
            f"{shorten(answer)}: return its text, such as response.text."
        )
    return answer
