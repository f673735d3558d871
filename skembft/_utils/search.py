"""Whether a fit is one of a search."""

import sys
from types import FrameType


def in_search() -> bool:
    """Whether scikit-learn's model selection calls; nothing else tells a fit."""
    return bool(_searching_functions())


def in_fold() -> bool:
    """Whether this fit is one of a candidate or a fold, and not a last refit.

    A search that refits within a fold of another is one of a fold, too.
    """
    return bool(_searching_functions() - {"fit"})


def _searching_functions() -> set[str]:
    """Names of the functions of sklearn.model_selection that call."""
    names = set()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("sklearn.model_selection"):
            names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names
