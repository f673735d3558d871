"""Read text files line by line, with the words that errors name a line by."""

import gzip
from collections.abc import Iterator
from pathlib import Path


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
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
