"""Vectors as tensors of unit length, a part at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from skembft._utils.types import Ints, Vectors
from skembft._utils.vectors import unit_rows


def unit_tensor(vectors: Vectors) -> Tensor:
    return torch.from_numpy(np.float32(unit_rows(vectors)))


class UnitRows:
    """Vectors, of which rows are taken as float32 tensors of unit length.

    Nothing is copied before it is taken: the vectors may be a memory map.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: Ints) -> Tensor:
        return unit_tensor(self.vectors[index])

    def chunks(self, index: Ints | None = None, size: int = 16384) -> Iterator[Tensor]:
        """Yield the rows of `index` (None: all), in portions of `size`."""
        index = np.arange(len(self)) if index is None else index
        for start in range(0, len(index), size):
            yield self[index[start : start + size]]
