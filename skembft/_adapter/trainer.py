"""Training of adapters on cached embeddings. Imports torch: import it lazily."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skembft._adapter.layers import CustomLayer, Linear, LowRank, ResidualMLP
from skembft._adapter.losses import MAX_CANDIDATES, make_loss
from skembft._adapter.params import Arrays, Weights
from skembft._data.encoded import EncodedData
from skembft._data.retrieval_data import RetrievalData
from skembft._data.weights import draw_by_weight
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.trainer import GradientTrainer, Settings
from skembft._losses.table import LOSSES
from skembft._losses.unit_rows import UnitRows, unit_tensor
from skembft._models.devices import default_cpu
from skembft._models.random_state import isolated_rng
from skembft._utils.types import Ints, Params, Role, Vectors
from skembft._utils.vectors import in_portions
from skembft.mining._candidates import with_mined_negatives

# what "auto" chooses among, the first of equals
_CHOICES = ("random", "batch", "corpus")
# more queries than that are not trained on several times over
_MOST_COMPARED = 20_000

_Module: TypeAlias = Linear | LowRank | ResidualMLP | CustomLayer
_Batch: TypeAlias = tuple[np.ndarray, ...]


class AdapterTrainer(GradientTrainer[EncodedData, Weights]):
    """Trains the adapter of an `AdapterFinetuner` on the vectors of its encoder.

    A warm start goes on from fitted weights: in `starts` those for the fit with
    validation, which have not seen the queries held out, and those for the refit.
    """

    dim: int  # of the encoder's vectors
    layers: dict[Role, _Module | None]

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
        self.layers = {"query": None, "document": None}
        self.negatives: str = estimator.negatives  # "auto" until they are chosen
        self.runs = len(_CHOICES) if self.negatives == "auto" else 1

    @property
    def start(self) -> Weights | None:
        """The weights to go on from, or None."""
        return self.starts and self.starts[self.tasks.refitting]

    def unchanged(self, state: Weights) -> Weights:
        return state if self.starts is None else self.starts[1]

    def prepare(self, data: RetrievalData) -> EncodedData:
        """Encode the distinct queries and documents."""
        encoded = EncodedData.of(data, self.encoder)
        self.dim = encoded.queries.shape[1]
        return encoded

    @default_cpu()
    def train(self, encoded: EncodedData, monitor: Monitor, epochs: float) -> Weights:
        """Train from the start; return the state that the monitor chose."""
        choices = self._choices(encoded.data, monitor)
        before, after = self.rng.get_state(), {}
        for self.negatives in choices:
            if monitor.best_score == 1:  # there is nothing left to win
                break
            self.rng.set_state(before)  # each as if it were the only one
            if len(choices) > 1:
                monitor.begin_run(negatives=self.negatives)
            self._train_once(encoded, monitor, epochs)
            after[self.negatives] = self.rng.get_state()
        self.negatives = monitor.best_settings.get("negatives", choices[0])
        self.rng.set_state(after[self.negatives])
        return self.conclude(monitor)

    def _choices(self, data: RetrievalData, monitor: Monitor) -> list[str]:
        """The negatives to compare; a single one where there is nothing to choose."""
        if self.negatives != "auto":
            return [self.negatives]
        choices = list(_CHOICES)
        if (
            LOSSES[self.loss_name].needs != "positives"
            or self.settings.solver == "closed_form"
            or monitor.validate is None
            or data.n_queries > _MOST_COMPARED
        ):
            choices = choices[:1]
        elif self.settings.batch_size == 1:
            choices.remove("batch")
        if len(data.pool) > MAX_CANDIDATES and "corpus" in choices:
            choices.remove("corpus")  # it is not "corpus" any more, and dear
        return choices

    def _train_once(
        self, encoded: EncodedData, monitor: Monitor, epochs: float
    ) -> None:
        """Train from the start with the present negatives."""
        if self._mines(encoded.data):
            encoded = with_mined_negatives(encoded)
        custom = isinstance(self.settings.adapter, type)
        # a module of the user's may draw from torch's global random state
        with isolated_rng() if custom else nullcontext():
            if custom:
                torch.manual_seed(self.rng.randint(2**31 - 1))
                self.layers = {"query": None, "document": None}
            starts_elsewhere = custom and not self.start  # not at the identity
            if starts_elsewhere and not monitor.history:
                monitor.start()
            self._make_layers(encoded)
            self.base_state = self.snapshot()
            if not monitor.history:
                monitor.start()
            if self.settings.solver == "closed_form":
                self._solve(encoded, monitor)
            else:
                self._descend(encoded, monitor, epochs)

    def _mines(self, data: RetrievalData) -> bool:
        needs = LOSSES[self.loss_name].needs
        uses_negatives = needs in ("positives", "triplets") or (
            needs == "labels" and not data.labelled
        )
        hard = self.negatives == "hard"
        return hard and uses_negatives and self.settings.solver != "closed_form"

    # ---- layers

    def _make_layers(self, encoded: EncodedData) -> None:
        settings = self.settings
        query, document = self._layer(encoded), None
        if settings.side == "both":
            document = query
        elif settings.side == "separate":
            document = self._layer(encoded)
        self.layers = {"query": query, "document": document}
        for side, layer in self.layers.items():
            if self.start and self.start.get(side) and layer is not None:
                layer.load(self.start[side])
        self.begin()
        if isinstance(query, CustomLayer) and document is None:
            if query.output_dim != self.dim:
                raise ValueError(
                    f"adapter={settings.adapter.__name__} makes vectors of "
                    f"{query.output_dim} dimensions, the documents have {self.dim}; "
                    "keep the dimension, or adapt documents too: side='both'."
                )

    def _layer(self, encoded: EncodedData) -> _Module:
        settings, dim = self.settings, self.dim
        params = dict(settings.adapter_params or {})
        if isinstance(settings.adapter, type):
            return CustomLayer(settings.adapter, params, dim)
        if settings.adapter == "linear":
            start = None
            output_dim = params.get("output_dim") or dim
            if output_dim > dim:
                raise ValueError(
                    f"output_dim={output_dim} is more than the {dim} dimensions of the "
                    "encoder's vectors."
                )
            if output_dim != dim:
                start = _principal_directions(encoded, output_dim)
            return Linear(dim, params.get("bias", False), start)
        generator = torch.Generator().manual_seed(int(self.rng.randint(2**31 - 1)))
        if settings.adapter == "low_rank":
            return LowRank(dim, int(params.get("rank", 32)), generator)
        hidden_dim = params.get("hidden_dim") or 2 * dim
        activation = params.get("activation", "relu")
        return ResidualMLP(dim, hidden_dim, activation, generator)

    def adapt(self, side: Role, vectors: Tensor) -> Tensor:
        """Pass unit vectors through the layer of a side, if it has one."""
        layer = self.layers[side]
        return vectors if layer is None else F.normalize(layer(vectors), dim=1)

    # ---- gradient descent

    def _descend(self, encoded: EncodedData, monitor: Monitor, epochs: float) -> None:
        settings = self.settings
        rate, decay = settings.learning_rate, settings.weight_decay
        rate = 0.01 / math.sqrt(self.dim) if rate == "auto" else rate
        decay = math.sqrt(self.dim) / 2 if decay == "auto" else decay
        self.optimizer = torch.optim.AdamW(self.trained(), lr=rate, weight_decay=decay)
        compute_loss = make_loss(self, encoded)
        step, total = 0, None
        losses: list[float] = []
        for epoch in range(math.ceil(epochs)):
            batches = self._batches(encoded.data)
            if total is None:
                total = max(1, round(epochs * len(batches)))
                # of the full schedule, whatever share of it a refit trains
                planned = settings.epochs * len(batches)
                warmup = int(planned * settings.warmup_ratio)
            evaluated = len(batches) if (epoch + 1) % monitor.apart == 0 else None
            self.tasks.begin()
            stop = False
            for place, batch in enumerate(batches[: total - step], start=1):
                for group in self.optimizer.param_groups:
                    group["lr"] = rate * min(1.0, (step + 1) / (warmup + 1))
                losses.append(self._step(compute_loss, batch))
                step += 1
                every = settings.evaluation_steps
                due = step % every == 0 if every else place == evaluated
                if due or step == total:
                    at = epoch + place / len(batches)
                    stop = monitor.update(step, at, np.mean(losses))
                    losses = []
                    if stop:
                        break
            if self.tasks.end():
                stop = True
                if losses:
                    monitor.update(step, epoch + 1, np.mean(losses))
            if stop or step >= total:
                break
        self._set_training(False)

    def _step(self, compute_loss: Callable[..., Tensor], batch: _Batch) -> float:
        self._set_training(True)
        self.optimizer.zero_grad(set_to_none=True)
        loss = compute_loss(*batch)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _modules(self) -> list[_Module]:
        return [layer for layer in self.layers.values() if layer is not None]

    def trained(self) -> list[Tensor]:
        """The parameters that are trained, each once."""
        parameters = {p for layer in self._modules() for p in layer.parameters()}
        return [p for p in parameters if p.requires_grad]

    def _set_training(self, mode: bool) -> None:
        for layer in self._modules():
            layer.train(mode)

    def _batches(self, data: RetrievalData) -> list[_Batch]:
        """Shuffled batches of examples: index arrays, the query's first.

        A batch holds all examples of its queries, and about equally many queries.
        """
        needs = LOSSES[self.loss_name].needs
        columns = data.examples(needs, self.settings.use_all_docs, self.rng)
        if data.weights is not None:
            weights = data.weights[columns[0]]
            if needs == "positives":  # InfoNCE weighs them itself
                drawn: Ints = np.flatnonzero(weights)
            else:
                drawn = draw_by_weight(weights, self.rng)
            columns = tuple(column[drawn] for column in columns)
        _check_any(columns[0], needs)
        by_query = np.argsort(columns[0], kind="stable")
        _, starts, counts = np.unique(
            columns[0][by_query], return_index=True, return_counts=True
        )
        n_batches = math.ceil(len(starts) / self.settings.batch_size)
        order = self.rng.permutation(len(starts))
        batches = []
        for part in np.array_split(order, n_batches):
            size = counts[part]
            ends = np.cumsum(size)
            within = np.arange(ends[-1]) - np.repeat(ends - size, size)
            rows = by_query[np.repeat(starts[part], size) + within]
            batches.append(tuple(column[rows] for column in columns))
        return batches

    # ---- closed form

    def _solve(self, encoded: EncodedData, monitor: Monitor) -> None:
        """Ridge regression from queries to their documents, toward the identity.

        W minimises mean |W q − d|² + λ |W − I|², the mean weighted by grades and
        sample_weight.
        """
        self.tasks.begin()
        query, document = encoded.data.positive_pairs(
            self.settings.use_all_docs, self.rng
        )
        _check_any(query)
        weights = encoded.data.weights
        share = encoded.data.relevance.grades(query, document[:, None])[:, 0]
        if weights is not None:
            share *= weights[query]
        shares = torch.from_numpy(share / share.sum())[:, None]
        Q, D = UnitRows(encoded.queries), UnitRows(encoded.documents)
        gram = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        cross, loss, first = gram.clone(), 0.0, 0
        for q, d in zip(Q.chunks(query), D.chunks(document), strict=True):
            q, d = q.double(), d.double()
            weighted = q * shares[first : first + len(q)]
            gram += weighted.T @ q
            cross += d.T @ weighted
            loss += float(((q - d) * shares[first : first + len(q)]).mul(q - d).sum())
            first += len(q)
        identity = torch.eye(self.dim, dtype=torch.float64)
        ridge = (self.settings.adapter_params or {}).get("ridge", 0.03) * identity
        weight = torch.linalg.solve(gram + ridge, cross + ridge, left=False)
        delta = weight - identity
        layer = self.layers["query"]
        assert isinstance(layer, Linear)
        with torch.no_grad():
            layer.delta.copy_(delta)
        # |W q − d|² summed, from the moments
        loss += float((delta @ gram * delta).sum())
        loss += float(2 * (delta * (gram - cross)).sum())
        monitor.update(1, 1.0, loss)
        self.tasks.end()

    # ---- what the monitor and the estimator ask for

    @default_cpu()
    @torch.no_grad()
    def vectors(self, encoded: EncodedData) -> tuple[Vectors, Vectors]:
        self._set_training(False)
        return (
            self._adapted("query", encoded.queries),
            self._adapted("document", encoded.documents),
        )

    def _adapted(self, side: Role, vectors: Vectors) -> Vectors:
        if self.layers[side] is None:
            return vectors
        return in_portions(lambda x: self.adapt(side, unit_tensor(x)).numpy(), vectors)

    def snapshot(self) -> Weights:
        """Copies of the layers' arrays; {} where the vectors are untouched."""
        query, document = self.layers["query"], self.layers["document"]
        state = {"query": {} if query is None else query.weights()}
        if self.settings.side == "both":
            state["document"] = state["query"]
        elif self.settings.side == "separate":
            state["document"] = {} if document is None else document.weights()
        return state

    def load(self, state: Weights) -> None:
        for side, layer in self.layers.items():
            if layer is not None:
                layer.load(state[side])

    def blend(self, state: Weights, share: float) -> Weights:
        blended = {
            side: _between(self.base_state[side], weights, share)
            for side, weights in state.items()
        }
        if state.get("document") is state["query"]:  # one layer for both
            blended["document"] = blended["query"]
        return blended

    def growth(self) -> float | None:
        # the closed form takes no steps that could diverge
        return None if self.settings.solver == "closed_form" else super().growth()

    def attributes(self, state: Weights | None = None) -> dict[str, Any]:
        state = self.snapshot() if state is None else state
        return {
            "weights_": state,
            "embedding_dim_": self._output_dim(state["query"]),
            "encoder_": self.encoder,
            "_encoder_checked": True,
            "negatives_": self.negatives,
            "interpolation_": self.share,
            "_adapter_spec": self.settings._spec(),
        }

    def _output_dim(self, weights: Arrays) -> int:
        layer = self.layers["query"]
        if isinstance(layer, CustomLayer):
            return layer.output_dim if weights else self.dim
        return len(weights["weight"]) if "weight" in weights else self.dim


def _between(start: Arrays, end: Arrays, share: float) -> Arrays:
    """The weights of a layer that lie so far on the line from some to others."""
    blended = {
        name: ((1 - share) * start[name] + share * array).astype(array.dtype)
        if array.dtype.kind == "f"  # not a counter of the user's module
        else array
        for name, array in end.items()
    }
    if "weight_2" in start and not start["weight_2"].any():
        # the second layer is 0 at first: the line is that layer's alone
        blended |= {name: end[name] for name in ("weight_1", "bias_1")}
    return blended


def _check_any(examples: np.ndarray, needs: str = "positives") -> None:
    if not len(examples):
        wanted = "two graded documents" if needs == "scores" else "a relevant document"
        raise ValueError(
            "There is nothing to learn: none of the queries that validation_fraction "
            f"leaves for training has {wanted}."
        )


@default_cpu()
def apply_module(
    cls: type, params: Params, weights: Arrays, vectors: Vectors
) -> Vectors:
    """Adapt vectors (n, d) by a user's module with the arrays of its state_dict."""
    with isolated_rng():
        layer = CustomLayer(cls, params, vectors.shape[1]).load(weights).eval()

    def apply(rows: Vectors) -> Vectors:
        return F.normalize(layer(unit_tensor(rows)), dim=1).numpy()

    with torch.no_grad():
        return in_portions(apply, vectors)


def _principal_directions(encoded: EncodedData, output_dim: int) -> Tensor:
    """The uncentred principal directions of the training vectors, (output_dim, d).

    Of all projections they keep the inner products best: where an adapter that changes
    the dimension starts.
    """
    dim = encoded.queries.shape[1]
    gram = torch.zeros(dim, dim, dtype=torch.float64)
    for x in UnitRows(encoded.queries).chunks():
        gram = gram + x.double().T @ x.double()
    for x in UnitRows(encoded.documents).chunks(encoded.data.pool):
        gram = gram + x.double().T @ x.double()
    _, directions = torch.linalg.eigh(gram)  # ascending
    return directions[:, -output_dim:].T.flip(0).float().contiguous()
