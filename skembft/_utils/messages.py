"""What messages say of a value, and of a name that is nearly right."""

import difflib
from collections.abc import Iterable


def nearest(name: object, valid: Iterable[object], suffix: str = "") -> str:
    """Return a sentence that names the valid spellings nearest to `name`.

    `suffix` is shown behind every valid name and not compared.

    Examples
    --------
    >>> nearest("tripplet", ["triplet", "contrastive"])
    "Did you mean 'triplet'? Valid names: 'triplet', 'contrastive'."
    """
    names = [str(v) for v in valid]
    close = difflib.get_close_matches(str(name).lower(), names, n=2, cutoff=0.5)
    close, names = ([repr(n + suffix) for n in some] for some in (close, names))
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}Valid names: {', '.join(names)}."


def shorten(value: object, width: int = 60) -> str:
    """Return ``repr(value)``, cut to about `width` characters for a message."""
    if isinstance(value, str | bytes):
        value = value[: width + 1]
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"
