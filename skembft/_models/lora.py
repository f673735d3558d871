"""Low-rank weights beside those of a model (peft), and how they are folded in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn
    from transformers import PreTrainedModel

_BASE = "_skembft_base"  # an attribute of transformers


def has_lora(model: SentenceTransformer) -> bool:
    """Whether a model has low-rank weights that are not merged."""
    return bool(getattr(transformer_of(model), "_hf_peft_config_loaded", False))


def known_base(model: SentenceTransformer) -> str | None:
    """The name or directory that loads the weights beside the low-rank ones, if any.

    Without it a file of the low-rank weights alone would be read beside others.
    """
    return getattr(transformer_of(model), _BASE, None)


def note_base(model: SentenceTransformer, base: str | None) -> None:
    """Note what loads the weights that a model has now; None: nothing does."""
    transformer = transformer_of(model)
    if transformer is not None:
        setattr(transformer, _BASE, base)


def is_quantized(model: SentenceTransformer) -> bool:
    """Whether weights of a model are stored as small integers."""
    return bool(getattr(transformer_of(model), "is_quantized", False))


def merge_lora(model: SentenceTransformer) -> None:
    """Fold low-rank weights into the model's own, in place, where it has any.

    Quantised weights become float32: rounded again, they would lose what was trained.
    """
    transformer = transformer_of(model)
    if transformer is None or not has_lora(model):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module.get_base_layer()
            if layer.weight.is_floating_point():
                module.merge()
            else:
                peft_layer: Any = module  # those of linear layers have both
                layer = _in_float32(layer)
                for name in peft_layer.active_adapters:
                    layer.weight.data += peft_layer.get_delta_weight(name)
            transformer.set_submodule(path, layer)
    if is_quantized(model):
        for path, layer in list(transformer.named_modules()):
            weight = getattr(layer, "weight", None)
            if weight is not None and not weight.is_floating_point():
                transformer.set_submodule(path, _in_float32(layer))
        quantizer: Any = transformer.hf_quantizer
        quantizer.remove_quantization_config(transformer)
    note_base(model, None)
    transformer._hf_peft_config_loaded = False
    # of names with the adapter's prefix; torch's types know tensors and modules only
    transformer._weight_conversions = None  # type: ignore[assignment]
    del transformer.peft_config


def _in_float32(layer: Any) -> nn.Linear:
    """A linear layer with the weights that a quantised one computes with.

    They are what it makes of the unit vectors: each kind stores them in its own way,
    which may change with its use.
    """
    import torch

    with torch.no_grad():
        units = torch.eye(layer.in_features, device=layer.weight.device)
        rows = layer(units).float()
        has_bias = layer.bias is not None
        plain = torch.nn.Linear(
            layer.in_features, layer.out_features, has_bias, layer.weight.device
        )
        if has_bias:
            plain.bias.copy_(layer.bias)
            rows -= layer.bias
        plain.weight.copy_(rows.T)
    return plain.train(layer.training)


def transformer_of(model: SentenceTransformer) -> PreTrainedModel | None:
    """The transformer of transformers in a model, or None."""
    return getattr(model, "transformers_model", None)
