"""Packages that are not installed with skembft."""

import importlib
from types import ModuleType


def import_optional(module: str, who: str, extra: str) -> ModuleType:
    """Import a module of such a package, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who} needs {module} ({error}): pip install 'skembft[{extra}]'."
        ) from error
