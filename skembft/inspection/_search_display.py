"""The results of a search as a heat map."""

from collections.abc import Hashable, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from skembft._utils.messages import nearest, shorten
from skembft.inspection._displays import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

_BEST = "#c0392b"


class SearchResultsDisplay:
    """Mean test scores of a search as a heat map over two parameters.

    Where several candidates share a cell (other parameters were searched too), the best
    of them is shown.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_columns)
        NaN where no candidate was, or where it failed.
    rows, columns : list
        The values of the two parameters.
    row_name, column_name : str
        The parameters; `row_name` is "" where only one was searched.
    metric : str

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    image_ : matplotlib image
    """

    def __init__(
        self,
        scores: ArrayLike,
        rows: Sequence[str],
        columns: Sequence[str],
        *,
        row_name: str,
        column_name: str,
        metric: str,
    ) -> None:
        self.scores, self.rows, self.columns = np.asarray(scores), rows, columns
        self.row_name, self.column_name, self.metric = row_name, column_name, metric

    @classmethod
    def from_estimator(
        cls,
        search: Any,
        *,
        x: str | None = None,
        y: str | None = None,
        metric: str | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw `cv_results_` of a fitted search.

        Parameters
        ----------
        search : fitted GridSearchCV, RandomizedSearchCV or their halving kin
            Of a halving search every candidate counts with its last round.
        x, y : str, default=None
            The parameters of the columns and rows. None takes the searched parameters
            in turn.
        metric : str, default=None
            With several metrics which one; None means the one that chose (`refit`).
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : SearchResultsDisplay
        """
        check_is_fitted(search, "cv_results_")
        results = search.cv_results_
        column = _score_column(search, metric)
        varied = list(dict.fromkeys(name for p in results["params"] for name in p))
        chosen: list[str | None] = [name for name in (x, y) if name is not None]
        for name in chosen:
            if name not in varied:
                raise ValueError(f"{name!r} was not searched. {nearest(name, varied)}")
        # a halving search sets its resource itself
        chosen.append(getattr(search, "resource", None))
        free = [name for name in varied if name not in chosen]
        x = x or (free.pop(0) if free else "")
        y = y or (free.pop(0) if free else "")
        rows, columns = (
            _Axis([params.get(name, "") for params in results["params"]])
            for name in (y, x)
        )
        cells: dict[tuple[int, int], tuple[float, float]] = {}
        rounds = results.get("iter", np.zeros(len(results["params"])))
        for params, score, number in zip(
            results["params"], results[column], rounds, strict=True
        ):
            place = rows.find(params.get(y, "")), columns.find(params.get(x, ""))
            # a score that failed loses against any other of its round
            value = (number, score if isfinite(score) else -np.inf)
            cells[place] = max(cells.get(place, (-1, 0)), value)
        scores = np.full((len(rows.labels), len(columns.labels)), np.nan)
        for place, (_, score) in cells.items():
            if isfinite(score):
                scores[place] = score
        if np.isnan(scores).all():
            raise ValueError(
                "No candidate of the search has a score: all fits or scores failed. "
                'Search with error_score="raise" to see why.'
            )
        title = column.removeprefix("mean_test_")
        display = cls(
            scores,
            rows.labels,
            columns.labels,
            row_name=y,
            column_name=x,
            metric=_metric_name(search, title),
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: "Axes | None" = None) -> Self:
        """Draw a cell a pair of values, the best one framed, what failed grey.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : SearchResultsDisplay
        """
        height = 1.6 + 0.5 * len(self.rows)
        width = 3.5 + 1.1 * len(self.columns)
        self.ax_ = ax = new_axes(ax, figsize=(width, max(height, 2.4)))
        self.figure_ = ax.figure
        ax.set_facecolor("0.85")
        self.image_ = ax.imshow(self.scores, cmap="viridis", aspect="auto")
        ax.figure.colorbar(self.image_, ax=ax, label=f"mean test {self.metric}")
        low, high = np.nanmin(self.scores), np.nanmax(self.scores)
        for (row, column), score in np.ndenumerate(self.scores):
            failed = np.isnan(score)
            # the dark half of the colours needs light letters
            light = not failed and score < (low + high) / 2
            ax.text(
                column,
                row,
                "–" if failed else f"{score:.3f}",
                ha="center",
                va="center",
                color="white" if light else "black",
            )
        row, column = np.unravel_index(np.nanargmax(self.scores), self.scores.shape)
        ax.add_patch(_frame(column - 0.5, row - 0.5, edgecolor=_BEST, linewidth=3))
        ax.set_xticks(
            range(len(self.columns)), self.columns if self.column_name else [""]
        )
        ax.set_yticks(range(len(self.rows)), self.rows if self.row_name else [""])
        ax.set(xlabel=self.column_name, ylabel=self.row_name)
        return self


class _Axis:
    """The distinct values of a parameter: numbers by size, others as they come."""

    def __init__(self, values: list[Any]) -> None:
        distinct = list({self._key(value): value for value in values}.values())
        if all(isinstance(value, Real) for value in distinct):
            distinct.sort()
        self._place = {self._key(value): i for i, value in enumerate(distinct)}
        labels = [_label(value) for value in distinct]
        self.labels = [
            label if labels.count(label) == 1 else f"{label} ({i + 1})"
            for i, label in enumerate(labels)
        ]

    def find(self, value: Any) -> int:
        return self._place[self._key(value)]

    @staticmethod
    def _key(value: Any) -> Hashable:
        # estimators with other data or defaults may have equal representations
        return id(value) if hasattr(value, "get_params") else repr(value)


def _label(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{float(value):.4g}"
    return shorten(value.item() if isinstance(value, np.generic) else value, 24)


def _frame(x: float, y: float, **options: Any) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, fill=False, clip_on=False, **options)


def _score_column(search: Any, metric: str | None) -> str:
    """The key of `cv_results_` that holds the mean scores of a metric."""
    names = [key for key in search.cv_results_ if key.startswith("mean_test_")]
    if metric is None and len(names) > 1:
        metric = search.refit
        if not isinstance(metric, str):
            valid = [name.removeprefix("mean_test_") for name in names]
            raise ValueError(
                f"The search has several metrics, and refit={metric!r} names none of "
                f"them: pass metric=, one of {', '.join(map(repr, valid))}."
            )
    if metric is None:
        return names[0]
    if f"mean_test_{metric}" not in names:
        valid = [name.removeprefix("mean_test_") for name in names]
        raise ValueError(f"The search has no {metric!r}. {nearest(metric, valid)}")
    return f"mean_test_{metric}"


def _metric_name(search: Any, title: str) -> str:
    """What to call the scores: a lone metric is only "score" in `cv_results_`."""
    if title != "score":
        return title
    if search.scoring is None:
        return getattr(search.estimator, "scoring", title)
    return getattr(search.scoring, "metrics", title)
