"""What `fit` asks of whatever trains."""

from abc import ABC, abstractmethod

from skembft._finetuner.divergence import largest_weight
from skembft.metrics._scoring import score_vectors


class Trainer(ABC):
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

    def __init__(self, estimator, rng):
        self.settings = estimator
        self.rng = rng
        self.tasks = None

    @property
    def epochs(self):
        """The most epochs."""
        return self.settings.epochs

    @property
    def patience(self):
        """Evaluations without gain after which training stops, or None."""
        return self.settings.n_iter_no_change

    @abstractmethod
    def prepare(self, data):
        """Make of `RetrievalData` what is trained on; it has `data` and `subset`."""

    @abstractmethod
    def train(self, prepared, monitor, epochs):
        """Train from the untouched state; return the one that the monitor chose."""

    @abstractmethod
    def scores(self, prepared, metrics):
        """Mean metrics, {name: value}, of the present state."""

    @abstractmethod
    def snapshot(self):
        """A copy of the present state."""

    @abstractmethod
    def attributes(self, state=None):
        """The fitted attributes of a state, by default of the present one."""

    def growth(self):
        """How many times larger the largest weight is than at the start, or than 1.

        None where no weights are trained that could diverge.
        """
        return None


class GradientTrainer(Trainer):
    """Trains weights by gradient descent."""

    largest_at_start = 0.0

    @abstractmethod
    def trained(self):
        """The torch parameters that are trained, each once."""

    @abstractmethod
    def vectors(self, prepared):
        """Vectors of the distinct queries and documents by the weights as they are."""

    def scores(self, prepared, metrics):
        queries, documents = self.vectors(prepared)
        return score_vectors(queries, documents, prepared.data.relevance, metrics)

    def begin(self):
        """Remember the size of the weights that training starts from."""
        self.largest_at_start = largest_weight(self.trained())

    def growth(self):
        return largest_weight(self.trained()) / max(1.0, self.largest_at_start)
