"""Code that is not of Sentence Transformers or transformers, in a model."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from torch import nn
from transformers.dynamic_module_utils import get_relative_import_files

from skembft._models.loading import no_progress_bar, save_merged
from skembft._models.lora import has_lora, known_base
from skembft._models.random_state import isolated_rng
from skembft._utils.atomic import dump_json, load_json

_OF_DIRECTORIES = "transformers_modules."  # where transformers imports such code


def installed_classes(model: SentenceTransformer) -> dict[str, type[nn.Module]]:
    """Classes of modules that come from another package, by their full names."""
    classes = {type(m) for m in model.modules() if hasattr(type(m), "load")}
    return {
        f"{cls.__module__}.{cls.__name__}": cls
        for cls in classes
        if not cls.__module__.startswith(("sentence_transformers.", _OF_DIRECTORIES))
    }


def carried_classes(model: SentenceTransformer) -> list[type]:
    """Classes whose code lies in the directory, or repository, of the model itself."""
    classes = dict.fromkeys(map(type, _parts(model)))
    return [cls for cls in classes if cls.__module__.startswith(_OF_DIRECTORIES)]


def check_for_routes(model: SentenceTransformer) -> None:
    """Refuse modules whose code Sentence Transformers would not find in a route."""
    for module in model:
        cls = type(module)
        if cls.__module__.startswith(_OF_DIRECTORIES):
            raise ValueError(
                "side='query' gives a model routes, and from the files of a route no "
                f"code is read, such as that of {cls.__name__}: use side='both', or an "
                "AdapterFinetuner."
            )


def _parts(model: SentenceTransformer) -> Iterator[object]:
    for module in model.modules():
        yield module
        for name in ("config", "tokenizer", "processor"):
            yield getattr(module, name, None)


def save_with_code(model: SentenceTransformer, directory: Path) -> None:
    """Write a model's files, and the code that it came with.

    Code is looked for in the directory itself; Sentence Transformers puts it below, or
    leaves it out. Low-rank weights are written alone where others can read what they
    are beside, and otherwise folded in.
    """
    base = None if isinstance(model[0], Router) else known_base(model)
    if base is None:
        save_merged(model, directory)
    else:
        with no_progress_bar():
            model.save_pretrained(str(directory), create_model_card=False)
        if has_lora(model):
            config = directory / "adapter_config.json"
            dump_json(config, load_json(config, {}) | {"base_model_name_or_path": base})
    for cls in carried_classes(model):
        code = sys.modules[cls.__module__].__file__
        if code is None:
            continue
        for path in [code, *get_relative_import_files(code)]:
            target = directory / Path(path).name
            if not target.exists():
                shutil.copyfile(path, target)


def reopened(model: SentenceTransformer, directory: Path | str) -> SentenceTransformer:
    """The model of a directory in which one that is in memory was saved.

    Its modules are of the same classes, which need not be found again.
    """
    classes = {}
    for module in model.modules():
        cls = type(module)
        if hasattr(cls, "load"):
            package = cls.__module__
            if package.startswith(_OF_DIRECTORIES):  # as it is saved
                package = package.rpartition(".")[2]
            classes[f"{package}.{cls.__name__}"] = cls
    with no_progress_bar(), isolated_rng():
        return SentenceTransformer._load_with_module_classes(
            str(directory),
            classes,
            device="cpu",
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
        )
