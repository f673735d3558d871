"""Code that is not of Sentence Transformers or transformers, in a model."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sentence_transformers import SentenceTransformer
from torch import nn
from transformers.dynamic_module_utils import get_relative_import_files

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


def _parts(model: SentenceTransformer) -> Iterator[object]:
    for module in model.modules():
        yield module
        for name in ("config", "tokenizer", "processor"):
            yield getattr(module, name, None)


def write_code(model: SentenceTransformer, directory: Path) -> None:
    """Copy the code that a model came with into a directory that it was saved in.

    There it is looked for, and Sentence Transformers leaves it below or out.
    """
    for cls in carried_classes(model):
        code = sys.modules[cls.__module__].__file__
        if code is None:
            continue
        for path in [code, *get_relative_import_files(code)]:
            target = directory / Path(path).name
            if not target.exists():
                shutil.copyfile(path, target)
