"""A model as bytes, for pickles. Import it lazily."""

import io
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sentence_transformers import SentenceTransformer
from torch import nn

from skembft._models.code import carried_classes
from skembft._models.devices import is_available
from skembft._models.files import UNSAFE
from skembft._models.loading import no_progress_bar, save_merged
from skembft._models.lora import transformer_of


def pack_model(model: SentenceTransformer) -> bytes:
    """Return the files of `save_pretrained` as the bytes of a zip archive.

    Raises
    ------
    pickle.PicklingError
        The model came with code of its own, which no pickle is to carry.
    """
    if classes := carried_classes(model):
        name = ".".join(
            f"{classes[0].__module__}.{classes[0].__name__}".split(".")[-2:]
        )
        raise pickle.PicklingError(
            f"The model came with code of its own ({name}), and no code is read from a "
            "pickle. Set model_output_path: a fit writes the model there with its "
            "code, for trust_remote_code=True."
        )
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory:
        save_merged(model, directory)
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(Path(directory).rglob("*")):
                archive.write(path, path.relative_to(directory))
    return buffer.getvalue()


def unpack_model(
    packed: bytes,
    *,
    model_id: str,
    truncate_dim: int | None,
    classes: Mapping[str, type[nn.Module]],
    device: str | None,
) -> SentenceTransformer:
    """Load a model from the bytes of `pack_model`, on `device` where it exists here.

    Only `classes`, by their full names, and those of Sentence Transformers are made of
    it; no code is. It is known by `model_id` again, where a decoder may be looked for.
    """
    with tempfile.TemporaryDirectory() as directory, no_progress_bar():
        try:
            archive = zipfile.ZipFile(io.BytesIO(packed))
        except zipfile.BadZipFile as error:
            raise ValueError(f"The model in the pickle is damaged: {error}.") from None
        with archive:
            _check_archive(archive, len(packed))
            archive.extractall(directory)
        model = SentenceTransformer._load_with_module_classes(
            directory,
            classes,
            truncate_dim=truncate_dim,
            local_files_only=True,
            device=device if is_available(device) else None,
        ).eval()
    transformer = transformer_of(model)
    if transformer is not None:
        transformer.config._name_or_path = model_id
    return model


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse names that lead elsewhere, files that may hold code, and damage."""
    entries = archive.infolist()
    for entry in entries:
        name = PurePosixPath(entry.filename)
        if (
            name.is_absolute()
            or ".." in name.parts
            or "\\" in entry.filename
            or ":" in entry.filename
            or (entry.external_attr >> 16) & 0o170000 == 0o120000  # a link
            or entry.compress_type != zipfile.ZIP_STORED
            or name.suffix in {*UNSAFE, ".py"}
        ):
            raise ValueError(
                f"The model in the pickle holds {entry.filename!r}, which pack_model "
                "never writes: it was tampered with."
            )
    if sum(entry.file_size for entry in entries) > size or archive.testzip():
        raise ValueError("The model in the pickle is damaged: its sizes are wrong.")
