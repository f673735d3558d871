"""What the table of the report knows: queries, rankings and texts, packed."""

import base64
import gzip
import json
import math
from typing import Any

import numpy as np

from skembft._utils.types import Floats, Ints, Items
from skembft.inspection._rankings import KEPT, SHOWN, Rankings
from skembft.inspection._shown import plain

_MOST_QUERIES = 10_000
_LIMIT = 4_800_000  # characters of all data: the page stays below 5 MB
_WIDTHS = (240, 120, 60, 30)  # to which texts are cut, the first that fits
_MOST_MISSED = 3  # relevant documents that are told where they are not shown


def packed_contents(
    rankings: Rankings,
    queries: Items,
    before: dict[str, Floats],
    after: dict[str, Floats],
) -> tuple[str, str, int]:
    """The data of the table, those of the full texts or "", and the queries in it."""
    gains = next(iter(after.values())) - next(iter(before.values()))
    rows = np.sort(np.argsort(-np.abs(gains), kind="stable")[:_MOST_QUERIES])
    content = _numbers(rankings, rows)
    documents = content.pop("distinct")
    content["metrics"] = list(before)
    content["before"] = [_rounded(values[rows], 6) for values in before.values()]
    content["after"] = [_rounded(values[rows], 6) for values in after.values()]
    texts = {
        "queries": _texts(queries, rows, "query"),
        "documents": _texts(rankings.data.documents, documents, "document"),
    }
    for width in _WIDTHS:
        cut = {name: [plain(text, width) for text in of] for name, of in texts.items()}
        short = _packed({**content, **cut, "kept": KEPT, "shown": SHOWN})
        if len(short) <= _LIMIT:
            break
    full = _packed({name: _differing(texts[name], cut[name]) for name in texts})
    return short, full if len(short) + len(full) <= _LIMIT else "", len(rows)


def _numbers(rankings: Rankings, rows: Ints) -> dict[str, Any]:
    """Documents by number, their scores, grades, and ranks on the other side."""
    first, second = (side.indices[rows] for side in rankings.sides)
    shown = first[:, :SHOWN], second[:, :SHOWN]
    missed = [_missed(rankings, row) for row in rows]
    distinct = np.unique(
        np.concatenate([*map(np.ravel, shown), *(m[:, 0] for m in missed)])
    )
    distinct = distinct[distinct >= 0]
    scores = [side.scores[rows, :SHOWN] for side in rankings.sides]
    largest = max(float(np.abs(s[np.isfinite(s)]).max(initial=0)) for s in scores)
    decimals = 3 - math.floor(math.log10(largest)) if largest > 0 else 3
    decimals = min(max(decimals, 0), 12)

    def numbered(documents: Ints) -> Ints:
        return np.where(documents < 0, -1, np.searchsorted(distinct, documents))

    for found in missed:
        found[:, 0] = numbered(found[:, 0])
    return {
        "distinct": distinct,
        "decimals": decimals,
        "documentsOf": [numbered(documents).tolist() for documents in shown],
        "scores": [_rounded(np.where(np.isfinite(s), s, 0), decimals) for s in scores],
        "grades": [
            rankings.grades(side, rows)[:, :SHOWN].tolist() for side in rankings.sides
        ],
        "elsewhere": [
            _ranks(shown[0], second).tolist(),
            _ranks(shown[1], first).tolist(),
        ],
        "first": rankings.first_relevant[:, rows].tolist(),
        "relevant": rankings.data.relevance.n_relevant[rankings.queries[rows]].tolist(),
        "missed": [found.tolist() for found in missed],
    }


def _missed(rankings: Rankings, row: int) -> Ints:
    """Relevant documents that no side shows, and their ranks on both, (n, 3)."""
    found = [side.indices[row] for side in rankings.sides]
    shown = np.concatenate([documents[:SHOWN] for documents in found])
    best = rankings.data.relevance.best(rankings.queries[row])
    missed = best[: _MOST_MISSED + len(shown)]
    missed = missed[~np.isin(missed, shown)][:_MOST_MISSED]
    ranks = [_ranks(missed[None], documents[None])[0] for documents in found]
    return np.stack([missed, *ranks], axis=1).astype(np.int64)


def _ranks(documents: Ints, ranking: Ints) -> Ints:
    """Ranks of documents (n, m) in a ranking (n, k) of each; 0 where not in it."""
    hits = documents[:, :, None] == ranking[:, None]
    return np.where(hits.any(axis=2), hits.argmax(axis=2) + 1, 0)


def _texts(items: Items, places: Ints, name: str) -> list[str]:
    """Texts and ids as they are; vectors by their number."""
    if isinstance(items, np.ndarray) and items.ndim == 2:
        return [f"{name} {i}" for i in places]
    return [str(items[i]) for i in places]


def _differing(texts: list[str], cut: list[str]) -> dict[int, str]:
    pairs = enumerate(zip(texts, cut, strict=True))
    return {i: text for i, (text, shown) in pairs if text != shown}


def _rounded(values: Floats, decimals: int) -> list[Any]:
    return np.round(values.astype(np.float64), decimals).tolist()


def _packed(content: dict[str, Any]) -> str:
    """JSON, compressed, in characters that mean nothing to a browser."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
