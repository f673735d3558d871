"""Whether a value is what a type hint says, for arguments of other libraries."""

import math
from collections.abc import Callable
from itertools import chain
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

_KINDS: dict[type, tuple[type | UnionType, str]] = {
    float: (Real, "a finite number"),
    int: (Integral, "a whole number"),
    bool: (bool | np.bool_, "True or False"),
    str: (str, "a str"),
    dict: (dict, "a dict"),
    NoneType: (NoneType, "None"),
}


def wanted_instead(value: Any, hint: Any) -> list[str] | None:
    """Return None where a value fits a hint, else descriptions of what does.

    Of hints that are no plain types, everything fits.

    Examples
    --------
    >>> wanted_instead("0.9", float | None)
    ['a finite number', 'None']
    """
    if get_origin(hint) in (Union, UnionType):
        wanted = [wanted_instead(value, part) for part in get_args(hint)]
        return None if None in wanted else list(chain(*filter(None, wanted)))
    if get_origin(hint) is Literal:
        valid = get_args(hint)
        return None if value in valid else [repr(choice) for choice in valid]
    if Callable in (hint, get_origin(hint)):
        return None if callable(value) else ["a callable"]
    kind, description = _KINDS.get(hint, (object, ""))
    is_bool = isinstance(value, bool | np.bool_)
    fits = isinstance(value, kind) and not (is_bool and hint in (int, float))
    if fits and hint is float:
        fits = math.isfinite(value)
    return None if fits else [description]
