"""Gradients of embedding tables that cost what a batch reads. Import it lazily.

Every lookup of PyTorch makes a new gradient of the whole table, and these are added up.
Fresh memory of that size is slow on a CPU: of a small model with a vocabulary of many
languages it takes much of a step, and of a static model most of it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

from skembft._embedding.speed.forward import replaced_forward

_MEAN = 1  # of EmbeddingBag's modes


@contextmanager
def gradients_in_place(model: nn.Module) -> Iterator[None]:
    """Let the embedding tables of a model add to gradients that stay where they are.

    These are the tables of transformers, and the bags of static models, which take the
    mean of a text's tokens. Gradients are the same to the last bit within one backward
    pass. Hooks of the tables' weights are not called, so that data-parallel training
    cannot use it.
    """
    with ExitStack() as stack:
        for module in model.modules():
            kind = _KINDS.get(type(module))
            if kind is not None and _is_plain(module):
                stack.enter_context(replaced_forward(module, kind(module).forward))
        yield


def _is_plain(module: Any) -> bool:
    if not module.weight.requires_grad or module.max_norm is not None:
        return False
    if module.sparse or module.scale_grad_by_freq:
        return False
    if type(module) is nn.Embedding:
        return True
    is_mean = module.mode == "mean" and module.padding_idx is None
    return is_mean and not module.include_last_offset


class _Table:
    """What a `torch.nn.Embedding` does."""

    module: nn.Embedding | nn.EmbeddingBag

    def __init__(self, module: Any) -> None:
        self.module = module
        self.memory: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        return _LookUp.apply(self.module.weight, input, self)

    def add_gradient(
        self, indices: Tensor, gradient_of: Callable[[Tensor, int], Tensor]
    ) -> None:
        """Add ``gradient_of(places, size)``, of a table that has these rows only."""
        weight, padding = self.module.weight, self.module.padding_idx
        if weight.grad is None:
            if self.memory is None:
                self.memory = torch.empty_like(weight)
            weight.grad = self.memory.zero_()
        rows, places = torch.unique(indices, return_inverse=True)
        added = gradient_of(places, len(rows))
        if padding is not None:
            added[rows == padding] = 0
        weight.grad.index_add_(0, rows, added)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, indices: Tensor, table: _Table) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(indices)
        return embedding(indices, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        (indices,) = ctx.saved_tensors
        ctx.table.add_gradient(
            indices,
            lambda places, size: torch.ops.aten.embedding_dense_backward(
                gradient, places, size, -1, False
            ),
        )
        return None, None, None


class _Bags(_Table):
    """What a `torch.nn.EmbeddingBag` does that takes means."""

    module: nn.EmbeddingBag

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        module = self.module
        if offsets is None or per_sample_weights is not None:
            return type(module).forward(module, input, offsets, per_sample_weights)
        return _MeanOfBags.apply(module.weight, input, offsets, self)


class _MeanOfBags(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, indices: Tensor, offsets: Tensor, table: _Table
    ) -> Tensor:
        ctx.table = table
        out, *sizes = torch.ops.aten._embedding_bag(
            weight, indices, offsets, mode=_MEAN
        )
        ctx.save_for_backward(indices, offsets, *sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, None]:
        indices, *sizes = ctx.saved_tensors
        ctx.table.add_gradient(
            indices,
            lambda places, size: torch.ops.aten._embedding_bag_backward(
                gradient, places, *sizes, size, False, _MEAN, False, None
            ),
        )
        return None, None, None, None


_KINDS: dict[type[nn.Module], type[_Table]] = {
    nn.Embedding: _Table,
    nn.EmbeddingBag: _Bags,
}
