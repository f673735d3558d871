"""Pictures, in the style of scikit-learn's displays; matplotlib is imported to draw."""

from math import isfinite
from numbers import Integral, Real
from operator import index

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skembft._encoders import as_encoder
from skembft._utils import nearest, shorten
from skembft.metrics import RetrievalScorer

_GAIN, _LOSS = "#1b7f5c", "#c0392b"


def _new_axes(ax, **options):
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib: pip install 'skembft[plot]'."
        ) from error
    return plt.subplots(layout="constrained", **options)[1]


class RetrievalCurveDisplay:
    """A metric against the cut-off k, of one retriever or of two.

    Parameters
    ----------
    ks : list of int
    scores : dict of {name: list of float}
        A value for every k.
    metric : str
        Without a cut-off: "recall".

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    lines_ : list of matplotlib lines

    Examples
    --------
    >>> from skembft import PrecomputedEncoder
    >>> from skembft.inspection import RetrievalCurveDisplay
    >>> index = PrecomputedEncoder({"q": [1, 0.9], "a": [1, 0], "b": [0, 1]})
    >>> display = RetrievalCurveDisplay.from_estimator(
    ...     index, ["q"], ["b"], corpus=["a"], ks=[1, 2]
    ... )
    >>> display.scores
    {'PrecomputedEncoder': [0.0, 1.0]}
    """

    def __init__(self, ks, scores, *, metric):
        self.ks, self.scores, self.metric = ks, scores, metric

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        corpus=None,
        before=None,
        metric="recall",
        ks=(1, 2, 3, 5, 10, 20, 50, 100),
        exclude_self=False,
        ax=None,
    ):
        """Rank, score at every k, and draw.

        Parameters
        ----------
        estimator : encoder, fitted finetuner, Pipeline or fitted search
        X, y : same forms as in ``fit``
        corpus : array-like of documents, default=None
            More documents to retrieve from, besides those of `y`.
        before : str, encoder or estimator, default=None
            What to compare with, as a rule the untouched model; a str is the name or
            directory of a model.
        metric : str, default="recall"
            Without a cut-off.
        ks : sequence of int
            Drawn in ascending order.
        exclude_self : bool, default=False
            As in :class:`skembft.metrics.RetrievalScorer`.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : RetrievalCurveDisplay
        """
        if "@" in metric:
            raise ValueError(
                f"metric={metric!r} has a cut-off: pass "
                f"metric={metric.partition('@')[0]!r}, and the cut-offs as ks."
            )
        ks = sorted({index(k) for k in ks})
        if not ks:
            raise ValueError("ks is empty: pass the cut-offs to draw.")
        names = [f"{metric}@{k}" for k in ks]
        scorer = RetrievalScorer(names, corpus=corpus, exclude_self=exclude_self)
        compared = {type(estimator).__name__: estimator}
        if before is not None:
            compared = {"before": as_encoder(before), "after": estimator}
        scores = {
            label: list(scorer(retriever, X, y).values())
            for label, retriever in compared.items()
        }
        return cls(ks, scores, metric=metric).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw a line a retriever.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : RetrievalCurveDisplay
        """
        self.ax_ = ax = _new_axes(ax)
        self.figure_ = ax.figure
        self.lines_ = [
            ax.plot(self.ks, values, marker="o", label=name)[0]
            for name, values in self.scores.items()
        ]
        ax.set(xscale="log", xlabel="k", ylabel=f"{self.metric}@k")
        ax.set_xticks(self.ks, [str(k) for k in self.ks])
        ax.set_xticks([], minor=True)
        ax.grid(alpha=0.3)
        ax.legend()
        return self


class QueryGainDisplay:
    """What a metric has gained for every query, the greatest gain first.

    Parameters
    ----------
    gains : ndarray of shape (n_queries,)
    metric : str

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
    """

    def __init__(self, gains, *, metric):
        self.gains, self.metric = np.asarray(gains), metric

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        before,
        corpus=None,
        metric="ndcg@10",
        exclude_self=False,
        ax=None,
    ):
        """Rank with both, score every query, and draw.

        Parameters
        ----------
        estimator : encoder, fitted finetuner, Pipeline or fitted search
        X, y : same forms as in ``fit``
        before : str, encoder or estimator
            What to compare with; a str is the name or directory of a model.
        corpus : array-like of documents, default=None
            More documents to retrieve from, besides those of `y`.
        metric : str, default="ndcg@10"
        exclude_self : bool, default=False
            As in :class:`skembft.metrics.RetrievalScorer`.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : QueryGainDisplay
        """
        scorer = RetrievalScorer(metric, corpus=corpus, exclude_self=exclude_self)
        before = as_encoder(before)
        gains = scorer.per_query(estimator, X, y) - scorer.per_query(before, X, y)
        return cls(gains[np.isfinite(gains)], metric=metric).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the sorted gains as an area, and say how many queries they are.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : QueryGainDisplay
        """
        self.ax_ = ax = _new_axes(ax)
        self.figure_ = ax.figure
        gains = np.sort(self.gains)[::-1]
        edges = np.arange(len(gains) + 1)
        counts = {
            "helped": (gains > 0, _GAIN),
            "hurt": (gains < 0, _LOSS),
        }
        for name, (mask, color) in counts.items():
            ax.stairs(
                np.where(mask, gains, 0),
                edges,
                fill=True,
                color=color,
                label=f"{mask.sum()} {name}",
            )
        unchanged = np.count_nonzero(gains == 0)
        ax.axhline(0, color="black", linewidth=0.8, label=f"{unchanged} unchanged")
        mean = gains.mean()
        ax.axhline(mean, color="black", linestyle="--", label=f"mean {mean:+.3f}")
        ax.set(xlabel="queries, by gain", ylabel=f"gain in {self.metric}")
        ax.set_xlim(0, len(gains))
        ax.legend()
        return self


class TrainingHistoryDisplay:
    """Training loss and validation metric of a fit, with the best step marked.

    Parameters
    ----------
    history : list of dict
        `history_` of a finetuner.
    metric : str or None
        The validation metric to draw; None where there was no validation.
    best_step : int
        The step whose weights were kept.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        The axes of the metric, or of the loss without validation.
    loss_ax_ : matplotlib Axes or None
        Its own axes for the loss, where both are drawn.
    """

    def __init__(self, history, *, metric=None, best_step=0):
        if metric is not None and metric not in history[0]:
            recorded = [name for name in history[0] if "@" in name]
            raise ValueError(
                f"history_ has no {metric!r}. "
                + (
                    nearest(metric, recorded)
                    if recorded
                    else "There was no validation."
                )
            )
        self.history, self.metric, self.best_step = history, metric, best_step

    @classmethod
    def from_estimator(cls, estimator, *, metric=None, ax=None):
        """Draw `history_` of a fitted finetuner.

        Parameters
        ----------
        estimator : fitted finetuner
        metric : str, default=None
            None means the one that chose the best step.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : TrainingHistoryDisplay
        """
        check_is_fitted(estimator)
        return estimator.history_.plot(metric, ax=ax)

    def plot(self, *, ax=None):
        """Draw the loss, and the metric on axes of its own.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : TrainingHistoryDisplay
        """
        self.ax_ = ax = _new_axes(ax)
        self.figure_ = ax.figure
        # CorpusFinetuner tries values of gamma instead of training for epochs
        x = "gamma" if "gamma" in self.history[0] else "epoch"
        has_loss = any(entry["loss"] is not None for entry in self.history)
        both = has_loss and self.metric is not None
        self.loss_ax_ = ax.twinx() if both else None
        handles = []
        if self.metric is not None:
            handles += self._plot_metric(ax, x)
        if has_loss:
            trained = [entry for entry in self.history if entry["loss"] is not None]
            where = self.loss_ax_ or ax
            handles += where.plot(
                [entry[x] for entry in trained],
                [entry["loss"] for entry in trained],
                color="C1",
                linestyle="--",
                label="training loss",
            )
            where.set_ylabel("training loss")
        ax.set_xlabel(x)
        # below: a legend would lie under the lines of the other axes
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
        ax.legend(handles=handles, ncols=2, **place)
        return self

    def _plot_metric(self, ax, x):
        values = [entry[self.metric] for entry in self.history]
        line = ax.plot(
            [entry[x] for entry in self.history],
            values,
            marker="." if len(values) < 60 else None,
            label=f"validation {self.metric}",
        )
        base = ax.axhline(values[0], color="C0", alpha=0.5, linestyle=":")
        base.set_label("untouched model")
        best = next(e for e in self.history if e["step"] == self.best_step)
        star = ax.plot(
            best[x],
            best[self.metric],
            marker="*",
            markersize=14,
            color=_GAIN,
            linestyle="none",
            zorder=3,
            label=f"best: {best[self.metric]:.4f} at {x} {best[x]:.3g}",
        )
        ax.set_ylabel(self.metric)
        return [*line, base, *star]


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

    def __init__(self, scores, rows, columns, *, row_name, column_name, metric):
        self.scores, self.rows, self.columns = np.asarray(scores), rows, columns
        self.row_name, self.column_name, self.metric = row_name, column_name, metric

    @classmethod
    def from_estimator(cls, search, *, x=None, y=None, metric=None, ax=None):
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
        chosen = [name for name in (x, y) if name is not None]
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
        cells = {}
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

    def plot(self, *, ax=None):
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
        self.ax_ = ax = _new_axes(ax, figsize=(width, max(height, 2.4)))
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
        ax.add_patch(_frame(column - 0.5, row - 0.5, edgecolor=_LOSS, linewidth=3))
        ax.set_xticks(
            range(len(self.columns)), self.columns if self.column_name else [""]
        )
        ax.set_yticks(range(len(self.rows)), self.rows if self.row_name else [""])
        ax.set(xlabel=self.column_name, ylabel=self.row_name)
        return self


class _Axis:
    """The distinct values of a parameter: numbers by size, others as they come."""

    def __init__(self, values):
        distinct = list({self._key(value): value for value in values}.values())
        if all(isinstance(value, Real) for value in distinct):
            distinct.sort()
        self._place = {self._key(value): i for i, value in enumerate(distinct)}
        labels = [_label(value) for value in distinct]
        self.labels = [
            label if labels.count(label) == 1 else f"{label} ({i + 1})"
            for i, label in enumerate(labels)
        ]

    def find(self, value):
        return self._place[self._key(value)]

    @staticmethod
    def _key(value):
        # estimators with other data or defaults may have equal representations
        return id(value) if hasattr(value, "get_params") else repr(value)


def _label(value):
    if isinstance(value, str):
        return value
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{float(value):.4g}"
    return shorten(value.item() if isinstance(value, np.generic) else value, 24)


def _frame(x, y, **options):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, fill=False, clip_on=False, **options)


def _score_column(search, metric):
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


def _metric_name(search, title):
    """What to call the scores: a lone metric is only "score" in `cv_results_`."""
    if title != "score":
        return title
    if search.scoring is None:
        return getattr(search.estimator, "scoring", title)
    return getattr(search.scoring, "metrics", title)
