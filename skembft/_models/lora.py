"""Low-rank weights beside those of a model (peft), and how they are folded in."""


def has_lora(model):
    """Whether a model has low-rank weights that are not merged."""
    return bool(getattr(transformer_of(model), "_hf_peft_config_loaded", False))


def merge_lora(model):
    """Fold low-rank weights into the model's own, in place, where it has any."""
    if not has_lora(model):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    transformer = transformer_of(model)
    for path, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, name = path.rpartition(".")
            setattr(transformer.get_submodule(parent), name, module.get_base_layer())
    transformer._hf_peft_config_loaded = False
    transformer._weight_conversions = None  # of names with the adapter's prefix
    del transformer.peft_config


def transformer_of(model):
    """The transformer of transformers in a model, or None."""
    return getattr(model, "transformers_model", None)
