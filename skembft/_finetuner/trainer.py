"""What `fit` asks of whatever trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np

from skembft._data.encoded import Folds
from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.chance import LEVEL
from skembft._finetuner.divergence import largest_weight
from skembft._finetuner.epochs import EpochTasks
from skembft._finetuner.monitor import Monitor
from skembft._utils.types import Floats, Metrics, Similarity, Split, Vectors
from skembft.metrics._scoring import rank

if TYPE_CHECKING:
    from torch import Tensor

# A finetuner, for its parameters. Its class imports what it trains with, which cannot
# import the class; a protocol would say its parameters over again.
Settings: TypeAlias = Any


class Prepared(Protocol):
    """What is trained on."""

    @property
    def data(self) -> RetrievalData: ...


# what interpolation="auto" keeps, by the p-value of the gain that must be smaller: the
# less sure it is, the less
_SHARES = ((0.05, 1.0), (LEVEL, 0.7), (0.5, 0.5))

P = TypeVar("P", bound=Prepared)
S = TypeVar("S")


class Trainer(ABC, Generic[P, S]):
    """Trains for one `fit` of a finetuner, whose `_open` makes it.

    A state is what is trained, at some step: weights, a step size.

    Parameters
    ----------
    estimator : finetuner
        Its parameters are the settings.
    rng : RandomState

    Attributes
    ----------
    tasks : EpochTasks
        Set by `fit`; to be told of every epoch.
    """

    tasks: EpochTasks
    # what training on a pair costs, in products of two vectors
    pair_cost = 2_000
    # how often `train` may train from the start, to compare
    runs = 1
    # whether some queries of the fit are held out, and each once: `split` tells
    holds_out = in_folds = False

    encoder_seed: int | None = None  # of an encoder that learns

    def __init__(self, estimator: Settings, rng: np.random.RandomState) -> None:
        self.settings = estimator
        self.rng = rng

    @property
    def epochs(self) -> float:
        """The most epochs; infinity where only steps are counted."""
        return self.settings.epochs

    @property
    def patience(self) -> int | None:
        """Evaluations without gain after which training stops, or None."""
        return self.settings.n_iter_no_change

    @abstractmethod
    def prepare(self, data: RetrievalData) -> P:
        """Make of `RetrievalData` what is trained on; it has `data`."""

    def split(self, prepared: Any, splits: list[Split]) -> tuple[Any, Any]:
        """What is trained on, and what is held out, of what `prepare` made.

        Of several splits, which only finetuners over a frozen encoder make, both are
        the same `Folds`.
        """
        self.holds_out, self.in_folds = True, len(splits) > 1
        if self.in_folds:
            folds = Folds.of(prepared, splits)
            return folds, folds
        [(train, held_out)] = splits
        return prepared.subset(train), prepared.subset(held_out)

    @abstractmethod
    def train(self, prepared: P, monitor: Monitor, epochs: float) -> S:
        """Train from the untouched state; return the one that the monitor chose."""

    @abstractmethod
    def scores(self, prepared: P, metrics: Metrics) -> dict[str, Floats]:
        """Metrics, {name: value of every query}, of the present state.

        Every query has a relevant document.
        """

    def evaluation_cost(self, n_queries: int, n_documents: int) -> int:
        """What an evaluation costs, in products of two vectors."""
        return n_queries * n_documents

    @abstractmethod
    def snapshot(self) -> S:
        """A copy of the present state."""

    @abstractmethod
    def attributes(self, state: S | None = None) -> dict[str, Any]:
        """The fitted attributes of a state, by default of the present one."""

    def unchanged(self, state: S, prepared: P) -> S:
        """What is kept where `state`, in which training began, has won.

        `prepared` are all data, those held out included.
        """
        return state

    def growth(self) -> float | None:
        """How many times larger the largest weight is than at the start, or than 1.

        None where no weights are trained that could diverge.
        """
        return None


class GradientTrainer(Trainer[P, S]):
    """Trains weights by gradient descent."""

    similarity: Similarity = "cosine"  # by which an evaluation ranks
    largest_at_start = 0.0
    # how far from there to the trained weights what is kept lies
    share = 1.0

    @abstractmethod
    def trained(self) -> Iterable[Tensor]:
        """The torch parameters that are trained, each once."""

    @abstractmethod
    def vectors(self, prepared: P) -> tuple[Vectors, Vectors]:
        """Vectors of the distinct queries and documents by the weights as they are."""

    def scores(self, prepared: P, metrics: Metrics) -> dict[str, Floats]:
        return self.ranked(prepared.data, *self.vectors(prepared), metrics)

    def ranked(
        self,
        data: RetrievalData,
        queries: Vectors,
        documents: Vectors,
        metrics: Metrics,
    ) -> dict[str, Floats]:
        """Metrics, {name: value of every query}, of vectors."""
        return rank(
            queries,
            documents,
            data.relevance,
            metrics,
            similarity=self.similarity,
            exclude=data.excluded(self.settings.exclude_self, some=True),
        ).values

    @abstractmethod
    def load(self, state: S) -> None:
        """Make a state the present one."""

    @abstractmethod
    def blend(self, state: S, share: float) -> S:
        """The state that lies so far on the line from the untouched one to another."""

    def conclude(self, monitor: Monitor) -> S:
        """Return what is kept, which with interpolation is a blend.

        A refit takes the share that was chosen.
        """
        wanted = self.settings.interpolation
        if monitor.validate is not None:
            self.share = _share(monitor.chance.p_value, wanted)
            if monitor.best_step and 0 < self.share < 1:
                self.load(self.blend(monitor.best_state, self.share))
                monitor.consider(interpolation=self.share)
            monitor.finish(self.share > 0)
            if not monitor.best_step:
                self.share = 0.0
            return monitor.best_state
        if not self.tasks.refitting:
            self.share = 1.0 if wanted in (None, "auto") else wanted
        if self.share != 1:
            self.load(self.blend(self.snapshot(), self.share))
        monitor.finish()
        return monitor.best_state

    def begin(self) -> None:
        """Remember the size of the weights that training starts from."""
        self.largest_at_start = largest_weight(self.trained())

    def growth(self) -> float | None:
        return largest_weight(self.trained()) / max(1.0, self.largest_at_start)


def _share(p_value: float, wanted: Any) -> float:
    """How much is kept of what was learnt, by `interpolation`; 0 is nothing."""
    if wanted == "auto":
        shares = (share for level, share in _SHARES if p_value < level)
        return next(shares, 0.0)
    return (wanted or 1.0) if p_value < LEVEL else 0.0
