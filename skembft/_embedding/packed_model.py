"""A model as bytes, for pickles. Import it lazily."""

import io
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from sentence_transformers import SentenceTransformer

from skembft._models.files import UNSAFE
from skembft._models.loading import is_available, no_progress_bar, save_merged
from skembft._models.lora import transformer_of


def pack_model(model: SentenceTransformer) -> bytes:
    """Return the files of `save_pretrained` as the bytes of a zip archive."""
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
    trust_remote_code: bool,
    device: str | None,
) -> SentenceTransformer:
    """Load a model from the bytes of `pack_model`, on `device` where it exists here.

    It is known by `model_id` again, where a decoder may be looked for.
    """
    with tempfile.TemporaryDirectory() as directory, no_progress_bar():
        try:
            archive = zipfile.ZipFile(io.BytesIO(packed))
        except zipfile.BadZipFile as error:
            raise ValueError(f"The model in the pickle is damaged: {error}.") from None
        with archive:
            _check_archive(archive, len(packed), trust_remote_code)
            archive.extractall(directory)
        model = SentenceTransformer(
            directory,
            truncate_dim=truncate_dim,
            trust_remote_code=trust_remote_code,
            device=device if is_available(device) else None,
        ).eval()
    transformer = transformer_of(model)
    if transformer is not None:
        transformer.config._name_or_path = model_id
    return model


def _check_archive(
    archive: zipfile.ZipFile, size: int, trust_remote_code: bool
) -> None:
    """Refuse names that lead elsewhere, files that may hold code, and damage."""
    entries = archive.infolist()
    for entry in entries:
        name = PurePosixPath(entry.filename)
        code = {".py"} if not trust_remote_code else set()
        if (
            name.is_absolute()
            or ".." in name.parts
            or "\\" in entry.filename
            or ":" in entry.filename
            or (entry.external_attr >> 16) & 0o170000 == 0o120000  # a link
            or entry.compress_type != zipfile.ZIP_STORED
            or name.suffix in UNSAFE | code
        ):
            raise ValueError(
                f"The model in the pickle holds {entry.filename!r}, which pack_model "
                "never writes: it was tampered with."
            )
    if sum(entry.file_size for entry in entries) > size or archive.testzip():
        raise ValueError("The model in the pickle is damaged: its sizes are wrong.")
