"""The private names of other packages that we use, all in one place.

A version that lacks one fails here, by its name. ``make newest`` tries the newest.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skembft"

# name: the module in whose code it stands
NAMES = {
    "_embedding_bag": "torch.nn.functional",  # as torch.ops.aten's
    "_embedding_bag_backward": "torch.nn.functional",
    "_is_amx_tile_supported": "torch.cpu",
    "_is_avx512_bf16_supported": "torch.cpu",
    "_hf_peft_config_loaded": "transformers.integrations.peft",
    "_n_gpu": "transformers.training_args",
    "_name_or_path": "transformers.configuration_utils",
    "_weight_conversions": "transformers.core_model_loading",
    "_original_forward": "accelerate.accelerator",
    "_build_dataloader": "sentence_transformers.base.trainer",
    "_resolve_route": "sentence_transformers.base.modules.router",
    "_model_card_text": "sentence_transformers.base.model",
    "_load_with_module_classes": "sentence_transformers.base.model",
    "_fit_context": "sklearn.base",
    "_get_param_names": "sklearn.base",
    "_init_callback_context": "sklearn.callback._callback_support",
    "_skl_callbacks": "sklearn.callback._callback_support",
    "_safe_indexing": "sklearn.utils",
    "_indices": "datasets.arrow_dataset",
    "_sklearn_output_config": "sklearn.utils._set_output",
}
# methods of a class of ours that the trainer calls
OVERRIDDEN = {
    "_load_from_checkpoint": "transformers.trainer",
    "_save": "transformers.trainer",
    "_save_checkpoint": "transformers.trainer",
    "_prepare_input": "transformers.trainer",
    "_save_rng_state": "transformers.trainer",
    "_load_rng_state": "transformers.trainer",
    "_setup_devices": "transformers.training_args",
}
# what Python, or an interface that others implement, calls so
PUBLIC = {"_getframe", "_aget_text_embeddings", "_fields", "_replace"}
MODULES = {"sklearn.utils._param_validation"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name.strip("_")


def names_in_use():
    """Private attributes and imports that nothing in the package defines."""
    used, defined, modules = set(), set(), set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name("self")):
                    defined.add(name)
                case ast.Attribute(attr=name):
                    used.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    defined.add(name)
                case ast.AnnAssign(target=ast.Name(name)):
                    defined.add(name)
                case ast.Assign(targets=targets):
                    defined |= {t.id for t in targets if isinstance(t, ast.Name)}
                case ast.ImportFrom(module=module, names=names) if not (
                    module or "skembft"
                ).startswith("skembft"):
                    used |= {alias.name for alias in names}
                    if any(map(is_private, module.split("."))):
                        modules.add(module)
                # names that are asked for by getattr and hasattr, or set in a state
                case ast.Call(func=ast.Name("getattr" | "hasattr"), args=[_, name, *_]):
                    used.add(getattr(name, "value", ""))
    used = {name for name in used if isinstance(name, str) and is_private(name)}
    return used - defined, modules


def test_all_are_listed():
    used, modules = names_in_use()
    states = {name for name in used if f'"{name}"' in SOURCE}  # of our own estimators
    assert used - states <= {*NAMES, *PUBLIC}, "list it in tests/test_private_names.py"
    assert modules == MODULES


SOURCE = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    ("name", "module"), [*NAMES.items(), *OVERRIDDEN.items()], ids=str
)
def test_each_is_there(name, module):
    assert name in SOURCE
    if module == "torch.nn.functional":
        import torch

        assert hasattr(torch.ops.aten, name)
        return
    source = inspect.getsource(importlib.import_module(module))
    assert re.search(rf"\b{name}\b", source), f"{module} has no {name} any more"
