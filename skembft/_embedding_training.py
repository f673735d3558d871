"""Training of whole models by Sentence Transformers' trainer. Import it lazily."""

import io
import math
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from skembft._data import RetrievalData
from skembft._losses import LOSSES, build_loss, name_of_class
from skembft._models import (
    encode,
    is_available,
    no_progress_bar,
    resolve_precision,
    resolve_prompt,
)
from skembft._rng import isolated_rng


@dataclass(frozen=True)
class TextData:
    """Texts are encoded anew by the changing model: nothing to prepare."""

    data: RetrievalData

    def subset(self, queries):
        return TextData(self.data.subset(queries))


class ModelTrainer:
    """Trains the model of an `EmbeddingFinetuner`."""

    def __init__(self, estimator, model, rng):
        self.settings = estimator
        self.model = model
        self.rng = rng
        seed = estimator.random_state
        is_seed = isinstance(seed, int | np.integer)
        self.seed = int(seed) if is_seed else int(rng.randint(2**31 - 1))
        self.prompts = {
            role: resolve_prompt(model, getattr(estimator, f"{role}_prompt"), role)
            for role in ("query", "document")
        }
        model.prompts = {**model.prompts, **self.prompts}
        self.untouched = self.snapshot() if estimator.refit else None
        self.tasks = None

    prepare = staticmethod(TextData)

    def train(self, texts, monitor, epochs):
        """Train from the untouched weights; return the state the monitor chose."""
        settings = self.settings
        if self.untouched is not None:
            self.model.load_state_dict(self.untouched)
        with isolated_rng(), tempfile.TemporaryDirectory() as directory:
            loss, name = self._build_loss()
            examples = Examples.of(texts.data, LOSSES[name], settings, self.rng)
            n_batches = math.ceil(len(examples) / settings.batch_size)
            trainer = _QuietTrainer(
                model=self.model,
                args=self._arguments(directory, examples, n_batches),
                train_dataset=examples.dataset(),
                loss=examples.guard(loss),
            )
            trainer.remove_callback(PrinterCallback)
            last_step = max(1, round(epochs * n_batches))
            watch = _Watch(self, monitor, settings.evaluation_steps, last_step)
            trainer.add_callback(watch)
            trainer.losses = watch.losses
            monitor.start()
            trainer.train()
        self.model.eval()
        monitor.finish()
        return monitor.best_state

    def _build_loss(self):
        settings = self.settings
        name = settings._find_loss()
        if name is not None:
            return build_loss(settings.loss, self.model, settings.loss_params), name
        loss = settings.loss(self.model)
        name = name_of_class(type(loss), settings._losses)
        if name is None:
            raise ValueError(
                f"loss made a {type(loss).__name__}; what it needs is known only of "
                f"{[LOSSES[name].class_name for name in settings._losses]} and their "
                "subclasses."
            )
        return loss, name

    def _arguments(self, directory, examples, n_batches):
        settings = self.settings
        device = self.model.device
        prompts = {
            column: self.prompts["query" if column == "anchor" else "document"]
            for column in examples.columns
        }
        arguments = SentenceTransformerTrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=settings.batch_size,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            # the trainer would round its own ratio up
            warmup_steps=int(n_batches * settings.epochs * settings.warmup_ratio),
            seed=self.seed,
            prompts=prompts if any(prompts.values()) else None,
            use_cpu=device.type == "cpu",
            bf16=resolve_precision(settings.precision, device) == "bf16",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        # one process trains on one device: DataParallel would multiply the batch size
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments

    def vectors(self, texts):
        """Vectors of the distinct queries and documents by the model as it is."""
        return tuple(
            self.encode(items, role)
            for items, role in (
                (texts.data.queries, "query"),
                (texts.data.documents, "document"),
            )
        )

    def encode(self, items, role):
        return encode(
            self.model,
            items,
            role=role,
            prompt=self.prompts[role],
            normalize=self.settings.normalize,
            precision=self.settings.precision,
        )

    def snapshot(self):
        return {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}

    @staticmethod
    def is_finite(state):
        return all(torch.isfinite(tensor).all() for tensor in state.values())

    def attributes(self, state=None):
        """The fitted attributes of a state, by default of the weights as they are."""
        if state is not None:
            self.model.load_state_dict(state)
        dim = self.model.truncate_dim or self.model.get_embedding_dimension()
        return {"model_": self.model, "embedding_dim_": int(dim)}


@dataclass(frozen=True)
class Examples:
    """Training examples in the columns that a loss takes, as indices.

    `documents` has a column for positives (or second texts) and one for each negative.
    """

    data: RetrievalData
    queries: np.ndarray
    documents: np.ndarray
    labels: np.ndarray | None = None

    @classmethod
    def of(cls, data, spec, settings, rng):
        draws = spec.draws_negatives(data, settings.negatives)
        if draws:
            data.check_negatives()  # again: held-out documents are not in the pool
        if spec.needs == "labels":
            queries, documents, labels = data.labelled_pairs(settings.use_all_docs, rng)
            if spec.binary:
                labels = (labels > 0).astype(np.int64)
            return cls(data, queries, documents[:, None], labels)
        queries, positives = data.positive_pairs(settings.use_all_docs, rng)
        count = max(data.n_negatives, int(draws))
        negatives = data.negatives(queries, count, rng)
        if spec.needs == "triplets":
            queries, positives = np.repeat(queries, count), np.repeat(positives, count)
            negatives = negatives.reshape(-1, 1)
        return cls(data, queries, np.column_stack([positives, negatives]))

    def __len__(self):
        return len(self.queries)

    @property
    def columns(self):
        """Names of the text columns; Sentence Transformers reads them by place."""
        count = self.documents.shape[1]
        names = ["positive", *(f"negative_{i}" for i in range(1, count))]
        return ["anchor", *names]

    @property
    def may_conflict(self):
        """Whether a batch may hold a known positive of another query."""
        return (
            len(np.unique(self.documents)) < self.documents.size
            or len(np.unique(self.queries)) < len(self)
            or (self.data.relevance.n_relevant[self.queries] > 1).any()
        )

    def dataset(self):
        texts = [self.queries, *self.documents.T]
        sources = [self.data.queries, *[self.data.documents] * (len(texts) - 1)]
        columns = {
            name: [source[i] for i in index]
            for name, source, index in zip(self.columns, sources, texts, strict=True)
        }
        if self.labels is not None:
            columns["label"] = self.labels.tolist()
        elif self.may_conflict:
            columns["label"] = list(range(len(self)))  # read by KnownPositivesMasked
        return Dataset.from_dict(columns)

    def guard(self, loss):
        """Mask known positives where the loss takes the batch's documents."""
        in_batch = hasattr(loss, "similarity_fct")
        if self.labels is None and in_batch and self.may_conflict:
            return KnownPositivesMasked(loss, self)
        return loss


class KnownPositivesMasked(nn.Module):
    """Keep known positives out of the denominator of an in-batch loss.

    Sentence Transformers counts every other document of a batch as a negative, also a
    second copy of the positive. The rows of the batch come in the place of labels,
    which such losses ignore. Without a mask the loss is unchanged, bit for bit.
    """

    def __init__(self, loss, examples):
        super().__init__()
        self.loss = loss
        self.examples = examples
        self.similarity = loss.similarity_fct
        self.mask = None
        loss.similarity_fct = self._masked_similarity

    def forward(self, features, labels):
        rows = labels.cpu().numpy()
        examples = self.examples
        columns = examples.documents[rows].T.ravel()
        queries = examples.queries[rows]
        grades = examples.data.relevance.grades(
            queries, np.broadcast_to(columns, (len(rows), len(columns)))
        )
        mask = grades > 0
        mask[np.arange(len(rows)), np.arange(len(rows))] = False
        self.mask = torch.from_numpy(mask).to(labels.device) if mask.any() else None
        return self.loss(features, None)

    def _masked_similarity(self, a, b):
        scores = self.similarity(a, b)
        if self.mask is None:
            return scores
        # queries × documents; queries × positives or queries; documents × positives
        masks = (self.mask, self.mask[:, : len(self.mask)], self.mask.T)
        mask = next(mask for mask in masks if mask.shape == scores.shape)
        return scores.masked_fill(mask, -torch.inf)


class _QuietTrainer(SentenceTransformerTrainer):
    """Keeps training texts out of the model card, and the losses for the history."""

    losses = None

    def add_model_card_callback(self, *args, **kwargs):
        """Do nothing: the callback would copy training texts into the model."""

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.detach())
        return loss


class _Watch(TrainerCallback):
    """Evaluates, reports epochs to scikit-learn's callbacks, and stops the trainer."""

    def __init__(self, trainer, monitor, every, last_step):
        self.trainer, self.monitor = trainer, monitor
        self.every, self.last_step = every, last_step
        self.losses = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.tasks.begin()

    def on_step_end(self, args, state, control, **kwargs):
        due = self.every and state.global_step % self.every == 0
        if due or state.global_step >= self.last_step:
            self._evaluate(state, control)
        if state.global_step >= self.last_step:
            control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if not self.every:
            self._evaluate(state, control)
        if self.trainer.tasks.end(self.trainer.attributes):
            self._evaluate(state, control)
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self._evaluate(state, control)

    def _evaluate(self, state, control):
        if self.losses:  # nothing to say twice of the same step
            loss = torch.stack(self.losses).mean().item()
            self.losses.clear()
            if self.monitor.update(state.global_step, state.epoch, loss):
                control.should_training_stop = True


def pack_model(model):
    """Return the files of `save_pretrained` as the bytes of a zip archive."""
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory, no_progress_bar():
        model.save_pretrained(directory, create_model_card=False)
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(Path(directory).rglob("*")):
                archive.write(path, path.relative_to(directory))
    return buffer.getvalue()


def unpack_model(packed, *, truncate_dim, trust_remote_code, device):
    """Load a model from the bytes of `pack_model`, on `device` where it exists here."""
    with tempfile.TemporaryDirectory() as directory, no_progress_bar():
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(directory)
        return SentenceTransformer(
            directory,
            truncate_dim=truncate_dim,
            trust_remote_code=trust_remote_code,
            device=device if is_available(device) else None,
        ).eval()
