"""Dropout and attention that keep up with bfloat16 on a CPU. Import it lazily.

Matrix products in bfloat16 take half of the time or less; PyTorch's random numbers for
dropout, and its attention with dropout, which computes in float32, do not. On texts of
256 tokens they are half of a step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from skembft._embedding.speed.forward import replaced_forward

_BITS = 16  # of randomness for every element


@contextmanager
def fast_dropout(model: nn.Module) -> Iterator[None]:
    """Let a model that trains in bfloat16 on a CPU drop out faster.

    Random numbers come from torch's generator, but are others than its own dropout
    would draw, and a probability is rounded to a multiple of 2⁻¹⁶. Not for activation
    checkpointing: a backward pass computes layers again, outside of `forward`.
    """
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with _FastDropout():
            return plain(*args, **kwargs)

    with replaced_forward(model, forward):
        yield


class _FastDropout(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is dropout and _takes_dropout(*args, **kwargs):
            return drop_out(args[0], kwargs["p"])
        if func is scaled_dot_product_attention and _takes_attention(*args, **kwargs):
            return attention(*args, **kwargs)
        return func(*args, **kwargs)


def _takes_dropout(  # torch names them
    x: Tensor, *, p: float, training: bool, inplace: bool
) -> bool:
    return training and not inplace and _is_share(p)


def _takes_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    **options: Any,
) -> bool:
    is_plain = options.keys() <= {"scale", "is_causal"} and not options.get("is_causal")
    return is_plain and query.dtype == torch.bfloat16 and _is_share(dropout_p)


def _is_share(p: float) -> bool:
    return 0 < _threshold(p) < 2**_BITS


def _threshold(p: float) -> int:
    return round(p * 2**_BITS)


def drop_out(x: Tensor, p: float) -> Tensor:
    """Zero elements with probability p, and scale the others up by 1 / (1 - p)."""
    size = x.numel()
    random = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
    lanes = random.view(torch.int16)[:size].view(x.shape)
    threshold = _threshold(p)
    kept = (lanes >= threshold - 2 ** (_BITS - 1)).to(x.dtype)
    return x * kept.mul_(2**_BITS / (2**_BITS - threshold))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention in the type of its arguments.

    Parameters
    ----------
    query, key, value : tensor of shape (…, n, d), (…, m, d), (…, m, d)
    attn_mask : bool or float tensor that broadcasts to (…, n, m), or None
        True where a key counts; or what to add to the scores.
    dropout_p : float
        Probability with which a weight of attention becomes 0.
    is_causal : False
    scale : float or None
        None means ``d ** -0.5``.

    Returns
    -------
    out : tensor of shape (…, n, d)
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    least = torch.finfo(scores.dtype).min  # not -inf: rows without a key stay finite
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, least)
    elif attn_mask is not None:
        scores = scores + attn_mask.clamp(min=least).to(scores.dtype)
    with torch.autocast(scores.device.type, enabled=False):  # float32 there
        weights = torch.softmax(scores, dim=-1)
    if dropout_p:
        weights = drop_out(weights, dropout_p)
    return torch.matmul(weights, value)
