"""`trainer_params`: what a fit leaves of the trainer to the user. Import it lazily."""

import inspect
import os
from dataclasses import fields
from typing import Any, get_type_hints

from sentence_transformers.util import get_device_name
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn
from torch.optim import SGD, Optimizer
from transformers import Trainer, TrainerCallback, get_scheduler
from transformers.integrations.integration_utils import (
    get_reporting_integration_callbacks,
)

from skembft._embedding.hf_trainer import FinetuningArguments
from skembft._embedding.processes import Processes
from skembft._finetuner.trainer import Settings
from skembft._models.devices import check_available
from skembft._models.precision import resolve_precision
from skembft._models.random_state import seeded_rng
from skembft._utils.hints import wanted_instead
from skembft._utils.messages import nearest, shorten
from skembft._utils.types import Params

# names that transformers has since 5.23, by those of before where it is older
_NAMED_BEFORE = {
    f"activation_checkpointing{end}": f"gradient_checkpointing{end}"
    for end in ("", "_kwargs")
    if not hasattr(FinetuningArguments, "activation_checkpointing")
}
# what the fit sets by itself, by what the user sets instead
_SET_BY = {
    "the argument model_output_path": ("output_dir",),
    "the argument batch_size": ("per_device_train_batch_size", "auto_find_batch_size"),
    "the argument epochs, or the key 'max_steps'": ("num_train_epochs",),
    "the argument learning_rate": ("learning_rate",),
    "the argument layer_decay": ("learning_rate_mapping",),
    "the argument weight_decay": ("weight_decay",),
    "the argument warmup_ratio": ("warmup_ratio", "warmup_steps"),
    "the argument gradient_accumulation_steps": ("gradient_accumulation_steps",),
    "the argument activation_checkpointing": (
        *("activation_checkpointing", "gradient_checkpointing"),
    ),
    "the key 'activation_checkpointing_kwargs'": ("gradient_checkpointing_kwargs",),
    "the argument torch_compile": ("torch_compile",),
    "the argument precision": ("bf16", "bf16_full_eval", "fp16_full_eval"),
    "the argument device": ("use_cpu", "no_cuda", "local_rank"),
    "the argument random_state": ("seed", "data_seed", "full_determinism"),
    "the arguments query_prompt and document_prompt": ("prompts",),
    "the arguments loss and loss_params": ("loss",),
    "the argument sort_by_length": ("train_sampling_strategy", "length_column_name"),
    "the arguments batch_size and negatives": (
        *("batch_sampler", "multi_dataset_batch_sampler", "dataloader_drop_last"),
        *("remove_unused_columns", "label_names", "data_collator"),
    ),
    "the arguments save_checkpoints, checkpoint_save_steps and "
    "checkpoint_save_total_limit": (
        *("save_strategy", "save_steps", "save_total_limit", "save_only_model"),
        *("save_on_each_node", "enable_jit_checkpoint"),
    ),
    "the argument resume_from_checkpoint": (
        *("resume_from_checkpoint", "ignore_data_skip"),
    ),
    "the arguments validation_fraction, evaluation_steps and scoring": (
        *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "do_eval"),
        *("per_device_eval_batch_size", "eval_accumulation_steps", "evaluator"),
        *("eval_do_concat_batches", "eval_use_gather_object", "eval_dataset"),
        *("batch_eval_metrics", "include_for_metrics", "prediction_loss_only"),
        *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        *("compute_metrics",),
    ),
    "the method fit": ("do_train", "do_predict", "train_dataset"),
    "model_.push_to_hub, after the fit": (
        *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id"),
        *("hub_strategy", "hub_always_push", "hub_revision"),
    ),
    "torchrun, where every process holds the whole model": (
        *("fsdp", "fsdp_config", "deepspeed", "parallelism_config"),
        *("accelerator_config",),
    ),
    "the keys 'optim' and 'optim_args'": ("optimizers", "optimizer_cls_and_kwargs"),
    "the environment variable TENSORBOARD_LOGGING_DIR": ("logging_dir",),
}
# what is of no use here, by the reason
_REFUSED_AS = {
    "holds for the whole process: set it by torch.backends": ("tf32",),
    "holds for the whole process: set it by transformers.logging": (
        *("log_level", "log_level_replica"),
    ),
    "is known to the fit": ("router_mapping",),
    "would stay in the model": ("debug",),
    "does nothing for a model of Sentence Transformers": (
        *("neftune_noise_alpha", "use_liger_kernel", "liger_kernel_config"),
        *("use_cache", "label_smoothing_factor"),
    ),
}
REFUSED = {
    **{n: f"is set by the fit; use {use}" for use, ns in _SET_BY.items() for n in ns},
    **{name: reason for reason, names in _REFUSED_AS.items() for name in names},
}
_CALLBACKS = "callbacks"
# schedules that wait for evaluations of the trainer, which a fit does not have
_OF_METRICS = ("reduce_lr_on_plateau", "greedy")


def trainer_arguments(params: Params | None, **own: Any) -> FinetuningArguments:
    """The arguments that a fit sets, and those of `trainer_params`; quiet otherwise."""
    given = {k: v for k, v in (params or {}).items() if k != _CALLBACKS}
    quiet: Params = {"report_to": "none", "disable_tqdm": True}
    quiet["logging_nan_inf_filter"] = False  # it waits for every loss
    if not given.keys() & {"report_to", "logging_steps"}:
        quiet["logging_strategy"] = "no"
    arguments = quiet | given | own
    named = {_NAMED_BEFORE.get(name, name): v for name, v in arguments.items()}
    return FinetuningArguments(**named)


def make_callbacks(params: Params | None) -> list[TrainerCallback]:
    """New callbacks of the classes and factories that `trainer_params` name."""
    made = [make() for make in (params or {}).get(_CALLBACKS, ())]
    for callback in made:
        if not isinstance(callback, TrainerCallback):
            raise InvalidParameterError(
                f"trainer_params: a factory in 'callbacks' made {shorten(callback)}, "
                "which is not a TrainerCallback of transformers."
            )
    return made


def check_trainer_params(settings: Settings) -> None:
    """Refuse what is not for the user to set, or what the trainer refuses.

    No model is loaded for it.
    """
    params = settings.trainer_params
    if not params:
        return
    check_available(settings.device)
    hints = get_type_hints(FinetuningArguments)
    names = {field.name for field in fields(FinetuningArguments)} - {"model_device"}
    valid = sorted((names | {_CALLBACKS, *_NAMED_BEFORE}) - REFUSED.keys())
    for name, value in params.items():
        if name in REFUSED:
            raise InvalidParameterError(f"trainer_params: {name!r} {REFUSED[name]}.")
        if name not in valid:
            raise InvalidParameterError(
                f"trainer_params: {name!r} is not among the arguments of "
                f"SentenceTransformerTrainingArguments. {nearest(name, valid)}"
            )
        wanted = wanted_instead(value, hints.get(name))
        if wanted is not None:
            raise InvalidParameterError(
                f"trainer_params: {name} must be {' or '.join(wanted)}, got "
                f"{shorten(value)}."
            )
    _check_callbacks(params.get(_CALLBACKS, ()))
    _check_combinations(params, settings)
    device = str(settings.device or get_device_name())
    alone = Processes.of(settings.device).count == 1
    try:
        with seeded_rng(0):  # accelerate's state is the process's: not during a fit
            arguments = trainer_arguments(
                params,
                output_dir="unused",
                use_cpu=device.startswith("cpu"),
                model_device=device if alone else "",  # as in training
                bf16=resolve_precision(settings.precision, device) == "bf16",
            )
            _try(arguments)
    except (AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidParameterError(f"trainer_params: {error}") from error


def _check_combinations(params: Params, settings: Settings) -> None:
    device = str(settings.device or get_device_name())
    reason = None
    if params.get("fp16") and device.startswith("cpu"):
        reason = (
            f"fp16 needs a GPU, and the device is {device!r}. precision='auto' takes "
            "bfloat16 where the device has it"
        )
    elif params.get("max_steps") == 0 or params.get("max_steps", -1) < -1:
        reason = (
            "max_steps must be a number of optimizer steps above 0, or -1 for "
            f"`epochs`, got {params['max_steps']}"
        )
    elif params.get("lr_scheduler_type") in _OF_METRICS:
        reason = (
            f"lr_scheduler_type={params['lr_scheduler_type']!r} follows evaluations "
            "of the trainer, and those of a fit are its own; use another schedule"
        )
    elif not settings.torch_compile:
        compiles = [n for n in params if n.startswith("torch_compile") and params[n]]
        if compiles:
            reason = f"{compiles[0]} goes with the argument torch_compile=True"
    if reason:
        raise InvalidParameterError(f"trainer_params: {reason}.")


def _check_callbacks(callbacks: Any) -> None:
    if not isinstance(callbacks, list | tuple):
        raise InvalidParameterError(
            "trainer_params: callbacks must be a list of classes, or of functions "
            f"without arguments that make one, got {shorten(callbacks)}."
        )
    for callback in callbacks:
        kind = callback if isinstance(callback, type) else type(callback)
        is_one = issubclass(kind, TrainerCallback)
        named = f"trainer_params: {kind.__name__} in 'callbacks'"
        if isinstance(callback, type):
            usable = is_one
        else:
            usable = callable(callback) and not is_one
        if not usable and is_one:
            raise InvalidParameterError(
                f"{named} is an instance, which clones and folds would share: pass its "
                "class, or a function without arguments that makes one."
            )
        if not usable:
            raise InvalidParameterError(
                f"{named} is neither a TrainerCallback of transformers nor a function "
                "that makes one. Callbacks of scikit-learn go to set_callbacks."
            )
        try:
            inspect.signature(callback).bind()
        except TypeError as error:
            raise InvalidParameterError(
                f"{named} cannot be made without arguments ({error}): pass a function "
                "that makes it, such as functools.partial."
            ) from None


def _try(arguments: Any) -> None:
    """Make the trackers, optimizer and schedule that are asked for, of one weight."""
    for tracker in get_reporting_integration_callbacks(arguments.report_to):
        tracker()
    if "tensorboard" in arguments.report_to:
        if not os.environ.get("TENSORBOARD_LOGGING_DIR"):
            raise ValueError(
                "report_to='tensorboard' needs a place: set the environment variable "
                "TENSORBOARD_LOGGING_DIR to a directory."
            )
    layer: Any = nn.Linear(1, 1)
    optimizer: Optimizer = SGD(layer.parameters())
    if arguments.optim_target_modules is None:  # which only the model has
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, layer)
        if issubclass(kind, Optimizer) and not {"params", "model"} & options.keys():
            optimizer = kind(layer.parameters(), **options)
    get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=1,
        num_training_steps=1_000_000,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
