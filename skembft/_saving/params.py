"""Parameters of estimators as JSON, and back; no code comes from it."""

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from sklearn.frozen import FrozenEstimator

from skembft._models.params import described
from skembft._saving.registry import finetuners
from skembft._utils.estimators import plain_value
from skembft._utils.messages import shorten
from skembft.encoders._sentence import SentenceEncoder

STATE = "skembft.json"
Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
Content: TypeAlias = dict[str, Any]  # of a JSON file: what is used of it is checked


class Damaged(Exception):
    """Says what is wrong with the files of a directory."""


def to_json(params: Mapping[str, Any]) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return parameters as JSON values, and {name: what it was} of all others."""
    kept: dict[str, Json] = {}
    lost: dict[str, Json] = {}
    for name, value in params.items():
        if name in _LOCAL:
            continue
        if name == "trainer_params" and value:  # all of it but classes of callbacks
            kept[name], unknown = to_json(value)
            if unknown:
                lost[name] = unknown
            continue
        if hasattr(value, "get_params") and not isinstance(value, type):
            value, known = encoder_to_json(value)
        else:
            value, known = plain_parameter(name, value)
        if known:
            kept[name] = value
        else:
            lost[name] = value
    return kept, lost


# of places on this machine and of rights on it: not for others to set
_LOCAL = {"cache_dir", "model_output_path", "trust_remote_code"}


def encoder_to_json(encoder: Any) -> tuple[Json, bool]:
    """Return (its class and parameters, True) of what is ours, or (name, False)."""
    if isinstance(encoder, FrozenEstimator):
        inner, known = encoder_to_json(encoder.estimator)
        return {**inner, "frozen": True} if isinstance(inner, dict) else inner, known
    names = {**finetuners(), **encoders()}
    cls = type(encoder)
    if names.get(cls.__name__) is not cls:
        return _name(encoder), False
    params, lost = to_json(encoder.get_params(deep=False))
    return {"class": cls.__name__, "params": params, "not_restored": lost}, True


def not_restored(content: Content) -> dict[str, Any]:
    """{name: what it was} of the parameters that are not in the JSON."""
    lost = content.get("not_restored") or {}
    check(lost, dict, f"'not_restored' in {STATE}")
    inner = content.get("params", {}).get("encoder")
    if isinstance(inner, dict):
        nested = not_restored(inner)
        lost = {**lost, **{f"encoder__{name}": v for name, v in nested.items()}}
    return lost


def plain_parameter(name: str, value: Any) -> tuple[Json, bool]:
    """As `plain`, of a parameter; one that holds texts of the user has only a name.

    No token is kept.
    """
    if name == "model_params":
        return described(value), True
    if name == "exclude_self" and isinstance(value, Mapping):
        return f"a dict of {len(value)} queries", False
    return plain(value)


def plain(value: Any) -> tuple[Json, bool]:
    """Return (JSON value, True), or (what to call it in messages, False)."""
    value = plain_value(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value, True
    if isinstance(value, os.PathLike):
        return os.fspath(value), True
    if isinstance(value, list | tuple):
        items = [plain(item) for item in value]
        return [item for item, _ in items], all(known for _, known in items)
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        by_key = {key: plain(item) for key, item in value.items()}
        known = all(known for _, known in by_key.values())
        return {key: item for key, (item, _) in by_key.items()}, known
    return _name(value), False


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def from_json(content: Content, classes: Mapping[str, type[Any]]) -> Any:
    """Make an estimator of {"class", "params"}; only `classes` are made."""
    name = content.get("class")
    cls = classes.get(name) if isinstance(name, str) else None
    if cls is None:
        raise Damaged(
            f"it names the class {shorten(name)}, which is none of {', '.join(classes)}"
        )
    params: Any = content.get("params")
    check(params, dict, "'params'")
    params = dict(params)
    unknown = set(params) - set(cls._get_param_names())
    if unknown:
        raise Damaged(f"{cls.__name__} has no parameter {sorted(unknown)[0]!r}")
    for name in _LOCAL.intersection(params):
        raise Damaged(f"it sets {name}, which is not for a file to set")
    if isinstance(params.get("encoder"), dict):
        params["encoder"] = from_json(params["encoder"], {**finetuners(), **encoders()})
    estimator = cls(**params)
    try:
        estimator._validate_params()
    except ValueError as error:
        raise Damaged(str(error).rstrip(".")) from None
    return FrozenEstimator(estimator) if content.get("frozen") is True else estimator


def encoders() -> dict[str, type[Any]]:
    return {"SentenceEncoder": SentenceEncoder}


def check(value: object, kinds: type | tuple[type, ...], what: str) -> None:
    wrong_bool = isinstance(value, bool) and kinds is not bool
    if wrong_bool or not isinstance(value, kinds):
        raise Damaged(f"{what} is {shorten(value)}, a {type(value).__name__}")
