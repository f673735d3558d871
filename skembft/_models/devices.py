"""Where torch computes. Imports torch: import it lazily."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def is_available(device: str | torch.device | None) -> bool:
    """Whether torch can compute on a device of this machine; None always is."""
    try:
        return device is None or torch.empty(0, device=device) is not None
    except (RuntimeError, AssertionError):  # what torch raises without CUDA
        return False


def check_available(device: str | torch.device | None) -> None:
    """Raise a ValueError that says what to do where torch cannot compute."""
    if not is_available(device):
        raise ValueError(
            f"device={str(device)!r} is not available on this machine; pass None to "
            "take the best there is."
        )


def current(device: torch.device) -> AbstractContextManager[None]:
    """Let a GPU be the current one of its kind, which "cuda" means, until the end."""
    set_device = getattr(torch.get_device_module(device), "device", None)
    return nullcontext() if set_device is None else set_device(device)


@contextmanager
def default_cpu() -> Iterator[None]:
    """Let tensors that are made without a device be on the CPU, as torch has it.

    A user may have said otherwise by `torch.set_default_device`.
    """
    if torch.empty(0).device.type == "cpu":
        yield
        return
    with torch.device("cpu"):
        yield
