"""Processes that torchrun or accelerate has started, as their environment tells."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sklearn.callback import CallbackSupportMixin, ProgressBar


def check_launch() -> None:
    """Refuse ways to share a model that a launcher sets up and a fit does not know."""
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        value = os.environ.get(f"ACCELERATE_USE_{name}", "false")
        if value.lower() in ("1", "true", "t", "yes", "y", "on"):
            raise ValueError(
                f"ACCELERATE_USE_{name}={value} asks for parts of the model in every "
                "process, and here every process has a whole one. Start the script "
                "with torchrun, or with accelerate launch --multi_gpu."
            )


def is_first() -> bool:
    """Whether no other process speaks for this one."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return not several or int(os.environ.get("RANK", "0")) == 0


@contextmanager
def first_process_speaks(estimator: CallbackSupportMixin) -> Iterator[None]:
    """Silence the warnings and progress bars of a fit but in the first process."""
    if is_first():
        yield
        return
    callbacks = getattr(estimator, "_skl_callbacks", [])
    estimator.set_callbacks(*(c for c in callbacks if not isinstance(c, ProgressBar)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        estimator.set_callbacks(*callbacks)
