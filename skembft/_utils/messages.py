"""What messages say of a value, and of a name that is nearly right."""

import difflib


def nearest(name, valid, suffix=""):
    """Return a sentence that names the valid spellings nearest to `name`.

    `suffix` is shown behind every valid name and not compared.

    Examples
    --------
    >>> nearest("tripplet", ["triplet", "contrastive"])
    "Did you mean 'triplet'? Valid names: 'triplet', 'contrastive'."
    """
    valid = [str(v) for v in valid]
    close = difflib.get_close_matches(str(name).lower(), valid, n=2, cutoff=0.5)
    close, valid = ([repr(n + suffix) for n in names] for names in (close, valid))
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}Valid names: {', '.join(valid)}."


def shorten(value, width=60):
    """Return ``repr(value)``, cut to about `width` characters for a message."""
    if isinstance(value, str | bytes):
        value = value[: width + 1]
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"
