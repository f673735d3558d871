"""Training of adapters on cached embeddings. Imports torch: import it lazily."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from skembft._adapter.losses import MAX_CANDIDATES
from skembft._adapter.params import Weights
from skembft._adapter.training import AdapterTraining
from skembft._data.encoded import EncodedData, Folds
from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.trainer import GradientTrainer, Settings
from skembft._losses.table import LOSSES
from skembft._models.devices import default_cpu
from skembft._models.random_state import isolated_rng
from skembft._utils.types import Floats, Metrics, Split, Vectors

# what "auto" chooses among, the first of equals
_CHOICES = ("random", "batch", "corpus")
# more queries than that are not trained on several times over
_MOST_COMPARED = 20_000

# what n_iter_no_change="auto" is without folds, and at least with them, where every
# query is asked and a better evaluation is less often luck
_PATIENCE, _PATIENCE_OF_FOLDS = 20, 3
# but not in fewer steps, as an epoch of few queries is a step or two that change little
_STEPS_OF_FOLDS = 15

_Prepared: TypeAlias = EncodedData | Folds
_State: TypeAlias = list[Weights]


class AdapterTrainer(GradientTrainer[_Prepared, _State]):
    """Trains the adapter of an `AdapterFinetuner` on the vectors of its encoder.

    With `Folds` it trains as many adapters side by side, an epoch at a time, each of
    which is evaluated by the queries that it has not seen. A state has the weights of
    each.

    A warm start goes on from fitted weights, the second of `starts`; where a fit holds
    out queries and trains on all of them again afterwards, it goes on from the first
    before that, which have not seen those that may be held out.
    """

    adapters: list[AdapterTraining]
    steps_per_epoch = 1

    def __init__(
        self,
        estimator: Settings,
        encoder: Any,
        rng: np.random.RandomState,
        starts: tuple[Weights, Weights] | None = None,
    ) -> None:
        super().__init__(estimator, rng)
        self.loss_name: str = estimator._find_loss()
        self.encoder = encoder
        self.starts = starts
        self.negatives: str = estimator.negatives  # "auto" until they are chosen
        self.runs = len(_CHOICES) if self.negatives == "auto" else 1

    @property
    def start(self) -> Weights | None:
        """The weights to go on from, or None."""
        if self.starts is None:
            return None
        again = self.holds_out and self.settings.refit and not self.tasks.refitting
        return self.starts[0 if again else 1]

    @property
    def patience(self) -> int | None:
        wanted = self.settings.n_iter_no_change
        if wanted == "auto":
            steps = math.ceil(_STEPS_OF_FOLDS / self.steps_per_epoch)
            return max(_PATIENCE_OF_FOLDS, steps) if self.in_folds else _PATIENCE
        return wanted

    def split(self, prepared: Any, splits: list[Split]) -> tuple[Any, Any]:
        fewest = min(len(train) for train, _ in splits)
        self.steps_per_epoch = math.ceil(fewest / self.settings.batch_size)
        return super().split(prepared, splits)

    @default_cpu()
    def unchanged(self, state: _State, prepared: _Prepared) -> _State:
        if self.starts is not None:
            return [self.starts[1]]
        if self.settings.adapter != "linear":
            return state
        assert isinstance(prepared, EncodedData)
        adapter = self._make(prepared, self.rng, 0)  # may project on directions of it
        adapter.make_layers(None)
        return [adapter.snapshot()]

    def prepare(self, data: RetrievalData) -> EncodedData:
        """Encode the distinct queries and documents."""
        return EncodedData.of(data, self.encoder)

    @default_cpu()
    def train(self, prepared: _Prepared, monitor: Monitor, epochs: float) -> _State:
        """Train from the start; return the state that the monitor chose."""
        parts = prepared.train if isinstance(prepared, Folds) else [prepared]
        choices = self._choices([part.data for part in parts], monitor)
        seeds = self.rng.randint(2**31 - 1, size=len(parts))
        for self.negatives in choices:
            if monitor.best_score == 1:  # there is nothing left to win
                break
            if len(choices) > 1:
                monitor.begin_run(negatives=self.negatives)
            adapters = [
                self._make(encoded, np.random.RandomState(seed), epochs)
                for encoded, seed in zip(parts, seeds, strict=True)
            ]
            self._train_once(adapters, monitor)
        self.negatives = monitor.best_settings.get("negatives", choices[0])
        return self.conclude(monitor)

    def _make(
        self, encoded: EncodedData, rng: np.random.RandomState, epochs: float
    ) -> AdapterTraining:
        return AdapterTraining(
            self.settings, self.loss_name, encoded, self.negatives, rng, epochs
        )

    def _choices(self, parts: list[RetrievalData], monitor: Monitor) -> list[str]:
        """The negatives to compare; a single one where there is nothing to choose."""
        if self.negatives != "auto":
            return [self.negatives]
        choices = list(_CHOICES)
        if (
            LOSSES[self.loss_name].needs != "positives"
            or self.settings.solver == "closed_form"
            or monitor.validate is None
            or parts[0].n_queries > _MOST_COMPARED
        ):
            choices = choices[:1]
        elif self.settings.batch_size == 1:
            choices.remove("batch")
        pool = max(len(part.pool) for part in parts)
        if pool > MAX_CANDIDATES and "corpus" in choices:
            choices.remove("corpus")  # it is not "corpus" any more, and dear
        return choices

    def _train_once(self, adapters: list[AdapterTraining], monitor: Monitor) -> None:
        """Train from the start to the end, or until the monitor stops it."""
        self.adapters = adapters
        custom = isinstance(self.settings.adapter, type)
        # a module of the user's may draw from torch's global random state
        with isolated_rng() if custom else nullcontext(), torch.enable_grad():
            untrained = not any((self.start or {}).values())
            starts_elsewhere = custom and untrained  # not at the identity
            if starts_elsewhere and not monitor.history:
                monitor.start()
            for adapter in adapters:
                if custom:
                    torch.manual_seed(adapter.rng.randint(2**31 - 1))
                adapter.make_layers(self.start)
            self.begin()
            if not monitor.history:
                monitor.start()
            if self.settings.solver == "closed_form":
                self.tasks.begin()
                losses = [adapter.solve() for adapter in adapters]
                monitor.update(1, 1.0, np.mean(losses))
                self.tasks.end()
            else:
                self._descend(monitor)

    def _descend(self, monitor: Monitor) -> None:
        adapters, first = self.adapters, self.adapters[0]
        for adapter in adapters:
            adapter.begin_descent()
        for epoch in range(math.ceil(first.epochs)):
            evaluated = (epoch + 1) % monitor.apart == 0
            self.tasks.begin()
            stop = False
            # all adapters train to where an evaluation is due
            epochs = [adapter.epoch(epoch, evaluated) for adapter in adapters]
            for (step, at), *_ in zip(*epochs, strict=True):
                stop = monitor.update(step, at, self._take_loss())
                if stop:
                    break
            if self.tasks.end():
                stop = True
                if any(adapter.losses for adapter in adapters):
                    monitor.update(first.step, epoch + 1, self._take_loss())
            if stop:
                break

    def _take_loss(self) -> np.floating:
        """The mean loss since the last evaluation."""
        losses = [loss for adapter in self.adapters for loss in adapter.losses]
        for adapter in self.adapters:
            adapter.losses = []
        return np.mean(losses)

    # ---- what the monitor and the estimator ask for

    def trained(self) -> Iterator[Tensor]:
        for adapter in self.adapters:
            yield from adapter.trained()

    def scores(self, prepared: _Prepared, metrics: Metrics) -> dict[str, Floats]:
        if not isinstance(prepared, Folds):
            return super().scores(prepared, metrics)
        return prepared.gather(
            [
                self.ranked(part.data, *adapter.vectors(part), metrics)
                for adapter, part in zip(self.adapters, prepared.held_out, strict=True)
            ]
        )

    def vectors(self, prepared: _Prepared) -> tuple[Vectors, Vectors]:
        assert isinstance(prepared, EncodedData)
        return self.adapters[0].vectors(prepared)

    def snapshot(self) -> _State:
        """Copies of the layers' arrays; {} where the vectors are untouched."""
        return [adapter.snapshot() for adapter in self.adapters]

    def load(self, state: _State) -> None:
        for adapter, weights in zip(self.adapters, state, strict=True):
            adapter.load(weights)

    def blend(self, state: _State, share: float) -> _State:
        return [
            adapter.blend(weights, share)
            for adapter, weights in zip(self.adapters, state, strict=True)
        ]

    def growth(self) -> float | None:
        # the closed form takes no steps that could diverge
        return None if self.settings.solver == "closed_form" else super().growth()

    def attributes(self, state: _State | None = None) -> dict[str, Any]:
        """Of several adapters, those of the first."""
        adapter = self.adapters[0]
        weights = adapter.snapshot() if state is None else state[0]
        return {
            "weights_": weights,
            "embedding_dim_": adapter.output_dim(weights),
            "encoder_": self.encoder,
            "_encoder_checked": True,
            "negatives_": self.negatives,
            "interpolation_": self.share,
            "_adapter_spec": self.settings._spec(),
        }
