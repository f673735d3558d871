"""What a saved directory tells of a fitted finetuner: JSON and arrays, no code."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator

from skembft._models.files import UNSAFE, find_model
from skembft._saving.export import Exporter
from skembft._saving.params import (
    STATE,
    Content,
    Damaged,
    check,
    encoders,
    from_json,
    not_restored,
    to_json,
)
from skembft._saving.registry import finetuners
from skembft._utils import types
from skembft._utils.atomic import dump_json
from skembft._utils.estimators import plain_value, thawed
from skembft._utils.messages import shorten
from skembft._version import __version__
from skembft.encoders._sentence import SentenceEncoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Arrays: TypeAlias = dict[str, NDArray[Any]]

ARRAYS = "skembft.safetensors"
ENCODER = "encoder"  # directory of the finetuner that encodes for a CorpusFinetuner
_ATTRIBUTES: dict[str, type | tuple[type, ...]] = {
    "n_iter_": Integral,
    "best_step_": (Integral, type(None)),
    "best_epoch_": (Real, type(None)),
    "base_score_": (Real, type(None)),
    "validation_score_": (Real, type(None)),
    "embedding_dim_": Integral,
    "interpolation_": (Real, type(None)),
    "negatives_": (str, type(None)),
}


def files_in(directory: Path) -> set[str]:
    """Relative names of all files below a directory."""
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


@dataclass
class Parts:
    """What a class of finetuners saves of its own.

    Attributes
    ----------
    content : dict of {name: JSON value}
    arrays : dict of {name: ndarray}
    files : dict of {file name: JSON value}
        What is not only for `load` to read, and has a file of its own.
    """

    content: dict[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)


class _History(Protocol):
    """The evaluations of a training."""

    metric: str | None

    def __iter__(self) -> Iterator[dict[str, Any]]: ...


class Saved(Protocol):
    """What is asked of a finetuner to be saved; all of them are of higher folders."""

    scoring: str
    embedding_dim_: int
    base_score_: float | None
    validation_score_: float | None

    @property
    def history_(self) -> _History: ...

    def get_params(self, deep: bool = True) -> dict[str, Any]: ...

    def _saved(self) -> Parts: ...


class ModelParams(Protocol):
    """What is asked of an `EmbeddingFinetuner` that gets a model."""

    model_id: types.Path
    device: str | None
    truncate_dim: int | None


class State:
    """What a directory holds beside the files of Sentence Transformers."""

    path: Path  # of one that was read

    def __init__(self, content: Content, arrays: Arrays) -> None:
        self.content, self.arrays = content, arrays

    @classmethod
    def of(cls, finetuner: Saved, export: Exporter | None) -> Self:
        """What there is to be known of a finetuner; `export` wrote its modules."""
        params, lost = to_json(finetuner.get_params(deep=False))
        attributes = {
            name: plain_value(getattr(finetuner, name))
            for name in _ATTRIBUTES
            if hasattr(finetuner, name)
        }
        history = finetuner.history_
        content = {
            "skembft": __version__,
            "class": type(finetuner).__name__,
            "params": params,
            "not_restored": lost,
            "attributes": attributes,
            "history": [{k: plain_value(v) for k, v in e.items()} for e in history],
            "history_metric": history.metric,
            "sizes": getattr(finetuner, "_sizes", None),
            "n_base": export and export.n_base,
            "n_encoder": export and export.n_encoder,
        }
        parts = finetuner._saved()
        return cls({**content, **parts.content}, parts.arrays)

    def write(self, directory: Path) -> None:
        from safetensors.numpy import save_file

        arrays = {k: np.ascontiguousarray(v) for k, v in self.arrays.items()}
        save_file(arrays, directory / ARRAYS)
        # which files there are, and what the weights are; those of an encoder in a
        # directory of its own are told there
        files = dict.fromkeys(sorted(files_in(directory)))
        for name in files:
            if name.endswith(".safetensors") and not name.startswith(f"{ENCODER}/"):
                files[name] = _digest(directory / name)
        dump_json(directory / STATE, {**self.content, "files": files})

    @classmethod
    def read(cls, path: Path) -> Self:
        content = checked_json(path / STATE)
        check(content, dict, STATE)
        for name, kind in (
            ("skembft", str),
            ("class", str),
            ("params", dict),
            ("not_restored", dict),
            ("attributes", dict),
            ("history", list),
            ("files", dict),
        ):
            check(content.get(name), kind, f"{name!r} in {STATE}")
        for entry in content["history"]:
            check(entry, dict, f"'history' in {STATE}")
        attributes = content["attributes"]
        for name in {**_ATTRIBUTES, **attributes}:
            kinds = _ATTRIBUTES.get(name, ())
            check(attributes.get(name), kinds, f"{name!r} in {STATE}")
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path / ARRAYS)
        except FileNotFoundError:
            raise Damaged(f"{ARRAYS} is missing") from None
        except SafetensorError as error:
            raise Damaged(f"{ARRAYS} is damaged ({error})") from None
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise Damaged(f"{name!r} in {ARRAYS} contains NaN or infinity")
        for name, digest in content["files"].items():
            if digest is None or ".." in name.split("/") or not (path / name).is_file():
                continue  # what is needed and missing is told by who reads it
            if _digest(path / name) != digest:
                raise Damaged(f"{name} is not as it was written")
        state = cls(content, arrays)
        state.path = path
        return state

    @property
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes that are numbers, by name."""
        return self.content["attributes"]

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.content["history"]

    def json(self, name: str) -> Any:
        """The content of a JSON file in the directory."""
        return checked_json(self.path / name)

    def sizes(self) -> dict[str, int] | None:
        """What the data of the fit were, {name: count}, or None."""
        sizes = self.content.get("sizes")
        check(sizes, (dict, type(None)), f"'sizes' in {STATE}")
        for name, size in (sizes or {}).items():
            check(size, int, f"{name!r} of 'sizes' in {STATE}")
        return sizes

    def finetuner(self) -> Any:
        """The fitted finetuner."""
        finetuner = from_json(self.content, finetuners())
        lost = not_restored(self.content)
        if lost:
            listed = ", ".join(f"{k} ({v})" for k, v in lost.items())
            warnings.warn(
                f"Parameters that JSON cannot hold have their defaults: {listed}. The "
                "vectors are not affected; set them before another fit.",
                UserWarning,
                stacklevel=3,
            )
        if self.content["skembft"] != __version__:
            warnings.warn(
                f"This {type(finetuner).__name__} was saved by skembft "
                f"{self.content['skembft']}, this is {__version__}: results may "
                "differ.",
                UserWarning,
                stacklevel=3,
            )
        finetuner._restore(self)
        return finetuner

    def encoder(self) -> tuple[Any, str | None]:
        """The encoder of the finetuner, and its fingerprint where it is checked."""
        encoder = self.content.get("encoder")
        if not isinstance(encoder, dict):
            raise Damaged(
                f"its encoder ({shorten(encoder)}) is none that a directory can hold. "
                f"The vectors are in {ARRAYS}; skembft.dump keeps the finetuner itself"
            )
        fingerprint = self.content.get("fingerprint")
        check(fingerprint, (str, type(None)), f"'fingerprint' in {STATE}")
        if self.content.get("n_base") is None and (self.path / ENCODER).is_dir():
            is_frozen = encoder.get("frozen") is True
            encoder = State.read(self.path / ENCODER).finetuner()
            return FrozenEstimator(encoder) if is_frozen else encoder, fingerprint
        encoder = from_json(encoder, {**finetuners(), **encoders()})
        inner = thawed(encoder)
        if hasattr(inner, "_take_model"):
            inner._take_model(self.model(inner))
        elif type(inner) in finetuners().values():
            raise Damaged(f"it holds no model for its {type(inner).__name__}")
        elif self.content.get("n_encoder") and not _is_here(inner):
            # from the directory: where it was is not here
            saved = finetuners()["EmbeddingFinetuner"](
                str(self.path), precision=inner.precision, device=inner.device
            )
            saved._take_model(self.model(saved, "n_encoder"))
            encoder, fingerprint = FrozenEstimator(saved), None
        return encoder, fingerprint

    def model(
        self, finetuner: ModelParams, n_modules: str = "n_base"
    ) -> "SentenceTransformer":
        """The first modules of the model in the directory, for a finetuner."""
        path = self.path
        from sentence_transformers import SentenceTransformer

        from skembft._models.devices import is_available
        from skembft._models.loading import no_progress_bar

        count: Any = self.content.get(n_modules)
        if count is None and not (path / "modules.json").exists():
            raise Damaged(
                "it was saved with split=True, as two models for serving; their "
                "directories 'query' and 'document' load, the finetuner does not"
            )
        check(count, int, f"{n_modules!r} in {STATE}")
        truncate_dim: Any = self.content.get("truncate_dim", finetuner.truncate_dim)
        if truncate_dim is not None:
            check(truncate_dim, int, f"'truncate_dim' in {STATE}")
        for file in path.rglob("*"):
            if file.suffix in UNSAFE:
                raise Damaged(f"{file.name} may hold code; only safetensors are read")
        device = finetuner.device if is_available(finetuner.device) else None
        try:
            with no_progress_bar():
                whole = SentenceTransformer(
                    str(path), device=device, local_files_only=True
                )
        except Exception as error:  # each kind of damaged file has its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Damaged(f"the model's files are damaged ({reason})") from error
        if not 1 <= count <= len(whole):
            raise Damaged(f"{n_modules!r} in {STATE} is {count}, of {len(whole)}")
        model = SentenceTransformer(
            modules=list(whole)[:count],
            device=device,
            prompts=whole.prompts,  # type: ignore[arg-type]  # a model's hold no None
            similarity_fn_name=whole.similarity_fn_name,
            truncate_dim=truncate_dim,
        ).eval()
        transformer = getattr(model, "transformers_model", None)
        if transformer is not None:
            transformer.config._name_or_path = finetuner.model_id
        return model


def _is_here(encoder: SentenceEncoder) -> bool:
    """Whether the model of a SentenceEncoder is on this machine."""
    revision = (encoder.model_params or {}).get("revision")
    return find_model(os.fspath(encoder.model_id), revision) is not None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is not JSON ({error})") from None
