"""What frozen lower layers make of a text, computed once. Import it lazily."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skembft._embedding.speed.forward import (
    Features,
    move,
    on_host,
    replaced_forward,
)
from skembft._embedding.trainable import LayerStack
from skembft._utils.types import Floats, Ints

# what architectures raise that count their layers, or unpack what these return
_NOT_LEFT_OUT = (
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Stop(Exception):
    """Carries what the lower layers give out of a forward pass."""


class _Stand(nn.Module):
    """In the place of a layer, whose attributes a model may read."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # no module of this one

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)


class _Capture(_Stand):
    """In the place of the first trained layer: ends the pass with its input."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise _Stop(hidden_states)


class _Pass(_Stand):
    """In the place of a frozen layer: gives what it gets.

    It keeps the others at their places: which attention a layer has may depend on it.
    """

    in_tuple = False  # as some models' layers give it

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if self.in_tuple else hidden_states


class _Insert(_Pass):
    """In the place of the lowest layer: gives what the frozen layers gave."""

    hidden: Tensor | None = None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        assert self.hidden is not None
        return super().forward(self.hidden.to(hidden_states.dtype))


@contextmanager
def lower_layers_once(
    model: nn.Module, stack: LayerStack, n_top: int
) -> Iterator[None]:
    """Compute what the frozen layers make of a text once, and keep it in a file.

    They are used without dropout. Models whose layers cannot be left out (the output
    would differ) are used as they are. Where the file cannot be written, the layers
    compute every batch anew.
    """
    keeper = _LowerLayers(model, stack, n_top)
    try:
        with replaced_forward(model, keeper.forward):
            yield
    finally:
        keeper.store.file.close()


class _LowerLayers:
    def __init__(self, model: nn.Module, stack: LayerStack, n_top: int) -> None:
        self.model, self.stack = model, stack
        self.plain = model.forward
        self.full = stack.layers
        n_frozen = len(self.full) - n_top
        frozen, top = list(self.full)[:n_frozen], list(self.full)[n_frozen:]
        self.insert = _Insert(frozen[0])
        self.passed = [self.insert, *map(_Pass, frozen[1:])]
        # of the same length as the whole list
        self.lower = nn.ModuleList([*frozen, _Capture(top[0]), *top[1:]])
        self.upper = nn.ModuleList([*self.passed, *top])
        self.store = _HiddenStates()
        self.works = True
        self.keeps = True  # until the file cannot be written
        self.checked = 0  # the width of the widest batch that was compared

    def forward(self, features: Features, **kwargs: Any) -> Features:
        mask = features.get("attention_mask")
        if (
            mask is None
            or mask.ndim != 2
            or not (self.works and on_host(mask)[:, 0].all())
        ):
            return self.plain(features, **kwargs)
        width = mask.shape[1]
        if width > self.checked:  # short texts may not tell, as within a window
            self.works, self.checked = self._check(features, **kwargs), width
            return self.forward(features, **kwargs)
        return self._without_lower(features, **kwargs)

    def _without_lower(self, features: Features, **kwargs: Any) -> Features:
        hidden = self._stored(features, **kwargs) if self.keeps else None
        if hidden is None:
            rows = np.arange(len(features["attention_mask"]))
            hidden = self._run_lower(features, rows, **kwargs)
        self.insert.hidden = hidden
        try:
            return self._run(self.upper, features, **kwargs)
        finally:
            self.insert.hidden = None

    def _stored(self, features: Features, **kwargs: Any) -> Tensor | None:
        """What the frozen layers give, from the file; None where it has no room."""
        mask = on_host(features["attention_mask"]).bool().numpy()
        ids = on_host(features["input_ids"]).numpy()
        keys = [row[kept].tobytes() for row, kept in zip(ids, mask, strict=True)]
        new = {key: i for i, key in enumerate(keys) if key not in self.store}
        if new:
            rows = np.array(list(new.values()))
            hidden = self._run_lower(features, rows, **kwargs).float().cpu().numpy()
            try:
                for key, row, states in zip(new, rows, hidden, strict=True):
                    self.store.add(key, states[: mask[row].sum()])
            except OSError as error:
                self._stop_keeping(error)
                return None
        states = self.store.padded(keys, mask.shape[1])
        return move(states, features["input_ids"].device)

    def _stop_keeping(self, error: OSError) -> None:
        self.keeps = False
        self.store.file.close()  # its room is free again
        warnings.warn(
            "What the frozen layers make of the texts cannot be kept in "
            f"{tempfile.gettempdir()} ({error.strerror or error}): they compute it "
            "anew in every epoch, slower, with the same result but for rounding. To "
            "keep it, set the environment variable TMPDIR to a larger directory.",
            UserWarning,
            stacklevel=2,
        )

    def _run_lower(self, features: Features, rows: Ints, **kwargs: Any) -> Tensor:
        n_rows = len(features["attention_mask"])
        index = move(torch.from_numpy(rows), features["attention_mask"].device)
        some = {
            name: value[index.to(value.device)]
            if isinstance(value, torch.Tensor) and value.shape[:1] == (n_rows,)
            else value
            for name, value in features.items()
        }
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                self._run(self.lower, some, **kwargs)
        except _Stop as stop:
            return stop.args[0]
        finally:
            self.model.train(training)
        raise RuntimeError("The model did not reach its upper layers.")

    def _run(
        self, layers: nn.ModuleList, features: Features, **kwargs: Any
    ) -> Features:
        setattr(self.stack.parent, self.stack.name, layers)
        try:
            return self.plain(dict(features), **kwargs)
        finally:
            setattr(self.stack.parent, self.stack.name, self.full)

    def _check(self, features: Features, **kwargs: Any) -> bool:
        """Whether leaving the lower layers out gives the same vectors."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                expected = self.plain(dict(features), **kwargs)["sentence_embedding"]
                for in_tuple in dict.fromkeys((self.insert.in_tuple, False, True)):
                    for layer in self.passed:
                        layer.in_tuple = in_tuple
                    if self._gives(expected, features, **kwargs):
                        return True
        finally:
            self.model.train(training)
        return False

    def _gives(self, expected: Tensor, features: Features, **kwargs: Any) -> bool:
        try:
            got = self._without_lower(features, **kwargs)["sentence_embedding"]
        except _NOT_LEFT_OUT:
            return False
        return got.shape == expected.shape and bool(
            torch.allclose(expected, got, rtol=1e-2, atol=1e-4)
        )


class _HiddenStates:
    """Float32 arrays (length, width) by key, in a file that no kill leaves behind."""

    def __init__(self) -> None:
        # without a name, and unbuffered: a full disk is told when it is written to
        self.file = tempfile.TemporaryFile(buffering=0)
        self.places: dict[bytes, tuple[int, tuple[int, ...]]] = {}
        self.size = 0
        self.mapped: np.memmap | None = None

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    def add(self, key: bytes, states: Floats) -> None:
        rest = np.ascontiguousarray(states, dtype=np.float32).data.cast("B")
        while rest:  # as much as there was room for is written before an error
            rest = rest[self.file.write(rest) :]
        self.places[key] = (self.size, states.shape)
        self.size += states.size
        self.mapped = None

    def padded(self, keys: list[bytes], width: int) -> Tensor:
        """Tensor (len(keys), width, …) of some arrays, with zeros after each."""
        if self.mapped is None:
            self.mapped = np.memmap(self.file, np.float32, mode="r")
        _, (_, dim) = self.places[keys[0]]
        out = torch.zeros(len(keys), width, dim, device="cpu")
        for i, key in enumerate(keys):
            start, (length, dim) = self.places[key]
            states = self.mapped[start : start + length * dim].reshape(length, dim)
            out[i, :length] = torch.from_numpy(np.array(states))
        return out
