"""Directories of Sentence Transformers, written file by file."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from skembft._models.files import UNSAFE, ModelFiles
from skembft._models.prompts import choose_prompt
from skembft._utils.atomic import dump_json, load_json
from skembft._utils.types import Floats, Role
from skembft.encoders._sentence import SentenceEncoder
from skembft.encoders._stored import ROLES

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Layer: TypeAlias = tuple[Floats, Floats | None, str | None]  # weight, bias, activation
Modules: TypeAlias = list[dict[str, Any]]  # of modules.json

# modules that every version from 5.2 on finds under its name in 5.2
_SHIPPED = {
    *("Asym", "BoW", "CLIPModel", "CNN", "Dense", "Dropout", "LSTM", "LayerNorm"),
    *("Normalize", "Pooling", "Router", "StaticEmbedding", "Transformer"),
    *("WeightedLayerPooling", "WordEmbeddings", "WordWeights"),
}
_POOLING = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_ACTIVATIONS = {
    None: "torch.nn.modules.linear.Identity",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
}
_CAN = (
    "A Sentence Transformers directory can hold an EmbeddingFinetuner, and an "
    "AdapterFinetuner with adapter='linear', 'low_rank' or 'mlp' over a "
    "SentenceEncoder or an EmbeddingFinetuner. skembft.dump saves other finetuners."
)


def cannot_export(reason: str) -> ValueError:
    """Return the ValueError of what no module of Sentence Transformers can say."""
    return ValueError(f"{reason} {_CAN}")


class HasModel(Protocol):
    """A fitted `EmbeddingFinetuner`, which is of a higher folder."""

    @property
    def model_(self) -> "SentenceTransformer": ...


class Exporter:
    """Writes a model: a base, and what comes after it.

    Parameters
    ----------
    base : SentenceEncoder or EmbeddingFinetuner
        The text model.
    layers : dict of {str: list of (weight, bias or None, activation)}
        Of "query" and "document", what follows the base; {} where nothing does.
    """

    root: Path | None

    def __init__(
        self,
        base: SentenceEncoder | HasModel,
        layers: Mapping[str, Sequence[Layer] | None],
    ) -> None:
        self.base, self.layers = base, layers
        if isinstance(base, SentenceEncoder):
            self.root = base._files().root
            self.truncate_dim, self.normalize = base.truncate_dim, base.normalize
        else:
            from skembft._models.loading import ends_in_normalize

            self.root = None
            self.truncate_dim = base.model_.truncate_dim
            self.normalize = ends_in_normalize(base.model_)

    def write(self, directory: Path) -> None:
        """Write one directory; a Router tells queries from documents if needed."""
        modules = self._write_base(directory)
        query, document = self.layers.get("query"), self.layers.get("document")
        if not self.layers:
            pass
        elif _same(query, document):
            self._append_layers(directory, modules, query)
        else:
            self._append_router(directory, modules)
        dump_json(directory / "modules.json", modules)

    def write_role(self, directory: Path, role: Role) -> None:
        """Write the model of "query" or "document" alone, without a Router."""
        directory.mkdir()
        modules = self._write_base(directory, role)
        if any(module["type"].endswith((".Router", ".Asym")) for module in modules):
            raise cannot_export("split=True: the encoder itself has a Router.")
        if self.layers:
            self._append_layers(directory, modules, self.layers[role])
        dump_json(directory / "modules.json", modules)

    # ---- the base

    def _write_base(self, directory: Path, role: Role | None = None) -> Modules:
        """Write the files of the base; return its list of modules."""
        # other weights than the stored ones may have been asked for
        params = getattr(self.base, "model_params", None)
        if self.root is None or params or not _is_plain(self.root):
            self._save_loaded(directory, role)
        else:
            for path in ModelFiles(self.root)._paths("torch", False):
                target = directory / path.relative_to(self.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        modules = ModelFiles(directory)._modules()
        for module in modules:
            module["type"] = _old_name(module["type"])
            _make_old(directory, module["path"], module["type"])
        self.n_base = len(modules)
        self._write_prompts(directory, role)
        limit = getattr(self.base, "max_seq_length", None)
        if limit is not None and self.root is not None:
            _limit_tokens(directory / modules[0]["path"], modules[0]["type"], limit)
        if self.truncate_dim is not None:
            full = _base_dimension(self.base)
            dim = min(self.truncate_dim, full)
            _append(directory, modules, "Dense", (np.eye(dim, full), None, None))
        ends = modules[-1]["type"].endswith(".Normalize")
        if self.normalize and not ends:
            _append(directory, modules, "Normalize")
        self.n_encoder = len(modules)
        return modules

    def _save_loaded(self, directory: Path, role: Role | None) -> None:
        from skembft._models.loading import save_merged
        from skembft._models.routes import route_of

        if isinstance(self.base, SentenceEncoder):
            model = self.base._load().model
        else:
            model = self.base.model_
        if role is not None:
            model = route_of(model, role)
        save_merged(model, directory)

    def _write_prompts(self, directory: Path, role: Role | None) -> None:
        path = directory / "config_sentence_transformers.json"
        config = load_json(path, {})
        prompts = dict(config.get("prompts") or {})
        base = self.base
        if isinstance(base, SentenceEncoder):
            files = base._files()
            mine = {r: base._prompt(files, r) for r in ROLES}
        else:
            mine = {r: choose_prompt(prompts, None, r) for r in ROLES}
        config["prompts"] = {**prompts, **mine}
        # where only one kind of text comes, a plain `encode` means it
        config["default_prompt_name"] = role if role and mine[role] else None
        if self.layers or self.normalize or "similarity_fn_name" not in config:
            config["similarity_fn_name"] = "cosine"
        config.setdefault("model_type", "SentenceTransformer")
        config.pop("truncate_dim", None)  # of the base; ours is a module
        dump_json(path, config)

    # ---- what comes after it

    def _append_layers(
        self, directory: Path, modules: Modules, layers: Sequence[Layer] | None
    ) -> None:
        if layers is None:
            return
        if not self.normalize:
            _append(directory, modules, "Normalize")
        for layer in layers:
            _append(directory, modules, "Dense", layer)
        if layers:
            _append(directory, modules, "Normalize")

    def _append_router(self, directory: Path, modules: Modules) -> None:
        path = f"{len(modules)}_Router"
        structure, types = {}, {}
        for role, layers in self.layers.items():
            inner: Modules = []
            (directory / path).mkdir(exist_ok=True)
            self._append_layers(directory / path, inner, layers)
            if not inner and self.normalize:  # a route needs a module in some versions
                _append(directory / path, inner, "Normalize")
            for module in inner:
                old = module["path"]
                module["path"] = f"{role}_{old}"
                os.rename(directory / path / old, directory / path / module["path"])
                types[module["path"]] = module["type"]
            structure[role] = [module["path"] for module in inner]
        config = {
            "types": types,
            "structure": structure,
            "parameters": {"default_route": "document"},
        }
        dump_json(directory / path / "router_config.json", config)
        modules.append(_entry(len(modules), path, "Router"))


def _same(a: Sequence[Layer] | None, b: Sequence[Layer] | None) -> bool:
    """Whether two lists of layers are equal."""
    if a is None or b is None or len(a) != len(b):
        return a is b
    return all(
        np.array_equal(x[0], y[0]) and _same_bias(x[1], y[1])
        for x, y in zip(a, b, strict=True)
    )


def _same_bias(a: Floats | None, b: Floats | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _append(
    directory: Path, modules: Modules, name: str, layer: Layer | None = None
) -> None:
    """Write a module behind the others: a Normalize, or a Dense of a layer."""
    folder = directory / f"{len(modules)}_{name}"
    folder.mkdir()
    if layer is not None:
        from safetensors.numpy import save_file

        weight, bias, activation = layer
        weights = {"linear.weight": np.ascontiguousarray(weight, dtype=np.float32)}
        if bias is not None:
            weights["linear.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": bias is not None,
            "activation_function": _ACTIVATIONS[activation],
        }
        dump_json(folder / "config.json", config)
    else:  # an empty folder would be lost by git, zip and hubs
        dump_json(folder / "config.json", {})
    modules.append(_entry(len(modules), folder.name, name))


def _entry(index: int, path: str, name: str) -> dict[str, Any]:
    return {
        "idx": index,
        "name": str(index),
        "path": path,
        "type": f"sentence_transformers.models.{name}",
    }


# ---- files of other versions


def _is_plain(root: Path) -> bool:
    """Whether copying a directory's files makes a model of shipped modules.

    Of what is stored in bfloat16 or float16, plain loading would compute in that.
    """
    files = ModelFiles(root)
    if not files._modules() or (root / "adapter_config.json").exists():
        return False
    if not files.in_float32():
        return False
    return not any(path.suffix in UNSAFE for path in files._paths("torch", False))


def _old_name(name: str) -> str:
    package, _, cls = name.rpartition(".")
    if package.partition(".")[0] != "sentence_transformers" or cls not in _SHIPPED:
        raise cannot_export(f"The model has a module {name!r} of its own code.")
    return f"sentence_transformers.models.{cls}"


def _make_old(directory: Path, path: str, name: str) -> None:
    """Rewrite a module's settings as version 5.2 reads them; the newest does too."""
    folder = directory / path
    if name.endswith(".Pooling"):
        config = load_json(folder / "config.json", {})
        if "embedding_dimension" in config:
            config["word_embedding_dimension"] = config.pop("embedding_dimension")
            modes = config.pop("pooling_mode")
            modes = [modes] if isinstance(modes, str) else modes
            if modes != [mode for mode in _POOLING if mode in modes]:
                return  # in an order that version 5.2 does not know
            config.update({key: mode in modes for mode, key in _POOLING.items()})
            dump_json(folder / "config.json", config)
    elif name.endswith(".Transformer"):
        _check_no_code(folder)
        tokenizer = load_json(folder / "tokenizer_config.json", {})
        if tokenizer.get("tokenizer_class") == "TokenizersBackend":  # Transformers 5
            tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
            dump_json(folder / "tokenizer_config.json", tokenizer)
        config = load_json(folder / "sentence_bert_config.json", {})
        if _reads_text_only(config):
            limit = tokenizer.get("model_max_length")
            old: dict[str, int] = {"do_lower_case": False}
            if isinstance(limit, int) and limit < 10**9:
                old["max_seq_length"] = limit
            dump_json(folder / "sentence_bert_config.json", old)
    elif name.endswith(".Dense"):
        config = load_json(folder / "config.json", {})
        names = ("module_input_name", "module_output_name")
        if all(config.get(n) == "sentence_embedding" for n in names):
            for n in names:
                del config[n]
            dump_json(folder / "config.json", config)
    elif name.endswith((".Router", ".Asym")):
        config = load_json(folder / "router_config.json", None)
        if config is not None:
            types = config["types"] = {
                k: _old_name(v) for k, v in config["types"].items()
            }
            if not config["parameters"].get("route_mappings"):  # unknown to 5.2
                config["parameters"].pop("route_mappings", None)
            dump_json(folder / "router_config.json", config)
            for inner, kind in types.items():
                _make_old(folder, inner, kind)


def _reads_text_only(config: dict[str, Any]) -> bool:
    """Whether settings of version 5.4 and later say nothing that 5.2 cannot do."""
    if config.get("transformer_task") != "feature-extraction":
        return False
    known = {"transformer_task", "modality_config", "module_output_name"}
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    return (
        set(config) == known
        and config["modality_config"] == {"text": text}
        and config["module_output_name"] == "token_embeddings"
    )


def _check_no_code(folder: Path) -> None:
    if "auto_map" in load_json(folder / "config.json", {}):
        raise cannot_export("The model needs trust_remote_code to load.")


def _limit_tokens(folder: Path, name: str, limit: int) -> None:
    if not name.endswith(".Transformer"):
        raise cannot_export(f"max_seq_length={limit} goes with a Transformer only.")
    path = folder / "sentence_bert_config.json"
    dump_json(path, {**load_json(path, {}), "max_seq_length": int(limit)})


def _base_dimension(base: SentenceEncoder | HasModel) -> int:
    from skembft._models.loading import dimension_of

    model = base._load().model if isinstance(base, SentenceEncoder) else base.model_
    with model.truncate_embeddings(None):
        return dimension_of(model)
