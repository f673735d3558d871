"""The plan of CONTRIBUTING.md: imports go one way, and torch is not everywhere."""

import ast
from pathlib import Path

import skembft

ROOT = Path(skembft.__file__).parent
# from the ground to the roof; a file imports from its own folder and from lower floors
FLOORS = [
    ["_version", "_utils", "exceptions"],
    ["_data", "_models"],
    ["_losses", "encoders", "metrics", "model_selection"],
    ["_saving", "calibration", "datasets", "inspection", "mining"],
    ["_finetuner"],
    ["_adapter", "_corpus", "_embedding", "callbacks"],
    ["integrations"],
    ["__init__"],
]
# the folders that compute with torch; all others import it, and these, when they need
# them: `import skembft` is quick
TORCH_FOLDERS = {"_adapter", "_embedding", "_losses", "_models"}
WITHOUT_TORCH = {
    *("_adapter/estimator", "_adapter/params", "_adapter/saved"),
    *("_embedding/estimator", "_embedding/checkpoints"),
    *("_embedding/identity", "_embedding/output"),
    *("_losses/params", "_losses/table"),
    *("_models/files", "_models/kinds", "_models/lora", "_models/params"),
    *("_models/prompts", "_models/similarity"),
}
HEAVY = {"accelerate", "peft", "sentence_transformers", "torch", "transformers"}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imports(file, *, lazy):
    """Dotted names that a file imports; also those inside of functions if `lazy`."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def uses_torch(name):
    """Whether a file, by its name without suffix, may import torch when it is read."""
    return name.split("/")[0] in TORCH_FOLDERS and not (
        name in WITHOUT_TORCH or name.endswith("__init__")
    )


def test_imports_go_down():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    for file in FILES:
        here = file.parts[0].removesuffix(".py")
        for name in imports(file, lazy=True):
            package, _, rest = name.partition(".")
            there = rest.partition(".")[0]
            if package == "skembft" and there != here:
                assert floor[there] < floor[here], f"{file} imports {name}"


def test_torch_is_imported_by_those_that_compute_with_it():
    for file in FILES:
        for name in imports(file, lazy=False):
            parts = name.split(".")
            ours = "/".join(parts[1:-1]) if parts[0] == "skembft" else ""
            if parts[0] in HEAVY or uses_torch(ours):
                assert uses_torch(file.with_suffix("").as_posix()), f"{file}: {name}"


def test_no_file_is_in_a_circle():
    # within a folder too: what is left when files without imports are taken away
    names = {file.with_suffix("").as_posix(): file for file in FILES}
    left = {
        name: {
            part
            for imported in imports(file, lazy=True)
            if imported.startswith("skembft.")
            for part in (
                imported.removeprefix("skembft.").replace(".", "/"),
                imported.removeprefix("skembft.").rpartition(".")[0].replace(".", "/"),
            )
            if part in names and part != name
        }
        for name, file in names.items()
    }
    while free := {name for name, needed in left.items() if not needed & set(left)}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert not left


def test_every_folder_says_what_is_in_it():
    for folder in {file.parent for file in FILES}:
        text = (ROOT / folder / "__init__.py").read_text(encoding="utf-8")
        assert (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0], folder


def test_the_top_folder_holds_folders():
    files = {path.name for path in ROOT.iterdir() if path.is_file()}
    assert files == {"__init__.py", "_version.py", "exceptions.py", "py.typed"}
