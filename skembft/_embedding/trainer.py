"""Training of whole models by Sentence Transformers' trainer. Import it lazily."""

import math
import tempfile
import warnings
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss
from sentence_transformers.sentence_transformer.modules import Router
from torch import Tensor, nn
from transformers import PrinterCallback

from skembft._data.encoded import EncodedData
from skembft._data.retrieval_data import RetrievalData
from skembft._embedding.batches import Plan, may_conflict, plan_epochs
from skembft._embedding.checkpoints import Phase, Run
from skembft._embedding.examples import Examples
from skembft._embedding.fixed_documents import DocumentEncoder, FixedDocuments
from skembft._embedding.hf_trainer import (
    FinetuningArguments,
    FinetuningTrainer,
    Watch,
)
from skembft._embedding.losses import build
from skembft._embedding.processes import Processes
from skembft._embedding.speed.dropout import fast_dropout
from skembft._embedding.speed.forward import length_sorted
from skembft._embedding.speed.lower_layers import lower_layers_once
from skembft._embedding.speed.table_gradients import gradients_in_place
from skembft._embedding.trainable import (
    LayerStack,
    choose_weights,
    layer_rates,
    trained_state,
)
from skembft._embedding.trainer_params import make_callbacks, trainer_arguments
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.trainer import GradientTrainer, Settings
from skembft._losses.table import LOSSES
from skembft._models.devices import current, default_cpu
from skembft._models.encoding import encode
from skembft._models.loading import dimension_of, similarity_of_model
from skembft._models.precision import resolve_precision
from skembft._models.prompts import choose_prompt
from skembft._models.random_state import seeded_rng
from skembft._models.routes import join_routes, route_of
from skembft._utils.types import Ints, Items, Path, Role, Vectors
from skembft.encoders._sentence import StoreKey
from skembft.mining._candidates import with_mined_negatives

State: TypeAlias = dict[str, Tensor]  # of the model


@dataclass(frozen=True)
class TextData:
    """Texts are encoded anew by the changing model, but for documents that stay."""

    data: RetrievalData
    documents: Vectors | None = None

    def subset(self, queries: Ints) -> "TextData":
        return replace(self, data=self.data.subset(queries))


class ModelTrainer(GradientTrainer[TextData, State]):
    """Trains the model of an `EmbeddingFinetuner`.

    A text that passes through it costs as much as thousands of products of vectors.

    Parameters
    ----------
    estimator : EmbeddingFinetuner
    model : SentenceTransformer
        Which of its weights are trained is marked here.
    rng : RandomState
    seed : int
        Of the trainer.
    processes : Processes
    run : Run or None
        Where checkpoints go.
    document_key : StoreKey or None
        Of the vectors of documents, where these keep the untouched model's.
    """

    base_state: State  # from which training began
    text_cost = 2_000  # of a small model; of a larger one more in both costs
    pair_cost = 2 * 3 * text_cost  # two texts, forward and backward

    def __init__(
        self,
        estimator: Settings,
        model: SentenceTransformer,
        rng: np.random.RandomState,
        seed: int,
        processes: Processes,
        run: Run | None = None,
        document_key: StoreKey | None = None,
    ) -> None:
        super().__init__(estimator, rng)
        self.documents = None
        if document_key is not None:
            untouched = route_of(deepcopy(model), "document").requires_grad_(False)
            self.documents = DocumentEncoder(
                untouched, document_key, estimator.encode_batch_tokens
            )
            model = route_of(model, "query")
            self.pair_cost //= 2  # of the query alone
        self.model = model
        self.similarity = similarity_of_model(model)
        own: dict[str, Any] = model.prompts  # none is None, whatever its type says
        self.prompts = {
            "query": choose_prompt(own, estimator.query_prompt, "query"),
            "document": choose_prompt(own, estimator.document_prompt, "document"),
        }
        self.seed = seed
        self.processes = processes
        self.run = run
        model.prompts = {**model.prompts, **self.prompts}
        self.whole = model  # what is kept
        if self.documents is not None:
            self.whole = join_routes(model, self.documents.model)
        with seeded_rng(seed):
            choose_weights(model, estimator.trainable, estimator.trainable_params)
        self.untouched = self.snapshot() if estimator.refit else None

    @property
    def epochs(self) -> float:
        counts_steps = (self.settings.trainer_params or {}).get("max_steps", -1) > 0
        return math.inf if counts_steps else super().epochs

    def prepare(self, data: RetrievalData) -> TextData:
        if self.documents is None:
            return TextData(data)
        share = self.processes.map_rows
        return TextData(data, share(self.documents.vectors, data.documents))

    @default_cpu()
    def train(self, texts: TextData, monitor: Monitor, epochs: float) -> State:
        """Train from the untouched weights; return the state the monitor chose."""
        settings = self.settings
        if self.untouched is not None:
            self.load(self.untouched)
        self.begin()
        with seeded_rng(self.seed), torch.enable_grad(), ExitStack() as stack:
            stack.enter_context(current(self.model.device))
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            stack.callback(
                leave_as_it_was, self.model, settings.activation_checkpointing
            )
            if settings.negatives == "hard":
                texts = self._with_mined_negatives(texts)
            loss, examples = self._make_loss(texts)
            phase = self._phase()
            trainer = self._make_trainer(
                loss, examples, directory if phase is None else phase.directory
            )
            trainer.phase = phase
            trainer.watch = Watch(self, monitor, trainer, epochs)
            trainer.add_callback(trainer.watch)
            self._enter_layers(stack, trainer.args.bf16)
            if not isinstance(loss, AdaptiveLayerLoss):  # it reads every layer
                self._enter_forward(stack, examples)
            resume = self.run is not None and self.run.resume
            checkpoint = None
            if phase and resume:  # one looks, as looking deletes incomplete ones
                checkpoint = self.processes.first(phase.newest)
            if monitor.validate is not None or settings.interpolation is not None:
                self.base_state = self.untouched or self.snapshot()
                monitor.base_state = self.base_state
            if checkpoint is None:
                monitor.start()
                trainer.train()
            else:
                trainer.resume(checkpoint)
        self.model.eval()
        return self.conclude(monitor)

    def _make_loss(self, texts: TextData) -> tuple[nn.Module, Examples]:
        settings, model, data = self.settings, self.model, texts.data
        if texts.documents is None:
            loss, spec = build(settings, model, data)
            return loss, Examples.of(data, spec, settings, self.rng, model)
        spec = LOSSES[settings._find_loss()]
        examples = Examples.of(data, spec, settings, self.rng, model)
        fixed = FixedDocuments(settings, model, data, examples, texts.documents)
        return fixed, examples

    def _make_trainer(
        self, loss: nn.Module, examples: Examples, directory: Path
    ) -> FinetuningTrainer:
        settings = self.settings
        callbacks = make_callbacks(settings.trainer_params)
        trainer = FinetuningTrainer(
            model=self.model,
            args=self._arguments(directory, examples),
            train_dataset=examples.dataset(),
            loss=loss,
            callbacks=callbacks,
        )
        for callback in [*trainer.callback_handler.callbacks]:
            if isinstance(callback, PrinterCallback) and callback not in callbacks:
                trainer.remove_callback(callback)
        trainer.processes = self.processes
        most = trainer.args.max_steps
        if most > 0:
            _, steps = self._plan(examples, 1)  # and no fewer in more epochs
            plan, steps = self._plan(examples, math.ceil(most / steps))
        else:
            plan, steps = self._plan(examples, settings.epochs)
            most = steps * settings.epochs
        self._check_full(examples, plan)
        trainer.plan, trainer.steps_per_epoch, trainer.most_steps = plan, steps, most
        # the trainer would round its own ratio up
        trainer.args.warmup_steps = int(most * settings.warmup_ratio)
        return trainer

    def _with_mined_negatives(self, texts: TextData) -> TextData:
        encoded = EncodedData(texts.data, *self.vectors(texts))
        return replace(texts, data=with_mined_negatives(encoded).data)

    def _phase(self) -> Phase | None:
        if self.run is None:
            return None
        return self.run.phase("refit" if self.tasks.refitting else "fit")

    def _plan(self, examples: Examples, n_epochs: int) -> tuple[Plan | None, int]:
        """The batches of all epochs, or None for the trainer's own random ones.

        With the number of optimizer steps of an epoch.
        """
        settings = self.settings
        plan = None
        n_batches = math.ceil(len(examples) / settings.batch_size)
        weighted = examples.weights is not None
        conflict = examples.in_batch and (weighted or may_conflict(examples))
        if conflict or weighted or self.processes.count > 1:
            plan = plan_epochs(
                examples,
                settings.batch_size,
                n_epochs,
                self.seed,
                apart=conflict,
                multiple_of=self.processes.count,
            )
            n_batches = len(plan[0])
        return plan, math.ceil(n_batches / settings.gradient_accumulation_steps)

    def _check_full(self, examples: Examples, plan: Plan | None) -> None:
        """Warn where batches are less than half full."""
        settings = self.settings
        if plan is None:
            return
        average = len(examples) / len(plan[0])
        if 2 * average < min(settings.batch_size, len(examples)):
            warnings.warn(
                "Documents, or relevant ones of a query, repeat so often that batches "
                f"hold {average:.3g} pairs on average instead of {settings.batch_size} "
                "(none may be the negative of a query that it answers). A smaller "
                "batch_size says what happens; negatives='random' or 'hard' give every "
                "pair a negative of its own.",
                UserWarning,
                stacklevel=5,
            )

    def _enter_layers(self, stack: ExitStack, bf16: bool) -> None:
        """What layers compute in other ways than PyTorch, where these are faster."""
        settings = self.settings
        if self.model.device.type != "cpu" or settings.torch_compile:
            return
        if self.processes.count == 1:
            stack.enter_context(gradients_in_place(self.model))
        if bf16 and not settings.activation_checkpointing:
            stack.enter_context(fast_dropout(self.model))

    def _enter_forward(self, stack: ExitStack, examples: Examples) -> None:
        settings = self.settings
        if isinstance(settings.trainable, Integral):
            layers = LayerStack.of(self.model, "trainable")
            n_top = int(settings.trainable)
            if n_top < len(layers.layers):
                stack.enter_context(lower_layers_once(self.model, layers, n_top))
                # now, so that no rounding depends on where training was resumed
                for role, texts in examples.distinct_texts():
                    self.encode(texts, role)
        if settings.sort_by_length and not settings.torch_compile:
            stack.enter_context(length_sorted(self.model))

    def _arguments(self, directory: Path, examples: Examples) -> FinetuningArguments:
        settings = self.settings
        device = self.model.device
        prompts = {
            column: self.prompts[role]
            for column, role in zip(examples.columns, examples.roles, strict=True)
        }
        routes: dict[str, str] = {}
        if any(isinstance(module, Router) for module in self.model):
            routes = dict(zip(examples.columns, examples.roles, strict=True))
        rates = {}
        if settings.layer_decay is not None:
            rates = layer_rates(
                self.model, settings.learning_rate, settings.layer_decay
            )
        return trainer_arguments(
            settings.trainer_params,
            output_dir=str(directory),
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            learning_rate_mapping=rates,
            weight_decay=settings.weight_decay,
            seed=self.seed,
            prompts=prompts if any(prompts.values()) else None,
            router_mapping=routes,
            use_cpu=device.type == "cpu",
            model_device=str(device) if self.processes.count == 1 else "",
            bf16=resolve_precision(settings.precision, device) == "bf16",
            activation_checkpointing=settings.activation_checkpointing,
            torch_compile=settings.torch_compile,
            # said aloud otherwise; batches of several processes are planned
            dataloader_drop_last=self.processes.count > 1,
            save_strategy="steps" if settings.save_checkpoints else "no",
            save_steps=settings.checkpoint_save_steps,
        )

    def vectors(self, texts: TextData) -> tuple[Vectors, Vectors]:
        """Vectors of the distinct queries and documents by the model as it is."""
        data, share = texts.data, self.processes.map_rows
        queries = share(partial(self.encode, role="query"), data.queries)
        if texts.documents is not None:
            return queries, texts.documents
        return queries, share(partial(self.encode, role="document"), data.documents)

    def encode(self, texts: Items, role: Role) -> Vectors:
        return encode(
            self.model,
            list(texts),
            role=role,
            prompt=self.prompts[role],
            normalize=self.settings.normalize,
            precision=self.settings.precision,
            batch_tokens=self.settings.encode_batch_tokens,
        )

    def evaluation_cost(self, n_queries: int, n_documents: int) -> int:
        n_texts = n_queries
        if self.documents is None:
            n_texts += n_documents
        return n_texts * self.text_cost + super().evaluation_cost(
            n_queries, n_documents
        )

    def snapshot(self) -> State:
        state = trained_state(self.model)
        return {name: t.detach().cpu().clone() for name, t in state.items()}

    def load(self, state: State) -> None:
        self.model.load_state_dict(state, strict=False)  # the others are as they were

    def blend(self, state: State, share: float) -> State:
        blended = {
            name: torch.lerp(self.base_state[name], tensor, share)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in state.items()
        }
        for name in state:  # of LoRA's product, B is 0 at first: the line is B's alone
            partner = name.replace(".lora_A.", ".lora_B.")
            if partner != name and not self.base_state[partner].any():
                blended[name] = state[name]
        return blended

    def trained(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def attributes(self, state: State | None = None) -> dict[str, Any]:
        if state is not None:
            self.load(state)
        return {
            "model_": self.whole,
            "embedding_dim_": dimension_of(self.model),
            "interpolation_": self.share,
            "_document_key": self.documents and self.documents.key,
        }


def leave_as_it_was(model: SentenceTransformer, checkpointed: bool) -> None:
    """Take back what the trainer and accelerate leave in a model."""
    for name in ("forward", "_original_forward"):  # of autocast
        model.__dict__.pop(name, None)
    transformer = getattr(model, "transformers_model", None)
    if checkpointed and transformer is not None:
        name = "activation_checkpointing_disable"  # since transformers 5.23
        if not hasattr(transformer, name):
            name = "gradient_checkpointing_disable"
        getattr(transformer, name)()
        transformer.disable_input_require_grads()
