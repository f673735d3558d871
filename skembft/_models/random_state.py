"""Keeping the process's random states as they are. Imports torch: import it lazily."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

process_state_lock = threading.RLock()


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Restore the global random states of python, numpy and torch on exit.

    One thread at a time: random states are the process's, and so is accelerate's.
    """
    with process_state_lock:
        yield from _restored_rng()


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Begin with torch's random state of a seed, and restore all on exit."""
    with isolated_rng():
        torch.manual_seed(seed)
        yield


def _restored_rng() -> Iterator[None]:
    python, torch_cpu = random.getstate(), torch.get_rng_state()
    legacy = np.random.get_state()  # noqa: NPY002 (what others may have seeded)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(torch_cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
