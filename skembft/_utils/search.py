"""Whether a fit is one of a search."""

import sys
from types import FrameType


def in_search() -> bool:
    """Whether scikit-learn's model selection calls; nothing else tells a fit."""
    return _searching_function() is not None


def in_fold() -> bool:
    """Whether this fit is one of a candidate on a fold, and not the refit."""
    return _searching_function() not in (None, "fit")


def _searching_function() -> str | None:
    """Name of the function of sklearn.model_selection that calls, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("sklearn.model_selection"):
            return frame.f_code.co_name
        frame = frame.f_back
    return None
