"""What a comparison of two retrievers has found."""

from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_scalar

from skembft._utils.atomic import replaced_file
from skembft._utils.messages import nearest
from skembft._utils.types import Floats, Items, Path
from skembft.inspection._query_change import QueryChange
from skembft.inspection._rankings import Rankings
from skembft.inspection._report.page import report
from skembft.inspection._shown import as_html, as_text
from skembft.inspection._statistics import ComparedMetric, compare_values

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from skembft.inspection._displays import QueryGainDisplay


class RetrievalComparison:
    """The result of :func:`skembft.inspection.compare_retrieval`.

    Attributes
    ----------
    queries : list or ndarray of n queries
        The distinct queries that have a relevant document.
    before, after : dict of {metric: ndarray of shape (n,)}
        The metrics of every query.
    rows : list of dict
        For every metric "metric", "before", "after", "difference", "low" and "high"
        (the interval of the difference, NaN where all queries gained the same),
        "p_value", and the numbers of queries "helped", "hurt" and "unchanged".
    score_shifts : list of dict
        How far scores moved, and with them every threshold: of the "document" "best
        relevant" and "best irrelevant" (or not judged) of every query the medians
        "before" and "after", "quartiles_before" and "quartiles_after" over the
        "n_queries" that have one among their first 50 on both sides.
    n_documents : int
        Size of the pool that both retrieve from.
    confidence_level : float

    Notes
    -----
    It holds the queries and documents, by reference where they are lists, and the first
    50 documents of every query with their scores, before and after: 0.8 KB a query
    besides the metrics, whatever the number of documents.
    """

    queries: Items

    def __init__(
        self,
        rankings: Rankings,
        before: dict[str, Floats],
        after: dict[str, Floats],
        confidence_level: float,
        seed: int,
    ) -> None:
        self._rankings = rankings
        queries = rankings.data.queries
        if isinstance(queries, np.ndarray):
            self.queries = queries[rankings.queries]
        else:
            self.queries = [queries[i] for i in rankings.queries]
        self.n_documents = len(rankings.data.documents)
        self.before, self.after = before, after
        self.score_shifts = rankings.score_shifts()
        self.confidence_level = confidence_level
        self.rows = [
            compare_values(
                name,
                self.before[name],
                self.after[name],
                confidence_level,
                np.random.default_rng(seed),  # a metric's own: no other changes it
            )
            for name in self.before
        ]

    @property
    def table(self) -> "pd.DataFrame | list[ComparedMetric]":
        """`rows` as a DataFrame with the metrics as index; without pandas a list."""
        try:
            import pandas as pd
        except ImportError:
            return self.rows
        return pd.DataFrame(self.rows).set_index("metric")

    def gains(self, metric: str | None = None) -> Floats:
        """What a metric has gained for every query.

        Parameters
        ----------
        metric : str, default=None
            None means the first.

        Returns
        -------
        gains : ndarray of shape (n,)
        """
        metric = self._find(metric)
        return self.after[metric] - self.before[metric]

    def best(self, n: int = 5, metric: str | None = None) -> list[QueryChange]:
        """Return the queries that gained most, the greatest gain first.

        Parameters
        ----------
        n : int, default=5
            Fewer are returned where fewer were helped.
        metric : str, default=None
            None means the first.

        Returns
        -------
        changes : list of QueryChange
        """
        return self._changes(n, metric, sign=1)

    def worst(self, n: int = 5, metric: str | None = None) -> list[QueryChange]:
        """Return the queries that lost most, the greatest loss first; see `best`."""
        return self._changes(n, metric, sign=-1)

    def plot(
        self, metric: str | None = None, *, ax: "Axes | None" = None
    ) -> "QueryGainDisplay":
        """Draw the gains of all queries.

        Parameters
        ----------
        metric : str, default=None
            None means the first.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : QueryGainDisplay
        """
        from skembft.inspection._displays import QueryGainDisplay

        metric = self._find(metric)
        return QueryGainDisplay(self.gains(metric), metric=metric).plot(ax=ax)

    def to_html(self, path: Path, *, title: str = "Retrieval before and after") -> None:
        """Write a report: one page that needs no network and opens in any browser.

        It shows the metrics with their intervals, each against k and gained by every
        query, how far scores moved, and a table of the queries, to be sorted, searched
        and filtered: of the chosen one both rankings side by side.

        Parameters
        ----------
        path : str or path-like
            The file, written whole or not at all; an existing one is replaced.
        title : str, default="Retrieval before and after"
            The heading of the page.

        Raises
        ------
        OSError
            If no file can be written there; told before any work.

        Notes
        -----
        The table has all queries up to 10,000, and of more those whose first metric
        changed most. It has 5 MB at most as a rule: texts are cut to 240 characters, or
        fewer, and are there in full where they all fit. Vectors are shown by number.

        Examples
        --------
        >>> comparison.to_html("report.html")  # doctest: +SKIP
        """
        with replaced_file(path) as temporary:
            page = report(self, self._rankings, title)
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(page)

    def _find(self, metric: str | None) -> str:
        if metric is None:
            return next(iter(self.before))
        if metric not in self.before:
            raise ValueError(
                f"{metric!r} was not compared. {nearest(metric, self.before)}"
            )
        return metric

    def _changes(self, n: int, metric: str | None, sign: int) -> list[QueryChange]:
        check_scalar(n, "n", Integral, min_val=0)
        metric = self._find(metric)
        gains = sign * self.gains(metric)
        order = np.argsort(-gains, kind="stable")[:n]
        return [self._change(i, metric) for i in order if gains[i] > 0]

    def _change(self, i: int, metric: str) -> QueryChange:
        data, query = self._rankings.data, self._rankings.queries[i]
        return QueryChange(
            self.queries[i],
            int(i),
            float(self.before[metric][i]),
            float(self.after[metric][i]),
            [data.documents[document] for document in data.relevance.best(query)],
            *self._rankings.graded(int(i)),
        )

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)
