"""The order of the examples in the gallery."""

from pathlib import Path

from sphinx_gallery.sorting import ExampleTitleSortKey

# first what users come with, then how to search and to judge; the two that take longest
# begin first, so that two processes end together
_FIRST = (
    "quickstart",
    "duplicate_questions",
    "api_no_gpu",
    "second_language",
    "query_side",
    "grid_search",
    "learning_curve",
    "compare",
    "no_gain",
    "calibration",
    "optuna",
)


def place(filename):
    """The place in the list above, or behind it."""
    name = Path(filename).stem.removeprefix("plot_")
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


class ReadingOrder(ExampleTitleSortKey):
    """By the list above; others follow by title."""

    def __call__(self, filename):
        return place(filename), super().__call__(filename)
