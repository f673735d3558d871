"""Keeping the process's random states as they are. Imports torch: import it lazily."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class _Turns:
    """Gives the random states of the process to one thread at a time.

    Who holds them for long (a fit) lets those in between who need them shortly (to load
    a model), but no other fit: accelerate's state is the process's, too.
    """

    def __init__(self) -> None:
        self._state = threading.Condition(threading.RLock())
        self._fit = threading.RLock()
        self._counting = threading.Lock()
        self._n_short = 0  # waiting or at it

    @contextmanager
    def short(self) -> Iterator[None]:
        self._count(1)
        try:
            with self._state:
                yield
        finally:
            self._count(-1)
            with self._state:
                self._state.notify_all()

    @contextmanager
    def long(self) -> Iterator[None]:
        with self._fit, self._state:
            yield

    def let_others_in(self) -> None:
        with self._state:
            while self._n_short:
                self._state.wait()

    def _count(self, more: int) -> None:
        with self._counting:
            self._n_short += more


_turns = _Turns()
let_others_in = _turns.let_others_in  # between two steps of a fit


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Restore the global random states of python, numpy and torch on exit.

    One thread at a time, and not during a step of a fit.
    """
    with _turns.short(), _restored_rng():
        yield


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Begin with torch's random state of a seed, and restore all on exit.

    For a fit: one at a time.
    """
    with _turns.long(), _restored_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
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
