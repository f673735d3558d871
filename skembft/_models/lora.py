"""Low-rank weights beside those of a model (peft), and how they are folded in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel


def has_lora(model: SentenceTransformer) -> bool:
    """Whether a model has low-rank weights that are not merged."""
    return bool(getattr(transformer_of(model), "_hf_peft_config_loaded", False))


def merge_lora(model: SentenceTransformer) -> None:
    """Fold low-rank weights into the model's own, in place, where it has any."""
    transformer = transformer_of(model)
    if transformer is None or not has_lora(model):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, name = path.rpartition(".")
            setattr(transformer.get_submodule(parent), name, module.get_base_layer())
    transformer._hf_peft_config_loaded = False
    # of names with the adapter's prefix; torch's types know tensors and modules only
    transformer._weight_conversions = None  # type: ignore[assignment]
    del transformer.peft_config


def transformer_of(model: SentenceTransformer) -> PreTrainedModel | None:
    """The transformer of transformers in a model, or None."""
    return getattr(model, "transformers_model", None)
