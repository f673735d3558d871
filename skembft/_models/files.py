"""What a model's files tell before it is loaded; nothing here imports torch."""

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sklearn.utils._param_validation import InvalidParameterError

Backend: TypeAlias = Literal["torch", "onnx", "openvino"]

# What Sentence Transformers and transformers read of a directory; what else lies there
# is the user's, and is neither a part of the model nor published with it.
_READ = re.compile(
    r"(modules|config|config_sentence_transformers|chat_template)\.json"
    r"|(adapter|cnn|generation|lstm|openvino|ort|preprocessor|processor|router"
    r"|phrasetokenizer|tokenizer|video_preprocessor|whitespacetokenizer|wordembedding"
    r"|sentence_(albert|bert|camembert|distilbert|roberta|xlm-roberta|xlnet)"
    r")_config\.json"
    # vocabularies
    r"|(tokenizer|special_tokens_map|added_tokens|byte_maps|emoji|entity_vocab"
    r"|normalizer|target_vocab|vocab|vocab-src|vocab-tgt|word_pronunciation"
    r"|word_shape)\.json"
    r"|(vocab|merges|dict)\.txt|bpe\.codes|prophetnet\.tokenizer"
    r"|.+\.(model|tiktoken|jinja)"
    # weights, of low rank too, whole or in shards with an index
    r"|(adapter_model|model|pytorch_model)\b[\w.-]*\.(safetensors|bin|index\.json)"
    r"|.+\.gguf"
)
_READ_BY_OTHERS = re.compile(r".+\.(onnx|onnx_data|xml)|openvino_model.*\.bin")
_WEIGHTS = {".safetensors", ".bin", ".gguf", ".onnx", ".xml"}
_FLOAT32 = (None, "float32")  # what a transformer's config says of its weights
UNSAFE = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}  # may hold code
_POINTER = b"version https://git-lfs.github.com/spec/"


def cannot_load(
    model_id: str, reason: str, kind: str = "SentenceTransformer"
) -> OSError:
    """Return the OSError of a model that cannot be loaded, with what to do."""
    where = "directory" if os.path.isdir(model_id) else "model"
    end = "" if reason.endswith((".", "!", "?", ":")) else "."
    return OSError(
        f"Could not load the {where} {model_id!r}: {reason}{end} Check the spelling "
        "and the network (HF_HUB_OFFLINE?), or pass a directory that "
        f"{kind}.save_pretrained wrote."
    )


def find_model(
    model_id: str, revision: str | None = None, *, loaded: bool = False
) -> "ModelFiles | None":
    """Return the files of a model on this machine, or None where it must be loaded.

    Parameters
    ----------
    model_id : str
        A directory, or a name on the hub, which means what lies in the local cache of
        the hub.
    revision : str or None
        A branch, tag or commit of a name on the hub; None is its main branch.
    loaded : bool
        Whether the model was loaded just now, so that nothing of it is missing.
    """
    if os.path.isdir(model_id):
        if revision is not None:
            raise InvalidParameterError(
                f"model_params: revision={revision!r} goes with a name on the hub, and "
                f"{model_id!r} is a directory."
            )
        return ModelFiles(Path(model_id))
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    # Sentence Transformers completes names without an owner in this way
    owners = [""] if "/" in model_id else ["sentence-transformers/", ""]
    cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    for owner in owners:
        try:
            # each is a path, None (unknown) or an object that says it does not exist
            modules, prompts, config = (
                try_to_load_from_cache(
                    owner + model_id, name, cache_dir=cache, revision=revision
                )
                for name in (
                    "modules.json",
                    "config_sentence_transformers.json",
                    "config.json",
                )
            )
        except HFValidationError:  # a path, and no such directory
            return None
        known = next((p for p in (modules, config) if isinstance(p, str)), None)
        if known is None:
            continue
        root = Path(known).parent
        files = ModelFiles(root, revision=root.name)
        whole = modules is not None and (prompts is not None or modules is not known)
        if loaded or (whole and files.has_weights()):
            return files
    return None


@dataclass(frozen=True)
class ModelFiles:
    """The directory of a model; `revision` is its commit if it came from the hub."""

    root: Path
    revision: str | None = None

    def config(self, name: str = "config.json") -> dict[str, Any]:
        """The settings in a file of the directory itself; {} where there is none."""
        config = self._read(self.root / name)
        if not isinstance(config, dict):
            raise cannot_load(str(self.root), f"{name} is not a dict of settings.")
        return config

    def modules(self) -> list[dict[str, Any]]:
        """What modules.json says of every module; [] where there is none."""
        return self._modules()

    def check_whole(self, backend: Backend = "torch") -> None:
        """Refuse files that are cut, missing or stand for others, by their names."""
        self.prompts()
        for module in self.modules():
            package, _, name = module["type"].rpartition(".")
            settings = f"{module['path']}/config.json"
            if (
                self.revision is None
                and package.startswith("sentence_transformers.")
                and name in ("Pooling", "Dense")
                and not (self.root / settings).is_file()
            ):
                raise cannot_load(str(self.root), f"{settings} is missing.")
        for path in self._paths(backend, False):
            missing = [p.name for p in self._shards(path) if not p.is_file()]
            if missing:
                reason = f"{path.name} names {missing[0]}, which is missing."
                raise cannot_load(str(self.root), reason)
            if (damage := _damage(path)) is not None:
                name = path.relative_to(self.root).as_posix()
                raise cannot_load(str(self.root), f"{name} {damage}.")

    def prompts(self) -> dict[str, str]:
        """The model's own prompts, {name: text}."""
        if not (self.root / "modules.json").is_file():  # then they are not read
            return {}
        name = "config_sentence_transformers.json"
        prompts = self.config(name).get("prompts", {})
        if not isinstance(prompts, dict) or not all(
            isinstance(text, str | None) for text in prompts.values()
        ):
            reason = f"{name} has prompts that are not a dict of texts."
            raise cannot_load(str(self.root), reason)
        return prompts

    def tells_roles_apart(self) -> bool:
        """Whether more than prompts may tell queries from documents.

        Routes do, other lengths for queries, a chat template that names the task, and
        so may modules that are not of Sentence Transformers.
        """
        modules = self._modules()
        for module in modules:
            package, _, name = module["type"].rpartition(".")
            if name in ("Router", "Asym") or package.partition(".")[0] != (
                "sentence_transformers"
            ):
                return True
        first = self.root / (modules[0]["path"] if modules else "")
        settings = self._read(first / "sentence_bert_config.json")
        names = ("query_length", "document_length", "query_expansion")
        if any(settings.get(name) is not None for name in names):
            return True
        templates = str(
            self._read(first / "tokenizer_config.json").get("chat_template")
        )
        for path in first.glob("*.jinja"):
            templates += path.read_text(encoding="utf-8")
        return "task" in templates

    def transformer_at_root(self) -> bool:
        """Whether transformers opens the model by the name of its directory."""
        modules = self._modules()
        return not modules or modules[0]["path"] == ""

    def fingerprint(
        self, *, backend: Backend = "torch", trust_remote_code: bool = False
    ) -> str:
        """Hash of the contents of all files that determine the model's vectors.

        It is computed once a process, and again when sizes or times have changed.
        """
        stamp = []
        for path in self._paths(backend, trust_remote_code):
            stat = path.stat()
            name = path.relative_to(self.root).as_posix()
            stamp.append((str(path), name, stat.st_size, stat.st_mtime_ns))
        own = _hash_files(tuple(stamp))
        base = self._base()
        if base is None:
            return own
        others = base.fingerprint(backend=backend, trust_remote_code=trust_remote_code)
        return hashlib.sha256(f"{own} {others}".encode()).hexdigest()[:32]

    def _base(self) -> "ModelFiles | None":
        """The files of the model beside whose weights these low-rank ones are."""
        try:
            name = self.config("adapter_config.json").get("base_model_name_or_path")
        except OSError:  # damaged: loading the model says so
            return None
        if not isinstance(name, str) or os.path.realpath(name) == os.path.realpath(
            self.root
        ):
            return None
        return find_model(name)

    def in_float32(self) -> bool:
        """Whether all weights are stored in float32, and plainly loaded in it."""
        for path in self._paths("torch", False):
            if path.suffix == ".safetensors" and not _holds_float32(path):
                return False
            if path.name == "config.json":
                config = self._read(path)
                if (config.get("dtype") or config.get("torch_dtype")) not in _FLOAT32:
                    return False
        return True

    def has_weights(self) -> bool:
        """Whether more was downloaded than a model's settings: all of its weights."""
        paths = self._paths("onnx", False)
        missing = any(not path.is_file() for p in paths for path in self._shards(p))
        return not missing and any(path.suffix in _WEIGHTS for path in paths)

    def weights_size(self) -> int:
        """Bytes of the files with weights."""
        paths = self._paths("torch", False)
        return sum(path.stat().st_size for path in paths if path.suffix in _WEIGHTS)

    def _modules(self) -> list[dict[str, Any]]:
        path = self.root / "modules.json"
        modules = self._read(path, default=[])
        if not isinstance(modules, list) or not all(
            isinstance(m, dict) and {"type", "path"} <= set(m) for m in modules
        ):
            raise cannot_load(str(self.root), f"{path.name} is not a list of modules.")
        return modules

    def _paths(self, backend: Backend, trust_remote_code: bool) -> list[Path]:
        """The files that are read to load the model, in a fixed order."""
        read: list[Path] = []
        for folder, types in self._folders().items():
            own = any(not t.startswith("sentence_transformers.") for t in types)
            if own and folder != self.root:  # nobody knows what it reads
                read += folder.rglob("*")
                continue
            for path in [*folder.glob("*"), *folder.glob("additional_*/*.jinja")]:
                if _READ.fullmatch(path.name) or (
                    backend != "torch" and _READ_BY_OTHERS.fullmatch(path.name)
                ):
                    read += [path, *self._shards(path)]
        if backend != "torch":
            for name in ("onnx", "openvino"):
                read += (self.root / name).rglob("*")
        if trust_remote_code:
            read += self.root.glob("*.py")
        return [
            path
            for path in sorted(set(read))
            if path.is_file()
            and (path.suffix != ".py" or trust_remote_code)
            and not any(p.startswith(".") for p in path.relative_to(self.root).parts)
            and not (
                path.name == "pytorch_model.bin"
                and path.with_name("model.safetensors").is_file()
            )
        ]

    def _folders(self) -> dict[Path, list[str]]:
        """The directories that modules are read from, and the types of these."""
        folders: dict[Path, list[str]] = {self.root: []}
        types = [(m["path"], m["type"]) for m in self._modules()]
        while types:
            name, type_ = types.pop()
            folder = self.root / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise cannot_load(str(self.root), f"It has a module at {name!r}.")
            folders.setdefault(folder, []).append(type_)
            if type_.endswith((".Router", ".Asym")):
                config = self._read(folder / "config.json")  # of older versions
                config = self._read(folder / "router_config.json", config)
                routes = config.get("types", {})
                types += [(os.path.join(name, path), routes[path]) for path in routes]
        return folders

    def _shards(self, path: Path) -> list[Path]:
        """The files that hold the weights, where `path` is the index of some."""
        if not path.name.endswith(".index.json"):
            return []
        names = self._read(path).get("weight_map", {}).values()
        return [path.with_name(Path(name).name) for name in dict.fromkeys(names)]

    def _read(self, path: Path, default: Any = None) -> Any:
        try:
            with open(path, encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return {} if default is None else default
        except ValueError as error:
            reason = f"{path.name} is not JSON ({error})."
            raise cannot_load(str(self.root), reason) from error


def _damage(path: Path) -> str | None:
    """What is wrong with a file, by its beginning and its end."""
    from safetensors import SafetensorError, safe_open

    with open(path, "rb") as file:
        start = file.read(len(_POINTER))
        file.seek(max(0, path.stat().st_size - len(_POINTER)))
        end = file.read().rstrip()
    if start == _POINTER:
        return "is a pointer of git-lfs, not the file itself: run 'git lfs pull'"
    if path.suffix == ".json" and not end.endswith((b"}", b"]")):
        return "is damaged, or half a download (no JSON)"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "np"):
                pass
        except SafetensorError as error:
            return f"is damaged, or half a download ({error})"
    if path.suffix == ".bin" and start[:2] == b"PK" and not zipfile.is_zipfile(path):
        return "is damaged, or half a download"
    return None


def _holds_float32(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        types = {file.get_slice(name).get_dtype() for name in file.keys()}
    return not any(name.startswith(("F", "BF")) for name in types - {"F32"})


@lru_cache(maxsize=64)
def _hash_files(stamp: tuple[tuple[str, str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, name, size, _ in stamp:
        digest.update(f"{name}\0{size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:32]
