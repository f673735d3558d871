"""How a training that has diverged is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# no sane training makes its largest weight so many times larger than it was (or than
# 1); in what is left of float32's digits the model that it started from is lost
_MAX_GROWTH = 1e4


def diverged(what: str) -> ValueError:
    """Return the error that says that training has diverged, and what to do."""
    return ValueError(
        f"{what}: training has diverged. Lower learning_rate, or check the data and "
        "loss_params."
    )


def largest_weight(parameters: Iterable[Tensor]) -> float:
    """The largest of torch parameters' absolute values; NaN where one is NaN."""
    import torch

    with torch.no_grad():
        # many times faster than the norm of order infinity
        ends = [torch.stack(torch.aminmax(p)) for p in parameters if p.numel()]
        return torch.stack(ends).abs().max().item() if ends else 0.0


def check_growth(growth: float, step: int) -> None:
    """Raise an error where training diverged, whatever validation would keep.

    The loss need not tell: cosines are bounded, and weights of any size give some.
    """
    if not np.isfinite(growth):
        raise diverged(f"The weights became NaN or infinite before step {step}")
    if growth > _MAX_GROWTH:
        raise diverged(
            f"By step {step} the largest weight has become {growth:.2g} times as "
            "large as before training"
        )
