"""Documents that a corpus lacks: told where that looks like a slip."""

import os
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from skembft._utils.messages import shorten
from skembft._utils.types import Ints, Item, ItemKind
from skembft.exceptions import MissingDocumentsWarning


def warn_missing(
    documents: Sequence[Any], n_judged: int, in_corpus: Ints, kind: ItemKind, name: str
) -> None:
    """Warn where the corpus seems to hold what y names, in another form.

    Texts are looked at only where some document of y is not in the corpus.

    Parameters
    ----------
    documents : sequence of distinct documents
        The first `n_judged` are those of y.
    in_corpus : ndarray
        Their indices in the corpus.
    kind : {"text", "id"}
    name : str
        Of y, for the message.
    """
    found = np.zeros(len(documents), dtype=bool)
    found[in_corpus] = True
    missing = [documents[i] for i in np.flatnonzero(~found[:n_judged]).tolist()]
    if not missing:
        return
    in_order = np.flatnonzero(found).tolist()
    if kind == "text" and len(missing) == n_judged and in_order:
        corpus = [documents[i] for i in in_order]
        if _look_like_ids(missing, corpus):
            _warn_ids(missing[0], n_judged, name)
            return
    twins = _find_twins(missing, (documents[i] for i in in_order))
    if twins:
        _warn_twins(twins, n_judged, name)
    elif (
        kind == "text"  # an id that is written in another way has no vector: an error
        and n_judged >= 10
        and len(in_order) > n_judged
        and len(missing) > 0.95 * n_judged
    ):
        warnings.warn(
            f"Of the {n_judged} documents of {name} the corpus holds "
            f"{n_judged - len(missing)}; it lacks {shorten(missing[0])}. That is right "
            "where corpus only adds other documents. Where it is the collection that "
            f"they come from, their texts differ (a title, cut off?), and {name} must "
            "have those of the corpus.",
            MissingDocumentsWarning,
            stacklevel=4,
        )


def _look_like_ids(documents: list[str], corpus: list[str]) -> bool:
    """Whether documents are single words, and those of the corpus mostly are not."""
    if any(len(document.split()) != 1 for document in documents):
        return False
    return sum(len(text.split()) > 1 for text in corpus) > len(corpus) / 2


def _warn_ids(first: str, n_judged: int, name: str) -> None:
    warnings.warn(
        f"None of the {n_judged} documents of {name} is in the corpus, and they look "
        f"like ids: {shorten(first)}, where the corpus has texts. An id is taken for a "
        f"text. Pass the texts that they stand for, {name} = [texts[i] for i in ids]; "
        "or ids everywhere, with a PrecomputedEncoder.",
        MissingDocumentsWarning,
        stacklevel=5,
    )


def _warn_twins(twins: dict[str, str], n_judged: int, name: str) -> None:
    """Warn of documents of y that the corpus has in another form."""
    ours, theirs = next(iter(twins.items()))
    # from shortly before the first character that differs
    start = max(0, len(os.path.commonprefix([ours, theirs])) - 20)
    warnings.warn(
        f"{len(twins)} of the {n_judged} documents of {name} are in the corpus in "
        "another form, which differs by white space or Unicode form only: "
        f"{shorten(ours[start:])} and {shorten(theirs[start:])}. That makes two "
        "documents of them, and the one of the corpus is not relevant. Write both in "
        "the same way: ' '.join(unicodedata.normalize('NFKC', text).split()).",
        MissingDocumentsWarning,
        stacklevel=5,
    )


def _find_twins(missing: Iterable[Item], corpus: Iterable[Item]) -> dict[str, str]:
    """{document: document of the corpus} of those equal but for their form."""
    texts = [item for item in missing if isinstance(item, str)]
    ends = set(map(_ends, texts))
    # few texts begin and end alike: only these are compared as a whole
    plain = {
        _plain(item): item
        for item in corpus
        if isinstance(item, str) and _ends(item) in ends
    }
    return {text: plain[_plain(text)] for text in texts if _plain(text) in plain}


def _ends(text: str) -> tuple[str, ...]:
    """The first and the last word, as `_plain` leaves them."""
    ends = text.split(None, 1)[:1] + text.rsplit(None, 1)[-1:]
    if not text.isascii():
        words = _plain(" ".join(ends)).split()
        ends = words[:1] + words[-1:]
    return tuple(ends)


def _plain(text: str) -> str:
    """A text without regard to white space and Unicode form."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split())
