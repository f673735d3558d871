"""Losses of whole models. Imports torch: import it lazily."""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.util import all_gather
from sklearn.utils._param_validation import InvalidParameterError
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.trainer import Settings
from skembft._losses.params import build_loss, class_of
from skembft._losses.table import (
    LOSSES,
    LossSpec,
    check_wrapping,
    find_loss,
    name_of_class,
    wrapped_loss,
)
from skembft._models.loading import (
    ModelOptions,
    dimension_of,
    load_for_training,
    load_shared,
    no_progress_bar,
)
from skembft._models.lora import has_lora
from skembft._utils.types import Params


def build(
    estimator: Settings, model: SentenceTransformer, data: RetrievalData
) -> tuple[Any, LossSpec]:
    """Build the loss of an `EmbeddingFinetuner`.

    Layers of the loss are drawn from torch's global random state.

    Parameters
    ----------
    estimator : EmbeddingFinetuner
    model : SentenceTransformer
        What is trained.
    data : RetrievalData
        What it is trained on.

    Returns
    -------
    loss : Module
        Takes the columns and labels of `Examples`.
    spec : LossSpec
        What it needs; of a wrapper, what the loss that it wraps needs.
    """
    if find_loss(estimator.loss, LOSSES) is None:
        loss = estimator.loss(model)
    else:
        maker = _Maker(estimator, model, data)
        loss = maker.make(estimator.loss, estimator.loss_params)
    loss, spec = _with_columns(loss, model)
    if spec.categories:
        _check_categories(loss, data)
    return loss, spec


def _with_columns(
    loss: Any, model: SentenceTransformer, wrappers: tuple[str, ...] = ()
) -> tuple[Any, LossSpec]:
    """Let a loss, or the one it wraps, take columns; return it and what it needs."""
    name = name_of_class(type(loss), LOSSES)
    if name is None:
        raise ValueError(
            f"loss made a {type(loss).__name__}; what it needs is known only of "
            f"{[spec.class_name for spec in LOSSES.values()]} and their subclasses."
        )
    check_wrapping(name, wrappers)
    spec = LOSSES[name]
    if spec.needs == "loss":
        # a Matryoshka2dLoss holds a MatryoshkaLoss, which holds the loss
        holder = loss.loss if name == "matryoshka2d" else loss
        holder.loss, spec = _with_columns(holder.loss, model, (*wrappers, name))
        return loss, spec
    if is_distributed():
        _share_batch(loss, spec)
    if spec.needs == "classes":
        loss = AllColumns(model, loss)
    elif spec.needs == "targets" and wrappers and model.truncate_dim is not None:
        raise ValueError(
            f"loss={wrappers[-1]!r} around {name!r} does not go with truncate_dim: "
            "train without it, and truncate afterwards."
        )
    return loss, spec


class AllColumns(nn.Module):
    """Gives a loss of single texts and their classes the texts of all columns."""

    def __init__(self, model: SentenceTransformer, loss: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        loss.sentence_embedder = nn.Identity()  # it gets embeddings

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        columns = [self.model(column)["sentence_embedding"] for column in features]
        embeddings = {"sentence_embedding": torch.cat(columns)}
        return self.loss([embeddings], labels.repeat(len(columns)))


class _Maker:
    """Makes losses by name or class, with arguments that model and data decide."""

    def __init__(
        self, estimator: Settings, model: SentenceTransformer, data: RetrievalData
    ) -> None:
        self.estimator = estimator
        self.model = model
        self.data = data

    def make(self, loss: str | type, loss_params: Params | None) -> Any:
        name = find_loss(loss, LOSSES)
        cls, fixed = class_of(loss)
        filled_in = {}
        for argument in inspect.signature(cls).parameters:
            fill_in = getattr(self, f"_{argument}", None)
            if fill_in is not None and argument not in fixed:
                given = (loss_params or {}).get(argument)
                filled_in[argument] = fill_in(given, loss_params)
        context: AbstractContextManager[None] = nullcontext()
        if LOSSES[name].needs == "damaged":
            context = _quiet_decoder(self.model)
        try:
            with context:
                built = build_loss(loss, self.model, loss_params, filled_in)
                if LOSSES[name].needs == "damaged":
                    self._check_decoder(built)
                return built
        except (AssertionError, TypeError, ValueError) as error:
            reason = str(error) or "its first module must be a Transformer"
            raise ValueError(
                f"loss={name!r} cannot be built for this model: {reason}"
            ) from error

    def _check_decoder(self, loss: Any) -> None:
        width = self._embedding_dimension()
        wanted = getattr(loss.decoder.config, "hidden_size", width)
        if width != wanted:
            raise ValueError(
                f"its decoder reads vectors of width {wanted}, those of the model have "
                f"{width}"
            )

    def _loss(self, _: Any, loss_params: Params | None) -> Any:
        return self.make(*wrapped_loss(loss_params))

    def _matryoshka_dims(self, given: Any, _: Params | None) -> Any:
        return given or halved_dims(dimension_of(self.model))

    def _guide(self, given: Any, _: Params | None) -> SentenceTransformer:
        options = ModelOptions.of(self.estimator)
        if given is not None:
            options = ModelOptions(
                given,
                trust_remote_code=options.trust_remote_code,
                device=options.device,
            )
        if options.max_seq_length is not None:  # a shared one has its own length
            return load_for_training(options)[0].eval().requires_grad_(False)
        return load_shared(options).model

    def _embedding_dimension(self, *_: Any) -> int:
        with self.model.truncate_embeddings(None):  # as the loss gets them
            return dimension_of(self.model)

    def _num_labels(self, *_: Any) -> int:
        return _count_labels(self.data)

    def _gather_across_devices(self, given: Any, _: Params | None) -> Any:
        return is_distributed() if given is None else given


def _count_labels(data: RetrievalData) -> int:
    return len(np.unique(data.example_grade)) if data.labelled else 2


def _check_categories(loss: Any, data: RetrievalData) -> None:
    """Raise an error where a callable's loss knows fewer categories than there are."""
    while not hasattr(loss, "num_labels"):  # a wrapper
        loss = loss.loss
    n_labels = _count_labels(data)
    if loss.num_labels < n_labels:
        raise ValueError(
            f"loss has num_labels={loss.num_labels}, but y has {n_labels} different "
            "labels."
        )


def halved_dims(dim: int) -> list[int]:
    """A dimension and its halves, as long as they are at least 64; always one half."""
    dims = [dim]
    while dim > 1 and (len(dims) == 1 or dim // 2 >= 64):
        dim //= 2
        dims.append(dim)
    return dims


# ---- several processes


def is_distributed() -> bool:
    """Whether several processes train together."""
    distributed = torch.distributed
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def _share_batch(loss: Any, spec: LossSpec) -> None:
    """Let a loss see the whole batch, of which each process has a share."""
    if spec.one_process:
        raise InvalidParameterError(
            f"loss={spec.name!r} is trained by one process only: several would train "
            "other models than one. Start the script without torchrun or accelerate, "
            "or use another loss."
        )
    for argument, value in spec.shared_with.items():
        if getattr(loss, argument) != value:
            raise InvalidParameterError(
                f"loss={spec.name!r} has {argument}={getattr(loss, argument)!r}, with "
                "which several processes train another model than one: set it to "
                f"{value!r}, or start the script without torchrun or accelerate."
            )
    if not spec.shared_with:
        _gather(loss)


def _gather(loss: Any) -> None:
    """Give a loss the vectors and labels of all processes, the same in each."""
    if hasattr(loss, "calculate_loss"):  # of the vectors of portions
        of_portions = loss.calculate_loss
        loss.calculate_loss = lambda columns, *args, **options: of_portions(
            [[of_all(torch.cat(portions))] for portions in columns], *args, **options
        )
    else:
        of_vectors = loss.compute_loss_from_embeddings
        loss.compute_loss_from_embeddings = lambda *args: of_vectors(*map(of_all, args))


def of_all(rows: Any) -> Any:
    """The rows of all processes, of a tensor or of each of a list."""
    if isinstance(rows, list):
        return [of_all(column) for column in rows]
    if rows is None:  # labels that a loss does without
        return None
    return all_gather(rows, with_grad=rows.requires_grad)


@contextmanager
def _quiet_decoder(model: SentenceTransformer) -> Iterator[None]:
    """Load a decoder whose weights are tied to a model's, and keep the model's values.

    The library puts the decoder's parameters, as they are on disk and trainable, in
    the place of the model's.
    """
    if not isinstance(model[0], Transformer):
        raise ValueError("its first module must be a Transformer")
    if has_lora(model):
        raise ValueError("its decoder cannot be tied to low-rank weights")
    device = model.device
    before = {n: (p.detach(), p.requires_grad) for n, p in model.named_parameters()}
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # that the decoder's head is new
    try:
        with no_progress_bar():
            yield
    except OSError as error:
        raise OSError(f"The decoder of the loss cannot be loaded: {error}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    with torch.no_grad():
        for name, parameter in model.to(device).named_parameters():
            values, trained = before[name]
            parameter.copy_(values)
            parameter.requires_grad_(trained)
