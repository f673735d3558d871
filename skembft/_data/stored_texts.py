"""Texts in Arrow's columns, as on disk: read when they are asked for, never copied."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, overload

import numpy as np

from skembft._utils.types import Bools, Data, Ints

if TYPE_CHECKING:
    import pyarrow as pa

_PORTION = 65_536  # texts of which the places are looked up at once


class StoredTexts(Sequence[str]):
    """Rows of columns of Arrow as texts; 8 bytes a text are kept in memory.

    Parameters
    ----------
    chunks : list of pyarrow arrays
        Of texts, one after the other.
    rows : ndarray, default=None
        Where each text is in these. None means all of them.
    """

    def __init__(self, chunks: list[pa.Array], rows: Ints | None = None) -> None:
        self.chunks = chunks
        self._ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64)
        self.rows: Ints = np.arange(self.size) if rows is None else rows

    @property
    def size(self) -> int:
        """The number of texts in the chunks."""
        return int(self._ends[-1]) if self.chunks else 0

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice | Ints | Bools) -> StoredTexts: ...
    def __getitem__(self, index: int | slice | Ints | Bools) -> str | StoredTexts:
        rows = self.rows[index]
        if isinstance(rows, np.ndarray):
            return StoredTexts(self.chunks, rows)
        return next(self._read(rows[None]))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _PORTION):
            yield from self._read(self.rows[start : start + _PORTION])

    def _read(self, rows: Ints) -> Iterator[str]:
        at = np.searchsorted(self._ends, rows, side="right")
        places = rows - self._ends[at]  # counted from the end of the chunk
        for chunk, place in zip(at.tolist(), places.tolist(), strict=True):
            yield self.chunks[chunk][place].as_py()


def as_stored(texts: list[str]) -> StoredTexts:
    import pyarrow as pa

    return StoredTexts([pa.array(texts, pa.large_string())])


def join(columns: Sequence[StoredTexts], by_row: bool = False) -> StoredTexts:
    """Columns as one, one after the other or row by row."""
    chunks = [chunk for texts in columns for chunk in texts.chunks]
    starts = np.cumsum([0, *(texts.size for texts in columns)])
    rows = [start + texts.rows for start, texts in zip(starts, columns, strict=False)]
    joined = np.column_stack(rows).ravel() if by_row else np.concatenate(rows)
    return StoredTexts(chunks, joined)


def stored_texts(values: Data) -> StoredTexts | None:
    """A column of Arrow, or of a data set, as its texts; None of all else.

    None too where some value is not a text: whoever reads it as a list tells which.
    """
    pa = sys.modules.get("pyarrow")
    if pa is None:
        return None
    if isinstance(values, StoredTexts):
        return values
    if isinstance(values, pa.Array):
        values = pa.chunked_array([values])
    if isinstance(values, pa.ChunkedArray):
        return _of_column(values, None)
    source = getattr(values, "source", None)  # of datasets.Column
    if source is None or not hasattr(values, "column_name"):
        return None
    return (stored_table(source) or {}).get(values.column_name)


def stored_table(values: Data) -> dict[str, StoredTexts | None] | None:
    """The columns of a table of Arrow, or of a data set, by name; None of all else.

    A data set that is to transform its rows when they are read is not taken as it lies.
    """
    pa, datasets = sys.modules.get("pyarrow"), sys.modules.get("datasets")
    if pa is None:
        return None
    rows = None
    if datasets is not None and isinstance(values, datasets.Dataset):
        if values.format["type"] is not None:
            return None
        if values._indices is not None:
            rows = values._indices.column(0).to_numpy().astype(np.int64)
        values = values.data.table.select(values.column_names)
    if not isinstance(values, pa.Table):
        return None
    return {name: _of_column(values.column(name), rows) for name in values.column_names}


def _of_column(column: pa.ChunkedArray, rows: Ints | None) -> StoredTexts | None:
    import pyarrow as pa

    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not is_text or column.null_count:
        return None
    return StoredTexts(column.chunks, rows)


class StoredNumbering:
    """Numbers of distinct texts, in order of first appearance, by their digests.

    Attributes
    ----------
    numbers : ndarray
        Of every text.
    distinct : StoredTexts
    digests : ndarray
        Of the distinct texts.
    """

    def __init__(self, texts: StoredTexts) -> None:
        digests = digests_of(texts, len(texts))
        self._sorted, first, place = np.unique(
            digests, return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        self._number = np.empty_like(order)
        self._number[order] = np.arange(len(order))
        self.numbers: Ints = self._number[place]
        self.distinct = texts[first[order]]
        self.digests = digests[first[order]]

    def __len__(self) -> int:
        return len(self.distinct)

    def __contains__(self, text: str) -> bool:
        return bool(self.find(digests_of([text], 1))[0] >= 0)

    def find(self, digests: np.ndarray) -> Ints:
        """The number of the text of each digest, or -1."""
        place = np.searchsorted(self._sorted, digests).clip(max=len(self) - 1)
        return np.where(self._sorted[place] == digests, self._number[place], -1)


def digests_of(texts: Iterable[str], count: int) -> np.ndarray:
    """What tells texts apart: 16 bytes each, which no two texts share in practice."""
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    digests = (blake2b(data, digest_size=16).digest() for data in encoded)
    return np.fromiter(digests, "S16", count)
