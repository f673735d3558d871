"""bfloat16: where it is computed, and what it may cost."""

from copy import deepcopy
from typing import Literal, TypeAlias

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from sentence_transformers.util import get_device_name
from torch import nn

from skembft._models.devices import current, default_cpu, is_available
from skembft._utils.vectors import unit_rows

Precision: TypeAlias = Literal["float32", "auto"]  # what a user asks for
Computed: TypeAlias = Literal["float32", "bf16"]

_BF16_MODULES = (Transformer, Pooling, Normalize, Dense)


_LEAST_COSINE = 0.9995  # of a vector computed in bfloat16 to that of float32


_PROBES = [
    "search",
    "How do I get my money back?",
    "3.14 million shares, or 27%, were sold on 5 May 2021 (see note 12).",
    " ".join(["The committee shall report its findings to the members."] * 12),
]


@default_cpu()
def bf16_copy(model: SentenceTransformer) -> SentenceTransformer | None:
    """A copy in bfloat16, or None where its vectors are not those of float32.

    Modules of other packages may mix types; and what is rounded in every layer is tried
    on some texts.
    """
    shipped = all(isinstance(module, _BF16_MODULES) for module in model)
    inner = getattr(model, "transformers_model", None)
    if not shipped or not type(inner).__module__.startswith("transformers.models."):
        return None
    # as transformers loads bfloat16: what no file holds, as rotary frequencies, stays.
    # No second copy in float32 is made on the way
    shorter = {
        id(tensor): _shortened(tensor)
        for tensor in model.state_dict(keep_vars=True).values()
        if tensor.is_floating_point()
    }
    copy = deepcopy(model, shorter)
    first, second = (
        unit_rows(np.asarray(m.encode(_PROBES, show_progress_bar=False), np.float32))
        for m in (model, copy)
    )
    cosines = (first * second).sum(axis=1)
    return copy if (cosines >= _LEAST_COSINE).all() else None


def _shortened(tensor: torch.Tensor) -> torch.Tensor:
    short = tensor.detach().to(torch.bfloat16)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(short, requires_grad=tensor.requires_grad)
    return short


def has_bf16(device: str | torch.device) -> bool:
    """Whether a device computes bfloat16 natively (elsewhere it would be slower)."""
    if not is_available(device):
        return False
    device = torch.device(device)
    if device.type == "cuda":
        with current(device):  # others of the machine may differ
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in checks)
    return False


def resolve_precision(
    precision: Precision, device: str | torch.device | None = None
) -> Computed:
    """Return "bf16" where "auto" is asked for and the device has it, or "float32".

    None is the device that a model without one is put on.
    """
    if precision == "auto" and has_bf16(device or get_device_name()):
        return "bf16"
    return "float32"
