"""The adapters: small torch modules that start at the identity. Import it lazily."""

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from skembft._adapter.params import Arrays
from skembft._utils.types import Params

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}
_FLOAT = torch.float32  # of the vectors, whatever the default of torch is
_NOISE = 1e-6  # shorter directions of a float32 matrix are noise


class Linear(nn.Module):
    """Wx + b with W = start + Δ; Δ and b start at 0, where weight decay pulls.

    `start` is the identity, or a projection of shape (output_dim, dim).
    """

    def __init__(
        self, dim: int, bias: bool = False, start: Tensor | None = None
    ) -> None:
        super().__init__()
        self.start = start
        size = dim if start is None else len(start)
        self.delta = nn.Parameter(torch.zeros(size, dim, dtype=_FLOAT))
        self.bias = nn.Parameter(torch.zeros(size, dtype=_FLOAT)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        start = x if self.start is None else F.linear(x, self.start)
        return start + F.linear(x, self.delta, self.bias)

    def weights(self) -> Arrays:
        """The arrays that `apply_weights` needs."""
        out = {"weight": (self._start() + self.delta.detach()).numpy()}
        if self.bias is not None:
            out["bias"] = self.bias.detach().numpy().copy()
        return out

    def _start(self) -> Tensor:
        dim = len(self.delta)
        return torch.eye(dim, dtype=_FLOAT) if self.start is None else self.start

    @torch.no_grad()
    def load(self, weights: Arrays) -> Self:
        """Take up the arrays of `weights`."""
        self.delta.copy_(torch.tensor(weights["weight"]) - self._start())
        if self.bias is not None:
            self.bias.copy_(torch.tensor(weights["bias"]))
        return self


class LowRank(nn.Module):
    """x + UVx with U (d, rank) starting at 0 and V (rank, d) at random."""

    def __init__(self, dim: int, rank: int, generator: Generator) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(dim, rank, dtype=_FLOAT))
        down = torch.randn(rank, dim, generator=generator, dtype=_FLOAT)
        self.down = nn.Parameter(down / math.sqrt(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(F.linear(x, self.down), self.up)

    def weights(self) -> Arrays:
        """The arrays of the square matrix that this is."""
        delta = (self.up @ self.down).detach().numpy()
        return {"weight": np.eye(len(delta), dtype=np.float32) + delta}

    @torch.no_grad()
    def load(self, weights: Arrays) -> Self:
        """Take up a square matrix, whose distance to the identity has this rank."""
        square = weights["weight"]
        delta = torch.from_numpy(square - np.eye(len(square), dtype=np.float32))
        left, values, right = torch.linalg.svd(delta)
        # directions of no length keep V's random rows: with both at 0 neither would
        # ever have a gradient. All rows of V are about as long as at the start
        alive = values[: len(self.down)] > _NOISE * max(1.0, float(values[0]))
        rank = int(alive.sum())
        self.up.zero_()
        self.up[:, :rank] = left[:, :rank] * values[:rank]
        self.down[:rank] = right[:rank]
        return self


class ResidualMLP(nn.Module):
    """x + W₂ act(W₁x + b₁) + b₂, with W₂ and b₂ starting at 0."""

    def __init__(
        self, dim: int, hidden_dim: int, activation: str, generator: Generator
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        bound = 1 / math.sqrt(dim)  # as torch.nn.Linear starts
        uniform = torch.empty(hidden_dim, dim + 1, dtype=_FLOAT).uniform_(
            -bound, bound, generator=generator
        )
        self.weight_1 = nn.Parameter(uniform[:, :dim].clone())
        self.bias_1 = nn.Parameter(uniform[:, dim].clone())
        self.weight_2 = nn.Parameter(torch.zeros(dim, hidden_dim, dtype=_FLOAT))
        self.bias_2 = nn.Parameter(torch.zeros(dim, dtype=_FLOAT))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(F.linear(x, self.weight_1, self.bias_1))
        return x + F.linear(hidden, self.weight_2, self.bias_2)

    def weights(self) -> Arrays:
        """The arrays that `apply_weights` needs."""
        return {k: v.detach().numpy().copy() for k, v in self.named_parameters()}

    def load(self, weights: Arrays) -> Self:
        """Take up the arrays of `weights`."""
        self.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
        return self


class CustomLayer(nn.Module):
    """A user's module, built as ``cls(dim, **params)`` and checked on two vectors."""

    def __init__(self, cls: type, params: Params, dim: int) -> None:
        super().__init__()
        self.module = cls(dim, **params)
        if torch.get_default_dtype() != _FLOAT:  # which is not meant for vectors
            self.module.to(_FLOAT)
        self.module.eval()
        with torch.no_grad():
            out = self.module(torch.eye(2, dim, dtype=_FLOAT))
        shape = tuple(getattr(out, "shape", ()))
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(
                f"adapter={cls.__name__} gave {type(out).__name__} of shape {shape} "
                f"for 2 vectors of {dim} dimensions; forward must map a tensor of "
                f"shape (n, {dim}) to one of shape (n, output_dim)."
            )
        if not any(p.requires_grad for p in self.module.parameters()):
            raise ValueError(f"adapter={cls.__name__} has no parameters to train.")
        self.output_dim = shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x).to(_FLOAT)

    def weights(self) -> Arrays:
        """The module's state_dict as numpy arrays, which have no bfloat16."""
        state = {k: v.detach().cpu() for k, v in self.module.state_dict().items()}
        return {
            k: (v.float() if v.dtype == torch.bfloat16 else v).numpy().copy()
            for k, v in state.items()
        }

    def load(self, weights: Arrays) -> Self:
        """Put the arrays of `weights` back into the module."""
        state = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
        self.module.load_state_dict(state)
        return self
