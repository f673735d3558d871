"""Types that signatures share."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

# what a user passes: any form of the guide on data forms, checked when it is read
Data: TypeAlias = Any
Item: TypeAlias = str | int  # a text or an id
# whether queries retrieve the document that they are, or which document each query is
OwnDocuments: TypeAlias = bool | Mapping[Any, Any]
Role: TypeAlias = Literal["query", "document"]
ItemKind: TypeAlias = Literal["text", "id", "vector"]
Similarity: TypeAlias = Literal["cosine", "dot"]
# a loss by name or class, or what makes one for a model
Loss: TypeAlias = str | type | Callable[[Any], Any]
Params: TypeAlias = dict[str, Any]  # arguments by name
BatchTokens: TypeAlias = int | Literal["auto"]
Path: TypeAlias = str | os.PathLike[str]
RandomState: TypeAlias = int | np.random.RandomState | None
Vectors: TypeAlias = NDArray[np.floating]  # (n, d)
Items: TypeAlias = Sequence[Any] | Vectors  # texts or ids, or a vector each
Floats: TypeAlias = NDArray[np.floating]
Ints: TypeAlias = NDArray[np.integer]
# queries that train, and others that are held out
Split: TypeAlias = tuple[Ints, Ints]
Bools: TypeAlias = NDArray[np.bool_]
MetricNames: TypeAlias = str | list[str] | tuple[str, ...]
# of a name: the function of ranked grades, and its cut-off
Metrics: TypeAlias = dict[str, tuple[Callable[..., Floats], int]]
