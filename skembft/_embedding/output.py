"""The fine-tuned model in `model_output_path`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sklearn.utils._param_validation import InvalidParameterError

from skembft._utils import types
from skembft._utils.paths import check_output_path

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# what an older model may have left that the new one does not have
_WEIGHTS = ("adapter_*", "model*.safetensors*", "pytorch_model*")


class _Settings(Protocol):
    model_id: types.Path
    model_output_path: types.Path | None
    save_checkpoints: bool
    resume_from_checkpoint: bool


def write_model(model: SentenceTransformer, path: types.Path) -> None:
    """Write a Sentence Transformers directory at `path`, beside its checkpoints.

    The files are complete before the first of them takes the place of an older one.
    """
    from skembft._models.loading import no_progress_bar

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path, prefix=".writing-") as staging:
        with no_progress_bar():
            model.save_pretrained(staging, create_model_card=False)
        # an adapter would be put onto other weights, and what save_pretrained of a
        # finetuner wrote there tells of another model
        for pattern in (*_WEIGHTS, "skembft.*"):
            for old in path.glob(pattern):
                old.unlink()
        for entry in Path(staging).iterdir():
            target = path / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)


def check_output(settings: _Settings) -> None:
    """Refuse a place where the model, or a checkpoint, of a finetuner cannot be."""
    path = settings.model_output_path
    if path is not None:
        check_output_path(path)
        if os.path.isdir(settings.model_id) and os.path.isdir(path):
            if os.path.samefile(settings.model_id, path):
                raise InvalidParameterError(
                    f"model_output_path={os.fspath(path)!r} is the model itself, "
                    "which the fine-tuned one would overwrite: pass another "
                    "directory."
                )
    elif settings.save_checkpoints or settings.resume_from_checkpoint:
        raise InvalidParameterError(
            "save_checkpoints and resume_from_checkpoint need a place: set "
            "model_output_path to a directory."
        )
