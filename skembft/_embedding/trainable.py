"""Which weights of a model are trained, and at which rates. Import it lazily."""

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router, WordWeights
from sklearn.utils._param_validation import InvalidParameterError
from torch import Tensor, nn

from skembft._losses.table import check_argument_names
from skembft._models.lora import (
    has_lora,
    is_quantized,
    merge_lora,
    note_base,
    transformer_of,
)
from skembft._utils.types import Params

if TYPE_CHECKING:
    from peft import LoraConfig

_NOT_LOW_RANK = {
    *("task_type", "inference_mode"),
    *("modules_to_save", "trainable_token_indices"),  # copies of whole modules
    "layer_replication",  # weights that two layers share
}
# initial values that leave the weights beside them, and what they compute, as they are
_NO_CHANGE = (True, "gaussian", "orthogonal")
_SETTINGS = "_skembft_lora"  # an attribute of transformers
# LoRA's arguments where the user says nothing; all others are peft's own
LORA_DEFAULTS = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


@dataclass(frozen=True)
class LayerStack:
    """The transformer layers of a model, lowest first.

    `parent` holds them as attribute `name`; `path` is their name within the model.
    """

    parent: nn.Module
    name: str
    path: str

    @property
    def layers(self) -> nn.ModuleList:
        return getattr(self.parent, self.name)

    @classmethod
    def of(cls, model: SentenceTransformer, purpose: str) -> Self:
        """Find the layers, or raise an error that says what wanted them."""
        _refuse_routes(model, f"{purpose} needs one stack of layers")
        transformer = transformer_of(model)
        count = getattr(getattr(transformer, "config", None), "num_hidden_layers", None)
        for path, module in model.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                parent, _, name = path.rpartition(".")
                return cls(model.get_submodule(parent), name, path)
        raise InvalidParameterError(
            f"{purpose} needs a model with transformer layers, and "
            f"{type(transformer or model[0]).__name__} has none that skembft finds."
        )


def _refuse_routes(model: SentenceTransformer, needs: str) -> None:
    if any(isinstance(module, Router) for module in model):
        raise InvalidParameterError(
            f"{needs}, and this model routes queries and documents through modules of "
            "their own."
        )


def choose_weights(
    model: SentenceTransformer, trainable: str | int, trainable_params: Params | None
) -> None:
    """Mark what is trained: "all", the top so many layers, or "lora".

    Low-rank weights that a warm start brings are trained on, or folded in.
    """
    if trainable == "lora":
        before = getattr(transformer_of(model), _SETTINGS, None)
        if has_lora(model) and before != _lora_settings(trainable_params):
            merge_lora(model)
        if not has_lora(model):
            add_lora(model, trainable_params)
        return
    merge_lora(model)
    note_base(model, None)
    if any(not p.is_floating_point() for p in model.parameters()):
        raise InvalidParameterError(
            f"trainable={trainable!r} needs weights that are floating-point numbers, "
            "and model_params ask for quantised ones: use trainable='lora'."
        )
    _train_all(model)
    if trainable != "all":
        freeze_lower_layers(model, int(trainable))
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InvalidParameterError(
            f"Nothing of the model can be trained: its {type(model[0]).__name__} says "
            "update_embeddings=False, and no other module has weights."
        )
    if any(p.dtype == torch.float16 for p in trained):
        raise InvalidParameterError(
            "model_params ask for weights in float16, in which the steps of training "
            "are lost: leave the dtype out (they are float32 then), or use "
            "trainable='lora'."
        )


def _train_all(model: SentenceTransformer) -> None:
    """Mark all weights as trained but those of modules that say otherwise."""
    model.requires_grad_(True)
    for module in model.modules():
        # no file keeps the weights of WordWeights
        fixed = getattr(module, "update_embeddings", True) is False
        if fixed or isinstance(module, WordWeights):
            module.requires_grad_(False)


def freeze_lower_layers(model: SentenceTransformer, n_top: int) -> LayerStack:
    """Train the top layers, and what comes after them; return the `LayerStack`."""
    stack = LayerStack.of(model, f"trainable={n_top}")
    if n_top > len(stack.layers):
        raise InvalidParameterError(
            f"trainable={n_top} top layers are more than the model has: "
            f"{len(stack.layers)}."
        )
    for parameter in _feeding(model, stack).values():
        parameter.requires_grad_(False)
    for i, layer in enumerate(stack.layers):
        layer.requires_grad_(i >= len(stack.layers) - n_top)
    return stack


def _feeding(model: SentenceTransformer, stack: LayerStack) -> dict[str, nn.Parameter]:
    """The transformer's weights by name that are neither in its layers nor after them.

    A module is after the layers if it is not used before the last one is: where it is
    registered does not tell.
    """
    transformer = transformer_of(model)
    assert transformer is not None  # as it has layers
    is_after: dict[nn.Module, bool] = {}
    done: list[bool] = []

    def note(module: nn.Module, _: object) -> None:
        is_after.setdefault(module, bool(done))

    hooks = [module.register_forward_pre_hook(note) for module in transformer.modules()]
    hooks.append(stack.layers[-1].register_forward_hook(lambda *_: done.append(True)))
    try:
        model.encode(["a"], show_progress_bar=False)
    finally:
        for hook in hooks:
            hook.remove()
    after = [module for module in is_after if is_after[module]]
    apart = {id(p) for module in (stack.layers, *after) for p in module.parameters()}
    of_transformer = {id(p) for p in transformer.parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in of_transformer - apart
    }


def layer_rates(
    model: SentenceTransformer, learning_rate: float, decay: float
) -> dict[str, float]:
    """Learning rates by pattern of a parameter's name, falling from layer to layer.

    The top layer and what follows it have `learning_rate`, each layer below `decay`
    times that of the one above, and the embeddings once more less (J. Howard,
    S. Ruder, 2018, arXiv:1801.06146).
    """
    stack = LayerStack.of(model, f"layer_decay={decay}")
    depth = len(stack.layers)
    rates = {
        rf"(^|\.){re.escape(f'{stack.path}.{i}.')}": learning_rate
        * decay ** (depth - 1 - i)
        for i in range(depth)
    }
    for name in _feeding(model, stack):
        rates[rf"(^|\.){re.escape(name)}$"] = learning_rate * decay**depth
    return rates


# ---- LoRA


def _check_peft() -> None:
    """Refuse a peft that transformers does not take, which it would say after a fit."""
    from importlib.metadata import version

    from transformers.integrations.peft import MIN_PEFT_VERSION
    from transformers.utils.peft_utils import check_peft_version

    try:
        check_peft_version(MIN_PEFT_VERSION)
    except ValueError:
        raise ImportError(
            f"trainable='lora': transformers {version('transformers')} needs peft "
            f"{MIN_PEFT_VERSION} or newer, and peft {version('peft')} is installed. "
            "pip install --upgrade 'skembft[lora]' finds versions that go together."
        ) from None


def lora_config(params: Params | None) -> "LoraConfig":
    """Return peft's configuration, or raise an error that names what is wrong."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise ImportError(
            "trainable='lora' needs the package peft: pip install 'skembft[lora]'."
        ) from None
    _check_peft()
    settings = _lora_settings(params)
    merge = (params or {}).get("merge", False)
    if not isinstance(merge, bool):
        raise InvalidParameterError(
            f"trainable_params: 'merge' must be True or False, got {merge!r}."
        )
    names = inspect.signature(LoraConfig).parameters
    valid = [name for name in names if name not in _NOT_LOW_RANK]
    check_argument_names(settings, valid, "trainable_params of trainable='lora'")
    if settings.get("use_dora") and not merge:
        raise InvalidParameterError(
            "trainable_params: use_dora needs 'merge': True, as its weights are not "
            "read back from a saved adapter."
        )
    if settings.get("init_lora_weights") is False:
        raise InvalidParameterError(
            "trainable_params: init_lora_weights=False begins with other vectors than "
            "those of the model, which could then not be kept: leave it out."
        )
    try:
        return LoraConfig(task_type="FEATURE_EXTRACTION", **settings)
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"trainable_params: {error}") from None


def _lora_settings(params: Params | None) -> Params:
    settings = {**LORA_DEFAULTS, **(params or {})}
    settings.pop("merge", None)
    return settings


def add_lora(model: SentenceTransformer, params: Params | None) -> None:
    """Freeze a model and add low-rank weights to its linear layers (peft)."""
    # which would be added to the first route only
    _refuse_routes(model, "trainable='lora' needs one transformer")
    if transformer_of(model) is None or not model.has_peft_compatible_model():
        raise InvalidParameterError(
            f"trainable='lora' needs a transformer, not {type(model[0]).__name__}."
        )
    config = lora_config(params)
    if config.use_dora and is_quantized(model):
        raise InvalidParameterError(
            "trainable_params: use_dora cannot be folded into quantised weights, which "
            "model_params ask for: leave one of them out."
        )
    model.requires_grad_(False)
    model.add_adapter(config)
    setattr(transformer_of(model), _SETTINGS, _lora_settings(params))
    if config.init_lora_weights not in _NO_CHANGE:
        note_base(model, None)
    for parameter in model.parameters():
        if parameter.requires_grad:  # in the type of the frozen weights, steps are lost
            parameter.data = parameter.data.float()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without the weights that are frozen, by name."""
    weights = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, weight in weights if not weight.requires_grad}
    return {k: v for k, v in model.state_dict().items() if k not in frozen}


def finish(model: SentenceTransformer, params: Params | None) -> None:
    """Make of a model that was trained in part one like any other."""
    if (params or {}).get("merge"):
        merge_lora(model)
    if not has_lora(model):
        _train_all(model)
