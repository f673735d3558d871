"""Arguments of losses: checked before anything is loaded, and what is built of them."""

import inspect
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self, get_type_hints

from sklearn.utils._param_validation import InvalidParameterError

from skembft._losses.table import (
    LOSSES,
    check_argument_names,
    check_wrapping,
    find_loss,
    wrapped_loss,
)
from skembft._utils.hints import wanted_instead
from skembft._utils.messages import shorten
from skembft._utils.types import Params

# what the data or the model decide; projection_dim makes a layer that only training has
_FILLED_IN = {"model", "projection_dim", "embedding_dimension", "num_labels"}
_POSITIVE = {
    "scale",
    "temperature",
    "student_temperature",
    "teacher_temperature",
    "mini_batch_size",
    "mini_batch_num_tokens",
}


def class_of(loss: str | type) -> tuple[type, Params]:
    """Return the class to build of a loss given by name or class, and fixed arguments.

    A class is built as it is, by name what stands for a deprecated one.
    """
    from sentence_transformers.sentence_transformer import losses

    if isinstance(loss, type):
        return loss, {}
    class_name, fixed = LOSSES[loss].alias or (LOSSES[loss].class_name, {})
    return getattr(losses, class_name), fixed


def build_loss(
    loss: str | type,
    model: Any,
    loss_params: Params | None,
    filled_in: Params | None = None,
) -> Any:
    """Build a loss given by name or class for a model (or for None).

    `loss_params` are merged into our defaults; names it does not have are refused.
    """
    name = find_loss(loss, LOSSES)
    cls, fixed = class_of(loss)
    check_arguments(name, cls, fixed, loss_params)
    arguments = {**LOSSES[name].defaults, **(loss_params or {}), **(filled_in or {})}
    if LOSSES[name].needs == "loss":
        arguments.pop("loss_params", None)
    return cls(model, **arguments, **fixed)


def check_loss(
    loss: str | type, loss_params: Params | None, wrappers: tuple[str, ...] = ()
) -> None:
    """Raise an InvalidParameterError where the loss refuses its arguments."""
    name = find_loss(loss, LOSSES)
    spec = LOSSES[name]
    check_wrapping(name, wrappers)
    cls, fixed = class_of(loss)
    check_arguments(name, cls, fixed, loss_params)
    if spec.needs == "loss":
        _check_wrapper(name, loss_params, wrappers)
    # a subclass of a user's may want a model
    elif not spec.whole_model and (cls is not loss or cls.__name__ == spec.class_name):
        try:
            build_loss(loss, None, loss_params)
        except InvalidParameterError:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidParameterError(f"loss_params of {loss!r}: {error}") from error


def check_vector_loss(loss: str | type, loss_params: Params | None, who: str) -> None:
    """Raise an InvalidParameterError where a loss cannot be computed on vectors.

    `who` computes InfoNCE by itself; all other losses are the library's.
    """
    name = find_loss(loss, LOSSES)
    if LOSSES[name].needs != "positives":
        check_loss(loss, loss_params)
        return
    if isinstance(loss, type) and loss.__name__ != LOSSES[name].class_name:
        raise InvalidParameterError(
            f"loss={loss.__name__} derives from {LOSSES[name].class_name}, which {who} "
            "computes by itself: what the subclass changes would be lost."
        )
    InfoNCEOptions.of(name, loss_params)


def _check_wrapper(
    name: str, loss_params: Params | None, wrappers: tuple[str, ...]
) -> None:
    inner, inner_params = wrapped_loss(loss_params)
    if find_loss(inner, LOSSES) is None:
        raise InvalidParameterError(
            f"The loss that {name!r} wraps is given by name or class, got "
            f"{shorten(inner)}; pass as loss a callable that makes both."
        )
    check_loss(inner, inner_params, (*wrappers, name))
    dims = (loss_params or {}).get("matryoshka_dims")
    whole = isinstance(dims, list | tuple) and all(
        isinstance(dim, Integral) and int(dim) > 0 for dim in dims
    )
    if dims is not None and not (dims and whole):
        raise InvalidParameterError(
            f"matryoshka_dims must be a list of positive whole numbers, got {dims!r}."
        )


def check_arguments(
    name: str, cls: type, fixed: Params, loss_params: Params | None
) -> None:
    """Raise an error for names that a loss lacks, and values of a wrong type."""
    signature = inspect.signature(cls).parameters
    hidden = _FILLED_IN | set(fixed)
    valid = [p for p in signature if p not in hidden]
    if "loss" in signature:
        valid.append("loss_params")
    if not any(p.kind is p.VAR_KEYWORD for p in signature.values()):
        what = f"loss_params of the loss {name!r}"
        check_argument_names(loss_params, valid, what)
    hints = _type_hints(cls)
    for key, value in (loss_params or {}).items():
        _check_value(key, value, hints.get(key), name)


def _type_hints(cls: type[Any]) -> dict[str, Any]:
    try:
        hints = get_type_hints(cls.__init__)
    except NameError:  # of a user's class, of names that only type checkers import
        hints = {}
    # in the place of a module the user gives what it is built of
    return hints | {"guide": str | None, "loss": object, "loss_params": dict | None}


def _check_value(key: str, value: Any, hint: Any, name: str) -> None:
    wanted = wanted_instead(value, hint)
    positive = key in _POSITIVE and isinstance(value, Real)
    if wanted is None and positive and not value > 0:
        wanted = ["more than 0"]
    if wanted is not None:
        raise InvalidParameterError(
            f"{key} of the loss {name!r} must be {' or '.join(wanted)}, got "
            f"{shorten(value)}."
        )


@dataclass(frozen=True)
class InfoNCEOptions:
    """Options of InfoNCE: those of MultipleNegativesRankingLoss, with its rules."""

    scale: float = 20.0
    directions: list[str] | tuple[str, ...] = ("query_to_doc",)
    partition_mode: str = "joint"
    hardness_mode: str | None = None
    hardness_strength: float = 0.0

    @classmethod
    def of(cls, name: str, loss_params: Params | None) -> Self:
        """Check `loss_params` of an InfoNCE loss, or raise InvalidParameterError."""
        _, fixed = LOSSES[name].alias or (None, {})
        valid = [n for n in cls.__dataclass_fields__ if n not in fixed]
        check_argument_names(loss_params, valid, f"loss_params of the loss {name!r}")
        options = cls(**{**(loss_params or {}), **fixed})
        options._check()
        return options

    def _check(self) -> None:
        for name, kind in (
            ("scale", "a positive number"),
            ("hardness_strength", "a number, 0 or more"),
        ):
            value = getattr(self, name)
            is_number = (
                isinstance(value, Real) and math.isfinite(value) and not value < 0
            )
            if not is_number or (name == "scale" and value == 0):
                raise InvalidParameterError(
                    f"The {name} of the loss must be {kind}, got {value!r}."
                )
        names = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
        directions = self.directions
        known = isinstance(directions, list | tuple) and set(directions) <= set(names)
        if not known or "query_to_doc" not in directions:
            raise InvalidParameterError(
                f"directions must be a tuple of names among {names}, 'query_to_doc' "
                f"being one of them, got {directions!r}."
            )
        modes = {
            "partition_mode": ("joint", "per_direction"),
            "hardness_mode": (
                None,
                "in_batch_negatives",
                "hard_negatives",
                "all_negatives",
            ),
        }
        for name, valid in modes.items():
            if getattr(self, name) not in valid:
                raise InvalidParameterError(
                    f"{name} must be one of {valid}, got {getattr(self, name)!r}."
                )
        alike = {"query_to_query", "doc_to_doc"} & set(directions)
        if self.partition_mode == "per_direction" and alike:
            raise InvalidParameterError(
                f"partition_mode='per_direction' does not go with {sorted(alike)}, "
                "whose candidates never hold the positive pair; use 'joint'."
            )
