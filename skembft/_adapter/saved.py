"""An adapter in a directory: as dense layers of a model, and as arrays."""

from typing import Any, Protocol

import numpy as np

from skembft._adapter.params import Arrays, Spec, Weights
from skembft._saving.export import Exporter, Layer, cannot_export
from skembft._saving.params import STATE, Damaged, plain
from skembft._saving.state import ARRAYS, Parts, State
from skembft._utils.estimators import thawed
from skembft._utils.messages import shorten
from skembft.encoders._sentence import SentenceEncoder


class _Finetuner(Protocol):
    weights_: Weights
    embedding_dim_: int
    _adapter_spec: Spec

    def _checked_encoder(self) -> Any: ...


def exporter_of(finetuner: _Finetuner) -> Exporter:
    """The `Exporter` of an `AdapterFinetuner`, or a ValueError that says what fits."""
    adapter, params = finetuner._adapter_spec
    if not isinstance(adapter, str) and any(finetuner.weights_.values()):
        raise cannot_export(f"adapter={adapter.__name__} is a class of your own.")
    encoder = thawed(finetuner._checked_encoder())
    if not (isinstance(encoder, SentenceEncoder) or hasattr(encoder, "model_")):
        what = "None" if encoder is None else f"of {type(encoder).__name__}"
        raise cannot_export(f"The encoder is {what}.")
    if isinstance(encoder, SentenceEncoder) and encoder.backend != "torch":
        raise cannot_export(f"The encoder has backend={encoder.backend!r}.")
    activation = (params or {}).get("activation", "relu")
    layers: dict[str, list[Layer] | None] = {
        side: dense_layers(finetuner.weights_.get(side), activation)
        for side in ("query", "document")
    }
    if "document" not in finetuner.weights_:
        layers["document"] = None
    return Exporter(encoder, layers)


def dense_layers(weights: Arrays | None, activation: str) -> list[Layer]:
    """An adapter as a list of (weight, bias or None, activation)."""
    if not weights:
        return []
    if "weight_1" not in weights:
        return [(weights["weight"], weights.get("bias"), None)]
    # act(x) - act(-x) = x for ReLU, exact GELU and SiLU: x passes beside the layer
    eye = np.eye(weights["weight_1"].shape[1], dtype=np.float32)
    beside = np.zeros(2 * len(eye), dtype=np.float32)
    return [
        (
            np.concatenate([weights["weight_1"], eye, -eye]),
            np.concatenate([weights["bias_1"], beside]),
            activation,
        ),
        (
            np.concatenate([weights["weight_2"], eye, -eye], axis=1),
            weights["bias_2"],
            None,
        ),
    ]


def add_adapter(parts: Parts, finetuner: _Finetuner) -> None:
    """Add to the `Parts` of a finetuner what `restore_adapter` needs."""
    adapter, params = finetuner._adapter_spec
    known = isinstance(adapter, str)
    parts.content["adapter"] = [adapter, plain(params)[0]] if known else None
    parts.content["sides"] = sorted(finetuner.weights_)
    for side, weights in finetuner.weights_.items():
        parts.arrays.update({f"{side}.{k}": value for k, value in weights.items()})


def restore_adapter(finetuner: _Finetuner, state: State) -> None:
    """Give a finetuner the adapter of a directory."""
    adapter = state.content.get("adapter") or ["linear", {}]
    sides = state.content.get("sides")
    if sides not in (["query"], ["document", "query"]):
        raise Damaged(f"'sides' in {STATE} is {shorten(sides)}")
    if not (
        isinstance(adapter, list)
        and len(adapter) == 2
        and adapter[0] in ("linear", "low_rank", "mlp")
        and isinstance(adapter[1], dict)
        and adapter[1].get("activation", "relu") in ("relu", "gelu", "silu")
    ):
        raise Damaged(f"'adapter' in {STATE} is {shorten(adapter)}")
    finetuner._adapter_spec = adapter[0], adapter[1]
    weights: Weights = {side: {} for side in sides}
    for name, array in state.arrays.items():
        side, _, key = name.partition(".")
        if side not in weights or array.dtype != np.float32:
            raise Damaged(f"{ARRAYS} holds {name!r}, {array.dtype}")
        weights[side][key] = array
    for side, layer in weights.items():
        if state.content.get("adapter") and not layer:
            raise Damaged(f"{ARRAYS} lacks the weights of {side!r}")
        if layer and ("weight_1" in layer) != (adapter[0] == "mlp"):
            raise Damaged(f"{ARRAYS} holds no {adapter[0]!r} adapter")
        _check_shapes(layer, finetuner.embedding_dim_)
    finetuner.weights_ = weights


def _check_shapes(layer: Arrays, dim: int) -> None:
    """Raise an error where the arrays of an adapter do not fit one another."""
    keys = set(layer)
    if keys not in (
        set(),
        {"weight"},
        {"weight", "bias"},
        {"weight_1", "bias_1", "weight_2", "bias_2"},
    ):
        raise Damaged(f"{ARRAYS} holds {sorted(keys)}, which is no adapter")
    hidden = len(layer["weight_1"]) if "weight_1" in keys else None
    shapes = {
        "bias": (dim,),
        "weight_1": (hidden, dim),
        "bias_1": (hidden,),
        "weight_2": (dim, hidden),
        "bias_2": (dim,),
    }
    for key, array in layer.items():
        ok = array.shape == shapes.get(key)
        if key == "weight":
            ok = array.ndim == 2 and len(array) == dim
        if not ok:
            raise Damaged(f"{ARRAYS} holds {key!r} of shape {array.shape}")
