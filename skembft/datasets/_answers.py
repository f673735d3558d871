"""What a language model has answered, in memory or in a journal that survives."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self, TypedDict

from skembft._utils.atomic import write_json
from skembft._utils.messages import shorten
from skembft.datasets._lines import parse_json

_FORMAT = b'{"generate_pairs": 1, '  # how a journal begins


class QADataset(TypedDict):
    """LlamaIndex's form of a data set."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant_docs: dict[str, list[str]]
    mode: str


class Answers:
    """The queries of the documents, in memory."""

    def __init__(self, documents: dict[str, str]) -> None:
        self.documents = documents  # {id: text}
        self.queries: dict[str, list[str]] = {}  # {id: queries}

    def add(self, document_id: str, queries: list[str]) -> None:
        self.queries[document_id] = queries

    def save(self) -> None:
        pass

    def content(self) -> QADataset:
        """The data set in LlamaIndex's form, in the order of the documents."""
        return _content(self.documents, self.queries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.save()


class Journal(Answers):
    """The same, kept in a file to which whole lines are appended, and in the JSON file.

    The first line tells what the answers were made from; each other line is the answer
    for one document. A line without its end was being written when the process died:
    it does not count.
    """

    def __init__(
        self, path: Path, documents: dict[str, str], prompt: str, n_queries: int
    ) -> None:
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

    def __exit__(self, *exception: object) -> None:
        try:
            self.save()
        finally:
            self._file.close()

    def add(self, document_id: str, queries: list[str]) -> None:
        self._append({"document": document_id, "queries": queries})
        super().add(document_id, queries)

    def save(self) -> None:
        if self.queries:
            write_json(self.path, self.content(), ensure_ascii=False)

    def _take(self) -> None:
        """Keep other processes out for as long as the file is open."""
        try:
            import fcntl
        except ImportError:  # Windows
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

    def _append(self, record: dict[str, Any]) -> None:
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

    def _read(self, header: dict[str, Any]) -> None:
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

    def _begin(self, header: dict[str, Any]) -> None:
        self._file.truncate(0)
        self._append(header)

    def _compare(self, line: bytes, header: dict[str, Any]) -> str:
        """Say in what the first line differs, or return an empty str."""
        before = parse_json(line)
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

    def _read_line(self, where: str, line: bytes) -> None:
        match parse_json(line):
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

    def _check_path(self) -> None:
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


def _content(documents: dict[str, str], queries: dict[str, list[str]]) -> QADataset:
    """Return LlamaIndex's form; a query of several documents has all of them."""
    texts: dict[str, str] = {}
    relevant: dict[str, list[str]] = {}
    for document_id in documents:
        for text in queries.get(document_id, ()):
            query = text.casefold()
            texts.setdefault(query, text)
            relevant.setdefault(query, []).append(document_id)
    ids = [f"{_prefix(documents)}{i}" for i in range(len(texts))]
    return {
        "queries": dict(zip(ids, texts.values(), strict=True)),
        "corpus": documents,
        "relevant_docs": dict(zip(ids, relevant.values(), strict=True)),
        "mode": "text",
    }


def _prefix(documents: Iterable[str]) -> str:
    """What ids of queries begin with: "q", or more where documents are called so.

    A query of a document's id would be that document itself.
    """
    prefix = "q"
    while any(re.fullmatch(rf"{prefix}\d+", document_id) for document_id in documents):
        prefix += "q"
    return prefix


def _digest(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
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
