"""Pictures, in the style of scikit-learn's displays; matplotlib is imported to draw."""

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from skembft._utils.messages import nearest
from skembft._utils.types import Data, OwnDocuments
from skembft.encoders._sentence import as_encoder
from skembft.inspection._rankings import rank_both
from skembft.metrics import RetrievalScorer
from skembft.metrics._measures import check_metrics
from skembft.metrics._scoring import common_own, unwrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_GAIN, _LOSS = "#1b7f5c", "#c0392b"


def _own(
    exclude_self: OwnDocuments | None, before: Any, after: Any, X: Data
) -> OwnDocuments:
    """What was given as `exclude_self`, or what the estimators have."""
    if exclude_self is not None:
        return exclude_self
    unwrapped = [
        e if e is None else unwrap(as_encoder(e), X)[0] for e in (before, after)
    ]
    return common_own(*unwrapped)


def new_axes(ax: "Axes | None", **options: Any) -> "Axes":
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

    def __init__(
        self, ks: Sequence[int], scores: Mapping[str, Sequence[float]], *, metric: str
    ) -> None:
        self.ks, self.scores, self.metric = ks, scores, metric

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Data,
        y: Data = None,
        *,
        corpus: Data = None,
        before: Any = None,
        metric: str = "recall",
        ks: Iterable[SupportsIndex] = (1, 2, 3, 5, 10, 20, 50, 100),
        exclude_self: OwnDocuments | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
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
        exclude_self : bool or dict of {query: document}, default=None
            As in :func:`compare_retrieval`: None means what the estimators have.
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
        exclude_self = _own(exclude_self, before, estimator, X)
        scorer = RetrievalScorer(names, corpus=corpus, exclude_self=exclude_self)
        compared = {type(estimator).__name__: estimator}
        if before is not None:
            compared = {"before": as_encoder(before), "after": estimator}
        scores = {}
        for label, retriever in compared.items():
            found = scorer(retriever, X, y)
            assert isinstance(found, dict)  # as names are a list
            scores[label] = list(found.values())
        return cls(ks, scores, metric=metric).plot(ax=ax)

    def plot(self, *, ax: "Axes | None" = None) -> Self:
        """Draw a line a retriever.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : RetrievalCurveDisplay
        """
        self.ax_ = ax = new_axes(ax)
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

    def __init__(self, gains: ArrayLike, *, metric: str) -> None:
        self.gains, self.metric = np.asarray(gains), metric

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Data,
        y: Data = None,
        *,
        before: Any,
        corpus: Data = None,
        metric: str = "ndcg@10",
        exclude_self: OwnDocuments | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
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
        exclude_self : bool or dict of {query: document}, default=None
            As in :func:`compare_retrieval`: None means what the estimators have.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : QueryGainDisplay
        """
        before = as_encoder(before)
        rankings = rank_both(
            unwrap(before, X),
            unwrap(as_encoder(estimator), X),
            y,
            corpus,
            check_metrics([metric]),
            exclude_self,
        )
        old, new = (side.values[metric] for side in rankings.sides)
        return cls(new - old, metric=metric).plot(ax=ax)

    def plot(self, *, ax: "Axes | None" = None) -> Self:
        """Draw the sorted gains as an area, and say how many queries they are.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : QueryGainDisplay
        """
        self.ax_ = ax = new_axes(ax)
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
    standard_error : bool
        Whether the "standard_error" of the entries is that of `metric`, and is drawn.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        The axes of the metric, or of the loss without validation.
    loss_ax_ : matplotlib Axes or None
        Its own axes for the loss, where both are drawn.
    """

    def __init__(
        self,
        history: Sequence[Mapping[str, Any]],
        *,
        metric: str | None = None,
        best_step: int | None = 0,
        standard_error: bool = False,
    ) -> None:
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
        self.standard_error = standard_error

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, metric: str | None = None, ax: "Axes | None" = None
    ) -> "TrainingHistoryDisplay":
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

    def plot(self, *, ax: "Axes | None" = None) -> Self:
        """Draw the loss, and the metric on axes of its own.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : TrainingHistoryDisplay
        """
        self.ax_ = ax = new_axes(ax)
        self.figure_ = ax.figure
        # CorpusFinetuner tries values of gamma instead of training for epochs
        x = "gamma" if "gamma" in self.history[0] else "epoch"
        has_loss = any(entry["loss"] is not None for entry in self.history)
        both = has_loss and self.metric is not None
        self.loss_ax_ = ax.twinx() if both else None
        handles = []
        if self.metric is not None:
            handles += self._plot_metric(ax, x, self.metric)
        if has_loss:
            entries = self._runs()[0][1]
            trained = [entry for entry in entries if entry["loss"] is not None]
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
        ax.legend(
            handles=handles, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13)
        )
        return self

    def _best(self) -> Mapping[str, Any]:
        """The entry whose weights were kept; {} where that is not known."""
        entries = [e for e in self.history if e["step"] == self.best_step]
        return entries[-1] if entries else {}

    def _runs(self) -> list[tuple[str | None, list[Mapping[str, Any]]]]:
        """The negatives that are compared with their entries, the chosen ones first.

        All entries as one run without a name where nothing is compared.
        """
        untouched, *trained = self.history
        runs = {entry.get("negatives"): [untouched] for entry in trained}
        for entry in trained:
            runs[entry.get("negatives")].append(entry)
        chosen = self._best().get("negatives")
        chosen_first = sorted(runs.items(), key=lambda run: run[0] != chosen)
        return chosen_first or [(None, [untouched])]

    def _plot_metric(self, ax: "Axes", x: str, metric: str) -> "list[Line2D]":
        lines: list[Line2D] = []
        runs = self._runs()
        for i, (name, entries) in enumerate(runs):
            lines += ax.plot(
                [entry[x] for entry in entries],
                [entry[metric] for entry in entries],
                color="C0" if i == 0 else f"C{i + 1}",  # C1 is that of the loss
                alpha=1 if i == 0 else 0.5,
                marker="." if len(entries) < 60 else None,
                label=f"validation {metric}" + (f", {name}" if name else ""),
            )
        if self.standard_error:
            entries = runs[0][1]
            values = [entry[metric] for entry in entries]
            errors = [entry.get("standard_error") or 0.0 for entry in entries]
            low, high = np.subtract(values, errors), np.add(values, errors)
            where = [entry[x] for entry in entries]
            ax.fill_between(where, low, high, alpha=0.15, label="± standard error")
        untouched = self.history[0][metric]
        base = ax.axhline(untouched, color="C0", alpha=0.5, linestyle=":")
        base.set_label("untouched model")
        best = self._best()
        star = ax.plot(
            best[x],
            best[metric],
            marker="*",
            markersize=14,
            color=_GAIN,
            linestyle="none",
            zorder=3,
            label=f"best: {best[metric]:.4f} at {x} {best[x]:.3g}",
        )
        ax.set_ylabel(metric)
        return [*lines, base, *star]
