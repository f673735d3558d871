"""The trainer of a `CorpusFinetuner`: every step size in question is tried."""

from typing import Any, Protocol, TypeAlias

import numpy as np

from skembft._corpus.gammas import score_gammas
from skembft._corpus.nudge import Moves, find_moves
from skembft._data.encoded import EncodedData, Folds
from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.trainer import Trainer
from skembft._utils.types import (
    Floats,
    Ints,
    Items,
    Metrics,
    OwnDocuments,
    Similarity,
    Vectors,
)
from skembft._utils.vectors import to_array, unit_rows

# how far documents may move at most: the same lengths, up to 0.7, in both units
_GAMMAS = {
    "nudge_n": [round(0.02 * i, 2) for i in range(1, 25)],  # |Δ|², as nudge-ft has it
    "nudge_m": [round(0.02 * i, 2) for i in range(1, 36)],  # |Δ|
}


# The p-value below which documents are moved: where they are not, nothing is lost, and
# an index stays as it is; see "How far documents move" in docs/benchmarks.md.
_LEVEL = 0.1

_Prepared: TypeAlias = EncodedData | Folds


class _Settings(Protocol):
    method: str
    gamma: float | None
    exclude_self: OwnDocuments


class CorpusTrainer(Trainer[_Prepared, float]):
    """Moves the documents of a `CorpusFinetuner`, by every gamma in question.

    A state is a gamma; where documents go is known before any is tried. With `Folds`
    they go elsewhere for every part of the queries: where the others ask them to.
    """

    # the closed form sees the data once, and each gamma is tried
    epochs, patience = 1, None

    settings: _Settings
    documents: Items
    dim: int
    moves: list[Moves]  # of every fold
    gamma: float  # the present one
    # of every gamma, once they have been asked for
    _scores: dict[float, dict[str, Floats]] | None

    def __init__(
        self, estimator: _Settings, encoder: Any, rng: np.random.RandomState
    ) -> None:
        super().__init__(estimator, rng)
        self.encoder = encoder
        given = estimator.gamma
        self.gammas = _GAMMAS[estimator.method] if given is None else [float(given)]

    def prepare(self, data: RetrievalData) -> EncodedData:
        """Encode the distinct queries and documents, as float32 unit vectors."""
        encoded = EncodedData.of(data, self.encoder)
        queries, documents = (
            unit_vectors(encoded.queries),
            unit_vectors(encoded.documents),
        )
        return EncodedData(data, queries, documents)

    def train(self, prepared: _Prepared, monitor: Monitor, epochs: float) -> float:
        """Try every gamma; return the one that the monitor chose."""
        parts = prepared.train if isinstance(prepared, Folds) else [prepared]
        self.documents, self.dim = parts[0].data.documents, parts[0].queries.shape[1]
        self.moves = [
            find_moves(
                part.queries,
                part.documents,
                part.data.judged.positive,
                self.settings.method,
                part.data.weights,
            )
            for part in parts
        ]
        self.gamma, self._scores = 0.0, None
        monitor.start(gamma=0.0)
        self.tasks.begin()
        for step, gamma in enumerate(self.gammas, start=1):
            self.gamma = gamma
            monitor.update(step, 1.0, None, gamma=gamma)
        if self.gammas:  # otherwise none could be chosen, which has been told
            monitor.finish(monitor.chance.p_value < _LEVEL)
        self.gammas = [monitor.best_state]  # of a refit
        self.tasks.end()
        return monitor.best_state

    def scores(self, validation: _Prepared, metrics: Metrics) -> dict[str, Floats]:
        """Metrics at the present gamma; all of them are computed together, once."""
        if self._scores is None:
            gammas = [0.0, *self.gammas]
            if isinstance(validation, Folds):
                parts = [
                    self._score_all(moves, gammas, part, metrics)
                    for moves, part in zip(self.moves, validation.held_out, strict=True)
                ]
                scores = [
                    validation.gather(list(some)) for some in zip(*parts, strict=True)
                ]
            else:
                scores = self._score_all(self.moves[0], gammas, validation, metrics)
            self._scores = dict(zip(gammas, scores, strict=True))
        return self._scores[self.gamma]

    def _score_all(
        self, moves: Moves, gammas: list[float], held_out: EncodedData, metrics: Metrics
    ) -> list[dict[str, Floats]]:
        """Metrics of every held-out query at every gamma."""
        names = [self.documents[i] for i in moves.index]
        place = positions(names, held_out.data.documents)
        # in the order of the held-out data, so that their ranks need less sorting
        rows = np.argsort(place)[np.count_nonzero(place < 0) :]
        return score_gammas(
            moves.take(rows, place[rows]),
            gammas,
            held_out.queries,
            held_out.documents,
            held_out.data.judged,
            metrics,
            exclude=held_out.data.excluded(self.settings.exclude_self, some=True),
        )

    def snapshot(self) -> float:
        return self.gamma

    def attributes(self, state: float | None = None) -> dict[str, Any]:
        """The fitted attributes at a gamma, by default the present one.

        Of several folds, those of the first.
        """
        gamma, moves = self.gamma if state is None else state, self.moves[0]
        index = moves.index if gamma > 0 else moves.index[:0]
        vectors = moves.vectors(gamma)[: len(index)]
        return {
            "moved_documents_": [self.documents[i] for i in index],
            "moved_vectors_": vectors,
            "gamma_": gamma,
            "similarity_": similarity_of(self.settings.method),
            "embedding_dim_": self.dim,
            "encoder_": self.encoder,
            "_encoder_checked": True,
        }


def similarity_of(method: str) -> Similarity:
    """What vectors that a method has moved rank by."""
    return "dot" if method == "nudge_m" else "cosine"


def positions(items: Items, among: Items) -> Ints:
    """Index of every item in the list `among`, or -1."""
    place = {item: i for i, item in enumerate(among)}
    return np.fromiter((place.get(item, -1) for item in items), np.int64, len(items))


def unit_vectors(vectors: Any) -> Vectors:
    """Return float32 rows of unit length; those that are so already are kept as is."""
    vectors = to_array(vectors, "The vectors of the encoder")
    with np.errstate(over="ignore"):  # infinity is no length to keep
        out = np.asarray(vectors, dtype=np.float32)
        squares = np.einsum("ij,ij->i", out, out)
    others = np.flatnonzero(~(np.abs(squares - 1) <= 2e-6))
    if len(others):
        out = out.copy() if out is vectors else out
        out[others] = unit_rows(vectors[others])
    return out
