"""Keeping the process's random states as they are. Imports torch: import it lazily."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_GPUS: tuple[Any, ...] = (torch.cuda, torch.xpu)


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
        left = False
        try:
            with self._state:
                try:
                    yield
                finally:
                    # before a fit can go on, which would keep this thread waiting
                    self._count(-1)
                    left = True
                    self._state.notify_all()
        finally:
            if not left:  # interrupted while waiting
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
    """Restore the random states that there are; no GPU is started up for its own."""
    states, seed = random_states(), torch.initial_seed()
    started = [kind for kind in _GPUS if kind.is_initialized()]
    of_gpus = [kind.get_rng_state_all() for kind in started]
    try:
        yield
    finally:
        set_random_states(states)
        for kind, state in zip(started, of_gpus, strict=True):
            kind.set_rng_state_all(state)
        for kind in _GPUS:
            if kind not in started:  # torch seeds one with what the CPU was seeded with
                kind.manual_seed_all(seed)


def random_states(device: torch.device | None = None) -> dict[str, Any]:
    """The global random states of python, numpy and torch, and that of a device."""
    numpy: Any = np.random.get_state()  # noqa: NPY002 (others may have seeded it)
    kind, keys, *rest = numpy
    states = {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if device is not None and device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state()
    return states


def set_random_states(
    states: dict[str, Any], device: torch.device | None = None
) -> None:
    """Go on with what `random_states` gave."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device is not None and "device" in states:
        torch.get_device_module(device).set_rng_state(states["device"])
