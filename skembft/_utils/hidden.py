"""Parameters that may hold credentials, and are shown without them."""

from typing import Any


class HiddenToken(dict):
    """A dict that is shown without its token."""

    def __repr__(self) -> str:
        return repr({**self, "token": "<hidden>"})


class Hidden:
    """Holds an object that is shown by its name only."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"<{name_of(self.value)}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def name_of(value: Any) -> str:
    """How an object is named where its own representation may hold credentials."""
    return getattr(value, "__name__", None) or type(value).__name__
