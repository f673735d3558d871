"""The finetuners that a directory may hold; each class enters itself."""

from typing import Any, TypeVar

_Finetuner = TypeVar("_Finetuner", bound=type)

_finetuners: dict[str, type[Any]] = {}


def saved_by_name(cls: _Finetuner) -> _Finetuner:
    """Class decorator: let directories name this finetuner, and `load` make it."""
    _finetuners[cls.__name__] = cls
    return cls


def finetuners() -> dict[str, type[Any]]:
    """{name: class} of all that have entered."""
    return dict(_finetuners)
