"""Values of other libraries, as Python's and numpy's own."""

from typing import Any

import numpy as np


def to_plain(value: Any, name: str) -> Any:
    """Return a scalar or column of another library as Python's own.

    Scalars become a str or a number, columns a list. All else is returned as it is.
    """
    if is_tensor(value):
        value = tensor_to_array(value, name)
    # of pyarrow's scalars, and columns; of numpy and pandas; of polars
    for method in ("as_py", "to_pylist", "tolist", "to_list"):
        if hasattr(type(value), method):
            return getattr(value, method)()
    return value


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of PyTorch, which is not imported for it."""
    return hasattr(type(value), "detach") and hasattr(type(value), "is_meta")


def tensor_to_array(tensor: Any, name: str) -> np.ndarray:
    """Return a tensor as an array, float32 where numpy lacks its type, as bfloat16."""
    if tensor.is_meta:
        raise ValueError(
            f"{name} is a tensor on the device 'meta', which has a shape and no "
            "values: pass one that was computed."
        )
    tensor = tensor.to_dense()
    try:
        return tensor.numpy(force=True)
    except TypeError:
        return tensor.float().numpy(force=True)
