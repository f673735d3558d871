"""The trainer of Sentence Transformers as a fit needs it. Import it lazily."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy

from skembft._embedding.batches import Plan, PlannedBatches
from skembft._embedding.checkpoints import Phase
from skembft._embedding.processes import Processes
from skembft._embedding.speed.forward import keep_on_host
from skembft._embedding.trainable import trained_state
from skembft._finetuner.epochs import EpochTasks
from skembft._finetuner.history import Entry
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.trainer import Settings
from skembft._models.code import reopened, save_with_code
from skembft._models.lora import has_lora
from skembft._models.random_state import (
    let_others_in,
    random_states,
    set_random_states,
)


@dataclass
class FinetuningArguments(SentenceTransformerTrainingArguments):
    """Let one process train on the device of its model.

    Transformers would start up the first GPU of the machine, train there, and leave it
    as the current one; and with several it would multiply the batch size by them.
    """

    model_device: str = "cpu"  # "" of several processes, which accelerate places

    @cached_property
    def _setup_devices(self) -> torch.device:
        if self.use_cpu or not self.model_device:
            return super()._setup_devices
        self.use_cpu = True  # until what is shared with accelerate is prepared
        super()._setup_devices  # noqa: B018
        self.use_cpu, self._n_gpu = False, 1
        device = torch.device(self.model_device)
        if device.type != "cpu":
            assert self.distributed_state is not None
            self.distributed_state.device = device
        return device


class FinetuningTrainer(SentenceTransformerTrainer):
    """Takes planned batches, and saves what a fit needs to go on.

    It keeps training texts out of the model card, and the losses for the history.
    """

    training_args_class = FinetuningArguments  # it makes default ones, too

    plan: Plan | None = None
    phase: Phase | None = None
    watch: Watch
    processes: Processes
    steps_per_epoch: int
    most_steps: int

    def add_model_card_callback(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the callback would copy training texts into the model."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        # the trainer has divided it by the number of batches of a step
        scale = self.current_gradient_accumulation_steps
        self.watch.losses.append(loss.detach() * scale)
        return loss

    def get_batch_sampler(
        self, dataset: Any, *args: Any, **kwargs: Any
    ) -> BatchSampler | None:
        if self.plan is None:
            return super().get_batch_sampler(dataset, *args, **kwargs)
        return PlannedBatches(self.plan, self.processes.rank, self.processes.count)

    def get_train_dataloader(self) -> DataLoader:
        if self.plan is None:
            loader = super().get_train_dataloader()
            loader.device = None  # `_prepare_input` moves what it gives
            return loader
        # as it is: accelerate would share out again what the plan has shared out
        return self._build_dataloader(
            self.train_dataset, self.args.train_batch_size, dataset_kind="train"
        )

    def report(self, entry: Entry) -> None:
        """Tell callbacks and trackers of an evaluation, as the trainer's own would."""
        others = ("step", "epoch", "loss")
        metrics = {f"eval_{k}": v for k, v in entry.items() if k not in others}
        if not metrics:
            return
        if self.args.logging_strategy != IntervalStrategy.NO:
            should_log = self.control.should_log  # of the training loss, afterwards
            self.log(dict(metrics))
            self.control.should_log = should_log
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )

    def _prepare_input(self, data: Any) -> Any:
        """Move a tensor without waiting for the GPU; remember it as it was."""
        if not isinstance(data, Tensor):
            return super()._prepare_input(data)
        on_gpu = self.args.device.type == "cuda"  # whose batches are in pinned memory
        moved = data.to(self.args.device, non_blocking=on_gpu)
        return keep_on_host(moved, data)

    # ---- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.watch.end_if_asked(self.state, self.control)
        super()._save_checkpoint(model, trial)
        progress = self.watch.progress()
        self.processes.wait()  # each has written its random state
        self.processes.first(lambda: self._complete_checkpoint(progress))

    def _complete_checkpoint(self, progress: dict[str, Any]) -> None:
        assert self.phase is not None
        path = self.phase.directory / f"checkpoint-{self.state.global_step}"
        if self.watch.monitor.best_state is not None:
            save_file(self.watch.monitor.best_state, path / "best.safetensors")
        self.phase.finish(path, progress)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None  # of a checkpoint
        path = Path(output_dir)
        path.mkdir(parents=True, exist_ok=True)
        weights = {
            name: t.detach().to("cpu", copy=True) for name, t in self._weights().items()
        }
        if not isinstance(self.watch.trainer.settings.trainable, Integral):
            save_with_code(self.model, path)  # so that it opens as a model
            if not has_lora(self.model):  # which holds them all
                weights = {k: v for k, v in weights.items() if k.startswith("loss.")}
        save_file(weights, path / "weights.safetensors")

    def _load_from_checkpoint(
        self, checkpoint_path: str, model: nn.Module | None = None
    ) -> None:
        saved = load_file(Path(checkpoint_path, "weights.safetensors"))
        weights = self._weights()
        if not weights.keys() <= saved.keys():
            whole = reopened(self.model, checkpoint_path)
            saved.update({f"model.{k}": v for k, v in whole.state_dict().items()})
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(saved[name])

    # the trainer's own would start up a GPU of the machine for its random state

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # the first may be slower
        torch.save(random_states(self.args.device), self._rng_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            states = torch.load(self._rng_file(checkpoint), weights_only=True)
            set_random_states(states, self.args.device)

    def _rng_file(self, checkpoint: str) -> Path:
        return Path(checkpoint, f"random_state_{self.processes.rank}.pt")

    def _weights(self) -> dict[str, Tensor]:
        """What is trained of the model and of the loss, tensors by name."""
        weights = {f"model.{k}": v for k, v in trained_state(self.model).items()}
        assert isinstance(self.loss, nn.Module)  # as there is one set of data
        of_model = {id(parameter) for parameter in self.model.parameters()}
        for name, parameter in self.loss.named_parameters():
            if parameter.requires_grad and id(parameter) not in of_model:
                weights[f"loss.{name}"] = parameter
        return weights

    def resume(self, checkpoint: Path) -> None:
        """Go on, with weights, history and losses, where a checkpoint was written."""
        best = checkpoint / "best.safetensors"
        best_state = load_file(best) if best.is_file() else None
        self.watch.restore(Phase.progress(checkpoint), best_state)
        if self.watch.stopped:
            self._load_from_checkpoint(str(checkpoint))
        else:
            self.train(resume_from_checkpoint=str(checkpoint))


class _ModelTrainer(Protocol):
    settings: Settings
    model: SentenceTransformer
    processes: Processes
    tasks: EpochTasks


class Watch(TrainerCallback):
    """Evaluates, reports epochs to scikit-learn's callbacks, and stops the trainer."""

    def __init__(
        self,
        trainer: _ModelTrainer,
        monitor: Monitor,
        running: FinetuningTrainer,
        epochs: float,
    ) -> None:
        self.trainer, self.monitor = trainer, monitor
        self.report = running.report
        epochs_apart = running.steps_per_epoch * monitor.apart
        self.every = trainer.settings.evaluation_steps or epochs_apart
        steps = min(epochs * running.steps_per_epoch, running.most_steps)
        self.last_step = max(1, round(steps))
        self.losses: list[Tensor] = []
        self.stopped = False

    def progress(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values; all processes must ask."""
        losses = [loss.item() for loss in self.losses]
        return {
            "losses": self.trainer.processes.collect(losses),
            "stopped": self.stopped,
            "monitor": self.monitor.progress(),
        }

    def restore(
        self, progress: dict[str, Any], best_state: dict[str, Tensor] | None
    ) -> None:
        device = self.trainer.model.device
        losses = progress["losses"][self.trainer.processes.rank]
        self.losses = [torch.tensor(x, device=device) for x in losses]
        self.stopped = progress["stopped"]
        self.monitor.restore(progress["monitor"], best_state)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.global_step == 0:  # the untouched model
            self.report(self.monitor.history[0])

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        sampler = train_dataloader.batch_sampler
        if isinstance(sampler, PlannedBatches):
            sampler.set_epoch(round(state.epoch or 0))
        self.trainer.tasks.begin()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.global_step % self.every == 0:
            self._evaluate(state)
        if state.global_step >= self.last_step:
            self.stopped = True
        self.end_if_asked(state, control)
        let_others_in()

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        # asked in every process, and clocks may differ
        if self.trainer.processes.agree(self.trainer.tasks.end()):
            control.should_training_stop = True
        if control.should_training_stop and not self.stopped:
            # a checkpoint of this step would go on
            control.should_save = self.trainer.settings.save_checkpoints
        self.end_if_asked(state, control)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self._evaluate(state)  # where a callback has cut the last epoch short

    def end_if_asked(self, state: TrainerState, control: TrainerControl) -> None:
        """Evaluate the last step, whoever has asked to stop, and stop."""
        if self.stopped or control.should_training_stop:
            self._evaluate(state)
            self.stopped = control.should_training_stop = True

    def _evaluate(self, state: TrainerState) -> None:
        if self.losses:  # nothing to say twice of the same step
            loss = self.trainer.processes.mean(torch.stack(self.losses).mean()).item()
            self.losses.clear()
            if self.monitor.update(state.global_step, state.epoch, loss):
                self.stopped = True
            self.report(self.monitor.history[-1])
