"""The order of the examples in the gallery."""

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


class ReadingOrder(ExampleTitleSortKey):
    """By the list above; others follow by title."""

    def __call__(self, filename):
        name = str(filename).removeprefix("plot_").removesuffix(".py")
        place = _FIRST.index(name) if name in _FIRST else len(_FIRST)
        return place, super().__call__(filename)
