"""What a saved directory tells of a fitted finetuner: JSON and arrays, no code."""

import hashlib
import json
import os
import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.frozen import FrozenEstimator

from skembft._atomic import dump_json
from skembft._base import BaseFinetuner
from skembft._export import UNSAFE
from skembft._model_files import find_model
from skembft._saved_params import (
    STATE,
    Damaged,
    check,
    encoder_to_json,
    encoders,
    finetuners,
    from_json,
    not_restored,
    plain,
    scalar,
    to_json,
)
from skembft._training import History
from skembft._utils import shorten, thawed
from skembft._version import __version__

ARRAYS = "skembft.safetensors"
ENCODER = "encoder"  # directory of the finetuner that encodes for a CorpusFinetuner
_NUMBERS = {
    "n_iter_": Integral,
    "best_step_": (Integral, type(None)),
    "best_epoch_": (Real, type(None)),
    "base_score_": (Real, type(None)),
    "validation_score_": (Real, type(None)),
    "embedding_dim_": Integral,
}


def files_in(directory):
    """Relative names of all files below a directory."""
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


class State:
    """What a directory holds beside the files of Sentence Transformers."""

    def __init__(self, content, arrays):
        self.content, self.arrays = content, arrays

    @classmethod
    def of(cls, finetuner, export):
        """What there is to be known of a finetuner; `export` wrote its modules."""
        arrays = {}
        params, lost = to_json(finetuner.get_params(deep=False))
        attributes = {
            name: scalar(getattr(finetuner, name))
            for name in _NUMBERS
            if hasattr(finetuner, name)
        }
        history = finetuner.history_
        content = {
            "skembft": __version__,
            "class": type(finetuner).__name__,
            "params": params,
            "not_restored": lost,
            "attributes": attributes,
            "history": [{k: scalar(v) for k, v in e.items()} for e in history],
            "history_metric": history.metric,
            "sizes": getattr(finetuner, "_sizes", None),
            "n_base": export and export.n_base,
            "n_encoder": export and export.n_encoder,
        }
        if hasattr(finetuner, "encoder_"):
            content["encoder"], _ = encoder_to_json(finetuner.encoder_)
            content["fingerprint"] = finetuner._encoder_fingerprint
        if is_corpus(finetuner):
            arrays["moved_vectors"] = finetuner.moved_vectors_
            content["gamma"] = float(finetuner.gamma_)
        elif hasattr(finetuner, "weights_"):
            adapter, params = finetuner._adapter_spec
            known = isinstance(adapter, str)
            content["adapter"] = [adapter, plain(params)[0]] if known else None
            content["sides"] = sorted(finetuner.weights_)
            for side, weights in finetuner.weights_.items():
                arrays.update({f"{side}.{k}": v for k, v in weights.items()})
        return cls(content, arrays)

    def write(self, directory):
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
    def read(cls, path):
        content = read_json(path / STATE)
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
        for name in {**_NUMBERS, **attributes}:
            kinds = _NUMBERS.get(name, ())
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
        return cls(content, arrays)

    def finetuner(self, path):
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
        self._restore(finetuner, path)
        return finetuner

    def _restore(self, finetuner, path):
        content = self.content
        for name, value in content["attributes"].items():
            setattr(finetuner, name, value)
        finetuner.history_ = History(
            content["history"],
            metric=content.get("history_metric"),
            best_step=content["attributes"].get("best_step_", 0),
        )
        sizes = content.get("sizes")
        check(sizes, (dict, type(None)), f"'sizes' in {STATE}")
        finetuner._sizes = sizes
        if isinstance(finetuner, finetuners()["EmbeddingFinetuner"]):
            finetuner.model_ = self._base_model(path, finetuner)
            return
        self._restore_encoder(finetuner, path)
        if is_corpus(finetuner):
            self._restore_corpus(finetuner, path)
        else:
            self._restore_adapter(finetuner)

    def _restore_encoder(self, finetuner, path):
        encoder = self.content.get("encoder")
        if not isinstance(encoder, dict):
            raise Damaged(
                f"its encoder ({shorten(encoder)}) is none that a directory can hold. "
                f"The vectors are in {ARRAYS}; skembft.dump keeps the finetuner itself"
            )
        fingerprint = self.content.get("fingerprint")
        check(fingerprint, (str, type(None)), f"'fingerprint' in {STATE}")
        if is_corpus(finetuner) and (path / ENCODER).is_dir():
            is_frozen = encoder.get("frozen") is True
            encoder = State.read(path / ENCODER).finetuner(path / ENCODER)
            encoder = FrozenEstimator(encoder) if is_frozen else encoder
        else:
            encoder = from_json(encoder, {**finetuners(), **encoders()})
            inner = thawed(encoder)
            if isinstance(inner, BaseFinetuner):
                self._fill_in(inner, path, "n_base")
            elif self.content.get("n_encoder") and not _is_here(inner):
                encoder, fingerprint = self._saved_encoder(path, inner), None
        finetuner.encoder_, finetuner._encoder_fingerprint = encoder, fingerprint
        if isinstance(encoder, FrozenEstimator) and isinstance(
            finetuner.encoder, FrozenEstimator
        ):
            finetuner.encoder = encoder  # the parameter alone would not be fitted
        finetuner._encoder_checked = False

    def _fill_in(self, encoder, path, n_modules):
        """Give an EmbeddingFinetuner the model in the directory."""
        encoder.model_ = self._base_model(path, encoder, n_modules)
        encoder.embedding_dim_ = int(encoder.model_.get_embedding_dimension())
        encoder.history_ = History()
        encoder.n_iter_, encoder.base_score_, encoder.validation_score_ = 0, None, None
        encoder.best_step_ = encoder.best_epoch_ = None

    def _saved_encoder(self, path, encoder):
        """The base of an adapter, from the directory: where it was is not here."""
        saved = finetuners()["EmbeddingFinetuner"](
            str(path), precision=encoder.precision, device=encoder.device
        )
        self._fill_in(saved, path, "n_encoder")
        return FrozenEstimator(saved)

    def _restore_adapter(self, finetuner):
        adapter = self.content.get("adapter") or ["linear", {}]
        sides = self.content.get("sides")
        if sides not in (["query"], ["document", "query"]):
            raise Damaged(f"'sides' in {STATE} is {shorten(sides)}")
        if not (
            isinstance(adapter, list)
            and len(adapter) == 2
            and adapter[0] in ("linear", "low_rank", "mlp")
            and isinstance(adapter[1], dict)
            and adapter[1].get("activation", "relu") in ("relu", "gelu", "silu")
        ):
            raise Damaged(f"'adapter' in {STATE} is {shorten(adapter)}")
        finetuner._adapter_spec = tuple(adapter)
        weights = {side: {} for side in sides}
        for name, array in self.arrays.items():
            side, _, key = name.partition(".")
            if side not in weights or array.dtype != np.float32:
                raise Damaged(f"{ARRAYS} holds {name!r}, {array.dtype}")
            weights[side][key] = array
        for side, layer in weights.items():
            if self.content.get("adapter") and not layer:
                raise Damaged(f"{ARRAYS} lacks the weights of {side!r}")
            if layer and ("weight_1" in layer) != (adapter[0] == "mlp"):
                raise Damaged(f"{ARRAYS} holds no {adapter[0]!r} adapter")
            _check_shapes(layer, finetuner.embedding_dim_)
        finetuner.weights_ = weights

    def _restore_corpus(self, finetuner, path):
        documents = read_json(path / "documents.json")
        vectors = self.arrays.get("moved_vectors")
        gamma = self.content.get("gamma")
        check(documents, list, "documents.json")
        check(gamma, Real, f"'gamma' in {STATE}")
        for document in documents:
            check(document, (str, int), "a document in documents.json")
        if not np.isfinite(gamma) or len(set(documents)) < len(documents):
            raise Damaged(f"'gamma' is {gamma}, or documents.json repeats a document")
        shape = (len(documents), finetuner.embedding_dim_)
        if vectors is None or vectors.shape != shape or vectors.dtype != np.float32:
            raise Damaged(f"{ARRAYS} holds no 'moved_vectors' of shape {shape}")
        finetuner.moved_documents_, finetuner.moved_vectors_ = documents, vectors
        finetuner.gamma_ = gamma
        dot = finetuner.method == "nudge_m"
        finetuner.similarity_ = "dot" if dot else "cosine"

    def _base_model(self, path, finetuner, n_modules="n_base"):
        """The first modules of the model in the directory."""
        from sentence_transformers import SentenceTransformer

        from skembft._models import is_available, no_progress_bar

        count = self.content.get(n_modules)
        if count is None and not (path / "modules.json").exists():
            raise Damaged(
                "it was saved with split=True, as two models for serving; their "
                "directories 'query' and 'document' load, the finetuner does not"
            )
        check(count, int, f"{n_modules!r} in {STATE}")
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
            prompts=whole.prompts,
            similarity_fn_name=whole.similarity_fn_name,
            truncate_dim=finetuner.truncate_dim,
        ).eval()
        if getattr(model, "transformers_model", None) is not None:
            model.transformers_model.config._name_or_path = finetuner.model_id
        return model


def _check_shapes(layer, dim):
    """Raise an error where the arrays of an adapter do not fit one another."""
    keys = set(layer)
    if keys not in (
        set(),
        {"weight"},
        {"weight", "bias"},
        {"weight_1", "bias_1", "weight_2", "bias_2"},
    ):
        raise Damaged(f"{ARRAYS} holds {sorted(keys)}, which is no adapter")
    hidden = len(layer["weight_1"]) if "weight_1" in keys else None
    shapes = {
        "bias": (dim,),
        "weight_1": (hidden, dim),
        "bias_1": (hidden,),
        "weight_2": (dim, hidden),
        "bias_2": (dim,),
    }
    for key, array in layer.items():
        ok = array.shape == shapes.get(key)
        if key == "weight":
            ok = array.ndim == 2 and len(array) == dim
        if not ok:
            raise Damaged(f"{ARRAYS} holds {key!r} of shape {array.shape}")


def is_corpus(finetuner):
    return isinstance(finetuner, finetuners()["CorpusFinetuner"])


def _is_here(encoder):
    """Whether the model of a SentenceEncoder is on this machine."""
    return find_model(os.fspath(encoder.model_id)) is not None


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is not JSON ({error})") from None
