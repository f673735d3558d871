"""Read files, whole or line by line, with the words that errors name a line by."""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

_GZIP = b"\x1f\x8b"  # how such files begin


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read, decompressed if it is gzip, whatever its name is."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; pass a file.")
    with path.open("rb") as file:
        if file.peek(2)[:2] != _GZIP:
            yield file
            return
        try:
            with gzip.open(file) as content:
                yield cast(BinaryIO, content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is a damaged gzip file: {error}") from error


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ("file, line number", line) for the lines that are not blank."""
    with opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where} is not UTF-8: {error}") from error
            if "\0" in text:
                raise ValueError(f"{where} holds NUL bytes: this is no text file.")
            if text.strip():
                yield where, text


def parse_json(line: str | bytes) -> Any:
    """The JSON value of a line; None where it is none, which no line may hold."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
