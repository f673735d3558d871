"""Gradients of embedding tables that cost what a batch reads. Import it lazily.

Every lookup of PyTorch makes a new gradient of the whole table, and these are added up.
Fresh memory of that size is slow on a CPU: of a small model with a vocabulary of many
languages it takes much of a step.
"""

from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

from skembft._forward import replaced_forward


@contextmanager
def gradients_in_place(model):
    """Let the embedding tables of a model add to gradients that stay where they are.

    They are the same to the last bit within one backward pass. Hooks of the tables'
    weights are not called, so that data-parallel training cannot use it.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if _is_plain(module):
                table = _Table(module)
                stack.enter_context(replaced_forward(module, table.look_up))
        yield


def _is_plain(module):
    return (
        type(module) is nn.Embedding
        and module.weight.requires_grad
        and not (module.sparse or module.scale_grad_by_freq)
        and module.max_norm is None
    )


class _Table:
    def __init__(self, module):
        self.module = module
        self.memory = None

    def look_up(self, indices):
        return _LookUp.apply(self.module.weight, indices, self)

    def add_gradient(self, indices, gradient):
        weight, padding = self.module.weight, self.module.padding_idx
        if weight.grad is None:
            if self.memory is None:
                self.memory = torch.empty_like(weight)
            weight.grad = self.memory.zero_()
        rows, place = torch.unique(indices, return_inverse=True)
        # PyTorch's own sum, of a table that has these rows only
        added = torch.ops.aten.embedding_dense_backward(
            gradient, place, len(rows), -1, False
        )
        if padding is not None:
            added[rows == padding] = 0
        weight.grad.index_add_(0, rows, added)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, indices, table):
        ctx.table = table
        ctx.save_for_backward(indices)
        return embedding(indices, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        ctx.table.add_gradient(*ctx.saved_tensors, gradient)
        return None, None, None
