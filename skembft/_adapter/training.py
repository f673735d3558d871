"""One training of an adapter. Imports torch: import it lazily."""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skembft._adapter.layers import CustomLayer, Linear, LowRank, ResidualMLP
from skembft._adapter.losses import make_loss
from skembft._adapter.params import Arrays, Weights, input_dim
from skembft._data.encoded import EncodedData
from skembft._data.retrieval_data import RetrievalData
from skembft._data.weights import draw_by_weight
from skembft._finetuner.trainer import Settings
from skembft._losses.table import LOSSES
from skembft._losses.unit_rows import UnitRows, unit_tensor
from skembft._models.devices import default_cpu
from skembft._models.random_state import isolated_rng
from skembft._utils.types import Ints, Params, Role, Vectors
from skembft._utils.vectors import in_portions
from skembft.mining._candidates import with_mined_negatives

_Module: TypeAlias = Linear | LowRank | ResidualMLP | CustomLayer
_Batch: TypeAlias = tuple[np.ndarray, ...]


class AdapterTraining:
    """An adapter that is trained on some data, from the start to the end.

    Parameters
    ----------
    settings : AdapterFinetuner
    loss_name : str
    encoded : EncodedData
        What is trained on.
    negatives : str
    rng : RandomState
    epochs : float
        The most epochs.
    """

    optimizer: torch.optim.Optimizer
    base_state: Weights  # from which training began
    rate: float
    warmup: int  # steps
    compute_loss: Callable[..., Tensor]

    def __init__(
        self,
        settings: Settings,
        loss_name: str,
        encoded: EncodedData,
        negatives: str,
        rng: np.random.RandomState,
        epochs: float,
    ) -> None:
        self.settings = settings
        self.loss_name = loss_name
        self.negatives = negatives
        self.rng = rng
        self.epochs = epochs
        self.encoded = encoded
        self.dim = encoded.queries.shape[1]
        self.layers: dict[Role, _Module | None] = {"query": None, "document": None}
        self.step, self.losses = 0, list[float]()

    def _mines(self, data: RetrievalData) -> bool:
        needs = LOSSES[self.loss_name].needs
        uses_negatives = needs in ("positives", "triplets") or (
            needs == "labels" and not data.labelled
        )
        return self.negatives == "hard" and uses_negatives

    # ---- layers

    def make_layers(self, start: Weights | None) -> None:
        """Make the layers, with the weights of `start` if there is one."""
        settings = self.settings
        query, document = self._layer(), None
        if settings.side == "both":
            document = query
        elif settings.side == "separate":
            document = self._layer()
        self.layers = {"query": query, "document": document}
        self._check_width(start or {})
        for side, layer in self.layers.items():
            if start and start.get(side) and layer is not None:
                layer.load(start[side])
        if isinstance(query, CustomLayer) and document is None:
            if query.output_dim != self.dim:
                raise ValueError(
                    f"adapter={settings.adapter.__name__} makes vectors of "
                    f"{query.output_dim} dimensions, the documents have {self.dim}; "
                    "keep the dimension, or adapt documents too: side='both'."
                )
        self.base_state = self.snapshot()

    def _check_width(self, start: Weights) -> None:
        """Refuse weights that take other vectors; a module of the user's does so."""
        if not isinstance(self.settings.adapter, str):
            return
        for weights in start.values():
            if weights and input_dim(weights) != self.dim:
                raise ValueError(
                    "warm_start=True trains the fitted adapter further, which takes "
                    f"vectors of {input_dim(weights)} dimensions, and these have "
                    f"{self.dim}: fit a clone, or take the encoder of the fit."
                )

    def _layer(self) -> _Module:
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
                start = _principal_directions(self.encoded, output_dim)
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

    def begin_descent(self) -> None:
        """Make what the steps need: negatives, the optimizer, the loss."""
        settings = self.settings
        if self._mines(self.encoded.data):
            self.encoded = with_mined_negatives(self.encoded)
        rate, decay = settings.learning_rate, settings.weight_decay
        self.rate = 0.01 / math.sqrt(self.dim) if rate == "auto" else rate
        decay = math.sqrt(self.dim) / 2 if decay == "auto" else decay
        self.optimizer = torch.optim.AdamW(
            self.trained(), lr=self.rate, weight_decay=decay
        )
        self.compute_loss = make_loss(self, self.encoded)

    def epoch(self, epoch: int, evaluated: bool) -> Iterator[tuple[int, float]]:
        """Train an epoch; yield (step, epoch) where an evaluation is due.

        `evaluated` is whether one is due at the end of it, where `evaluation_steps`
        are not set. One is due at the end of the training, which may be within the
        last epoch.
        """
        settings = self.settings
        batches = self._batches(self.encoded.data)
        if epoch == 0:
            # of the full schedule, whatever share of it a refit trains
            planned = settings.epochs * len(batches)
            self.warmup = int(planned * settings.warmup_ratio)
        left = self.epochs - epoch
        n = max(1, round(min(1, left) * len(batches)))
        every = settings.evaluation_steps
        for place, batch in enumerate(batches[:n], start=1):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * min(1.0, (self.step + 1) / (self.warmup + 1))
            self.losses.append(self._step(batch))
            self.step += 1
            end = place == n
            due = self.step % every == 0 if every else evaluated and end
            if due or (end and left <= 1):
                yield self.step, epoch + place / len(batches)

    def _step(self, batch: _Batch) -> float:
        self._set_training(True)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.compute_loss(*batch)
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

    def solve(self) -> float:
        """Ridge regression from queries to their documents, toward the identity.

        W minimises mean |W q − d|² + λ |W − I|², the mean weighted by grades and
        sample_weight; returns the first term.
        """
        encoded = self.encoded
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
        return loss + float(2 * (delta * (gram - cross)).sum())

    # ---- states

    @default_cpu()
    @torch.no_grad()
    def vectors(self, encoded: EncodedData) -> tuple[Vectors, Vectors]:
        """Vectors of queries and documents by the weights as they are."""
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
        """Take up the arrays of a snapshot."""
        for side, layer in self.layers.items():
            if layer is not None:
                layer.load(state[side])

    def blend(self, state: Weights, share: float) -> Weights:
        """The weights that lie so far on the line from the start to others."""
        blended = {
            side: _between(self.base_state[side], weights, share)
            for side, weights in state.items()
        }
        if state.get("document") is state["query"]:  # one layer for both
            blended["document"] = blended["query"]
        return blended

    def output_dim(self, weights: Weights) -> int:
        """The width of the vectors of queries."""
        layer, query = self.layers["query"], weights["query"]
        if isinstance(layer, CustomLayer):
            return layer.output_dim if query else self.dim
        return len(query["weight"]) if "weight" in query else self.dim


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
