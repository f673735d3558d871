"""The processes that train one model together. Import it lazily."""

from collections.abc import Callable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from skembft._utils.types import Items, Vectors

T = TypeVar("T")


class Processes:
    """The processes that train together, started by torchrun or accelerate.

    Every process has the same data; each takes its share of every batch, and of the
    texts that validation encodes.
    """

    def __init__(self) -> None:
        self.rank, self.count = 0, 1
        self.device = torch.device("cpu")

    @classmethod
    def of(cls, device: str | None) -> Self:
        """Join the processes that the launcher's environment tells of."""
        from accelerate import PartialState
        from accelerate.utils import get_int_from_env

        processes = cls()
        if get_int_from_env(["WORLD_SIZE"], 1) > 1:
            state = PartialState(cpu=str(device or "").startswith("cpu"))
            processes.rank, processes.count = state.process_index, state.num_processes
            processes.device = state.device
        return processes

    def agree(self, value: T) -> T:
        """The value of the first process, in all of them."""
        if self.count > 1:
            box = [value]
            torch.distributed.broadcast_object_list(box)
            (value,) = box
        return value

    def first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process; all return, or raise, what it does."""
        if self.count == 1:
            return function()
        result: Any = None
        error: BaseException | None = None
        if self.rank == 0:
            try:
                result = function()
            except BaseException as raised:  # for the others, who wait for an answer
                error = raised
        result, error = self.agree((result, error))
        if error is not None:
            raise error
        return result

    def collect(self, value: T) -> list[T]:
        """The values of all processes, in all of them."""
        values = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.count > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor / self.count

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()

    def map_rows(self, function: Callable[[Items], Vectors], items: Items) -> Vectors:
        """Apply a function of items to arrays; each process does its share of them."""
        if self.count == 1 or len(items) < self.count:
            return function(items)
        mine = torch.from_numpy(function(items[self.rank :: self.count]))
        size = -(-len(items) // self.count)  # of the largest share
        padded = mine.new_zeros(size, *mine.shape[1:], device=self.device)
        padded[: len(mine)] = mine
        parts = padded.new_empty(self.count, *padded.shape)
        torch.distributed.all_gather(list(parts), padded)
        return parts.transpose(0, 1).flatten(0, 1)[: len(items)].cpu().numpy()
