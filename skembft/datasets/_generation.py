"""Training data without labels: a language model writes the queries of documents."""

import os
import queue
import string
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import TypeAlias

from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from skembft._data.items import check_items, is_encodable
from skembft._utils import types
from skembft._utils.messages import shorten
from skembft._utils.types import Data
from skembft.datasets._answers import Answers, Journal, QADataset
from skembft.datasets._query_lists import parse_queries

LLM: TypeAlias = Callable[[str], str]
# the id of a document, and None or why the last call failed
_Asked: TypeAlias = tuple[str, Exception | None]

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
    documents: Data,
    llm: LLM,
    *,
    prompt: str | None = None,
    n_queries: int = 2,
    path: types.Path | None = None,
    n_jobs: int = 4,
    n_retries: int = 3,
) -> Bunch:
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
        Answers(documents)
        if path is None
        else Journal(Path(path), documents, prompt, n_queries)
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


# asking


def _ask_all(
    answers: Answers,
    llm: LLM,
    prompt: str,
    n_queries: int,
    n_jobs: int,
    n_retries: int,
) -> dict[str, Exception]:
    """Ask for every document without an answer; return {id: error} of the failures."""
    stop = threading.Event()

    def ask(document_id: str) -> _Asked:
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
    errors: dict[str, Exception]
    errors = dict.fromkeys(blank, ValueError("the document is empty"))
    done: queue.SimpleQueue[Future[_Asked]] = queue.SimpleQueue()
    with ThreadPoolExecutor(n_jobs) as pool:
        try:
            asked = [i for i in missing if i not in errors]
            for document_id in asked:
                pool.submit(ask, document_id).add_done_callback(done.put)
            n_in_a_row, enough = 0, max(_GIVE_UP_AFTER, 2 * n_jobs)
            for n_done in range(1, len(asked) + 1):
                document_id, error = _next(done).result()
                n_in_a_row = 0 if error is None else n_in_a_row + 1
                if error is not None:
                    errors[document_id] = error
                    if not answers.queries and n_done >= enough:
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


def _next(done: queue.SimpleQueue[Future[_Asked]]) -> Future[_Asked]:
    """Wait for a future, with pauses.

    A wait without end cannot be interrupted on Windows, nor anywhere after
    ``import polars``.
    """
    while True:
        with suppress(queue.Empty):
            return done.get(timeout=0.5)


def _no_queries(
    n_failed: int, documents: dict[str, str], error: Exception
) -> RuntimeError:
    return RuntimeError(
        f"All of the first {n_failed} documents failed, of {len(documents)}; nothing "
        f"was generated. The last error is {_describe(error)}"
    )


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _bunch(content: QADataset, failures: list[tuple[str, str]]) -> Bunch:
    queries, corpus = content["queries"], content["corpus"]
    relevant = content["relevant_docs"].values()
    return Bunch(
        queries=list(queries.values()),
        relevant=[[corpus[i] for i in ids] for ids in relevant],
        corpus=list(corpus.values()),
        query_ids=list(queries),
        corpus_ids=list(corpus),
        own_documents={},
        failures=failures,
        DESCR=f"{len(queries)} generated queries, {len(corpus)} documents, of which "
        f"{len(failures)} have none.",
    )


# arguments


def _check_documents(documents: Data) -> dict[str, str]:
    """Return {id: text} of the distinct documents."""
    if isinstance(documents, Mapping):
        for document_id in documents:
            if not isinstance(document_id, str):
                raise TypeError(
                    f"The ids of documents must be str, as JSON's keys are, got "
                    f"{shorten(document_id)}: convert them with str(id)."
                )
            if not is_encodable(document_id):
                raise ValueError(
                    f"The id {shorten(document_id)} cannot be written as UTF-8: it "
                    "holds a lone surrogate, as names of files may."
                )
        ids, texts = list(documents), list(documents.values())
        texts = check_items(texts, "documents.values()", "text")
    else:
        texts = list(dict.fromkeys(check_items(documents, "documents", "text")))
        ids = [f"d{i}" for i in range(len(texts))]
    if not texts:
        raise ValueError("documents is empty: pass at least one document.")
    first: dict[str, str] = {}  # text -> id
    for document_id, text in zip(ids, texts, strict=True):
        first.setdefault(text, document_id)
    return {document_id: text for text, document_id in first.items()}


def _check_prompt(prompt: object) -> str:
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


def _check_llm(llm: object) -> None:
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


def _check_answer(answer: object) -> str:
    if not isinstance(answer, str):
        raise TypeError(
            f"llm must return a str, got the {type(answer).__name__} "
            f"{shorten(answer)}: return its text, such as response.text."
        )
    # halves of surrogate pairs are joined, or become U+FFFD
    return answer.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
