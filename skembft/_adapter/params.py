"""Arguments of adapters, and fitted adapters, which are plain arrays."""

import inspect
import warnings
from numbers import Integral, Real
from typing import Any, Protocol, TypeAlias

import numpy as np
from scipy.special import expit, ndtr
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)

from skembft._losses.table import check_argument_names
from skembft._utils.types import Floats, Params, Vectors
from skembft._utils.vectors import in_portions, unit_rows

Arrays: TypeAlias = dict[str, np.ndarray]  # of a layer, by name
Weights: TypeAlias = dict[str, Arrays]  # of "query", and of "document" where it has one
Spec: TypeAlias = tuple[str | type, Params]  # an adapter's name or class, and arguments

_SIZE = Interval(Integral, 1, None, closed="left")
_ARGUMENTS: dict[str, dict[str, list[Any]]] = {
    "linear": {"bias": ["boolean"], "output_dim": [_SIZE, None]},
    "low_rank": {"rank": [_SIZE]},
    "mlp": {
        "hidden_dim": [_SIZE, None],
        "activation": [StrOptions({"relu", "gelu", "silu"})],
    },
    "closed_form": {"ridge": [Interval(Real, 0, None, closed="neither")]},
}


class _Settings(Protocol):
    loss: str | type
    adapter: str | type
    adapter_params: Params | None
    side: str
    solver: str


# what ridge regression has no use for
_OF_ADAMW = (
    "loss",
    "loss_params",
    "negatives",
    "batch_size",
    "epochs",
    "learning_rate",
    "weight_decay",
    "warmup_ratio",
    "n_iter_no_change",
    "evaluation_steps",
)


def _warn_unused(settings: _Settings) -> None:
    parameters = inspect.signature(type(settings).__init__).parameters
    unused = [
        name
        for name in _OF_ADAMW
        if getattr(settings, name) != parameters[name].default
    ]
    if unused:
        warnings.warn(
            f"solver='closed_form' makes no use of {', '.join(unused)}: leave them at "
            "their defaults, or take solver='adamw'.",
            UserWarning,
            stacklevel=5,
        )


def check_adapter(settings: _Settings, needs: str) -> None:
    """Raise an InvalidParameterError where an adapter and its settings do not fit.

    `settings` is an `AdapterFinetuner`, `needs` what its loss needs.
    """
    adapter, params, side = settings.adapter, settings.adapter_params, settings.side
    closed_form = settings.solver == "closed_form"
    if closed_form and not (adapter == "linear" and side == "query"):
        raise InvalidParameterError(
            "solver='closed_form' finds a square matrix for queries: it goes with "
            "adapter='linear' and side='query'."
        )
    if closed_form:
        _warn_unused(settings)
    if isinstance(adapter, type):
        _check_module(adapter, params or {})
        return
    valid = _ARGUMENTS["closed_form" if closed_form else adapter]
    what = f"adapter_params of {adapter!r}"
    check_argument_names(params, valid, what)
    validate_parameter_constraints(valid, params or {}, what)
    if (params or {}).get("output_dim") is None:
        return
    if needs == "targets":
        raise InvalidParameterError(
            f"output_dim does not go with loss={settings.loss!r}, which moves queries "
            "to the vectors of documents as the encoder gives them."
        )
    if side == "query":
        raise InvalidParameterError(
            "output_dim changes the dimension of queries, and side='query' leaves "
            "that of documents: use side='both' or 'separate'."
        )


def _check_module(cls: type, params: Params) -> None:
    name = cls.__name__
    if not hasattr(cls, "state_dict"):
        raise InvalidParameterError(
            f"adapter={name} is not a subclass of torch.nn.Module."
        )
    try:
        inspect.signature(cls).bind(384, **params)
    except TypeError as error:
        raise InvalidParameterError(
            f"adapter={name} is called as {name}(dimension, **adapter_params), and "
            f"adapter_params={params!r} do not fit: {error}."
        ) from None


def input_dim(weights: Arrays) -> int:
    """The width of the vectors that a layer of ours takes."""
    return weights["weight" if "weight" in weights else "weight_1"].shape[1]


def apply_weights(
    weights: Arrays, vectors: Vectors, activation: str = "relu"
) -> Vectors:
    """Adapt vectors (n, d) by a layer, giving float32 unit vectors.

    Without weights the vectors are only scaled to unit length.
    """
    return in_portions(lambda rows: _apply(weights, rows, activation), vectors)


def _apply(weights: Arrays, vectors: Vectors, activation: str) -> Vectors:
    # in one layout, as another one is summed in another order
    vectors = unit_rows(np.ascontiguousarray(vectors))
    vectors = np.asarray(vectors, dtype=np.float32)
    if not weights:
        return vectors
    width = input_dim(weights)
    if vectors.shape[1] != width:
        raise ValueError(
            f"The vectors have {vectors.shape[1]} dimensions, and the adapter was "
            f"fitted on {width}: fit it on vectors of the same model."
        )
    if "weight_1" in weights:
        hidden = _multiply(vectors, weights["weight_1"]) + weights["bias_1"]
        hidden = _multiply(_activate(hidden, activation), weights["weight_2"])
        vectors = vectors + hidden + weights["bias_2"]
    else:
        vectors = _multiply(vectors, weights["weight"])
        if "bias" in weights:
            vectors = vectors + weights["bias"]
    return unit_rows(vectors)


def _multiply(vectors: Vectors, weight: Floats) -> Vectors:
    """``vectors @ weight.T`` by torch.

    Threads of numpy's matmul wait for more by spinning, and slow down what torch
    computes next: the fits of a search by a third.
    """
    import torch

    left, right = (  # of a memory map it warns
        torch.from_numpy(np.require(array, np.float32, "W"))
        for array in (vectors, weight)
    )
    return torch.mm(left, right.T).numpy()


def _activate(x: Floats, activation: str) -> Floats:
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "silu":
        return x * expit(x)
    return x * ndtr(x)  # GELU, exact
