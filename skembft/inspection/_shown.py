"""A comparison to read: as text, and as HTML in a notebook."""

import html
import math
from typing import Literal, Protocol

from skembft._utils.messages import shorten
from skembft._utils.types import Floats, Items
from skembft.inspection._query_change import Graded, QueryChange, Shown
from skembft.inspection._rankings import ScoreShift
from skembft.inspection._report.plots import interval_svg
from skembft.inspection._statistics import ComparedMetric

_ENDS: tuple[Literal["low", "high", "difference"], ...] = ("low", "high", "difference")
_NO_INTERVAL = "–: no interval, which takes queries that gain different amounts"


class Comparison(Protocol):
    """What is asked of a `RetrievalComparison`, whose file imports this one."""

    queries: Items
    before: dict[str, Floats]
    after: dict[str, Floats]
    rows: list[ComparedMetric]
    score_shifts: list[ScoreShift]
    n_documents: int
    confidence_level: float

    def gains(self, metric: str) -> Floats: ...

    def best(self) -> list[QueryChange]: ...

    def worst(self) -> list[QueryChange]: ...


def as_text(comparison: Comparison) -> str:
    """The table of a `RetrievalComparison`."""
    table = [_columns(comparison), *_cells(comparison)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    lines += shift_lines(comparison)
    lines += [_NO_INTERVAL] if _lacks_intervals(comparison) else []
    return "\n".join([f"RetrievalComparison: {heading(comparison)}", *lines])


def as_html(comparison: Comparison) -> str:
    """The same with the queries that gained and lost most."""
    metric = html.escape(comparison.rows[0]["metric"])
    changes = "".join(
        f"<details><summary>{title} by {metric}</summary>"
        f"{''.join(map(_change, changes)) or '<p>none</p>'}</details>"
        for title, changes in (
            ("Queries that gained most", comparison.best()),
            ("Queries that lost most", comparison.worst()),
        )
    )
    shifts = "".join(f"<p>{line}</p>" for line in shift_lines(comparison))
    return (
        f"<div><p>{heading(comparison)}. {html.escape(verdict(comparison))}</p>"
        f"{metrics_table(comparison)}{shifts}{changes}</div>"
    )


def metrics_table(comparison: Comparison) -> str:
    """The metrics as an HTML table, with a picture of every interval."""
    head = "".join(
        f'<th scope="col">{html.escape(name)}</th>' for name in _columns(comparison)
    )
    ends = [row[end] for row in comparison.rows for end in _ENDS]
    ends = [end for end in ends if not math.isnan(end)]
    limits = min(0.0, *ends), max(0.0, *ends)
    limits = limits if limits[0] < limits[1] else (-1.0, 1.0)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        f"{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}"
        f"<td>{interval_svg(row, limits)}</td></tr>"
        for row, (name, *cells) in zip(comparison.rows, _cells(comparison), strict=True)
    )
    note = f"<p>{_NO_INTERVAL}</p>" if _lacks_intervals(comparison) else ""
    return (
        f"<table><thead><tr>{head}<td></td></tr></thead><tbody>{body}</tbody></table>"
        f"{note}"
    )


def verdict(comparison: Comparison) -> str:
    """What the first metric says, as a sentence."""
    row = comparison.rows[0]
    low, high = row["low"], row["high"]
    if math.isnan(low) or low <= 0 <= high:
        tells = "which these queries do not tell from chance"
    else:
        tells = "beyond chance"
    interval = "" if math.isnan(low) else f", {_level(comparison)} {_interval(row)}"
    return (
        f"{row['metric']} went from {row['before']:.4f} to {row['after']:.4f} "
        f"({row['difference']:+.4f}{interval}), {tells}: {row['helped']} queries "
        f"helped, {row['hurt']} hurt, {row['unchanged']} unchanged."
    )


def shift_lines(comparison: Comparison) -> list[str]:
    """How far the scores moved, a line for each kind of document."""
    return [
        f"Median score of the {shift['document']} document: {shift['before']:.4f} "
        f"before, {shift['after']:.4f} after ({shift['n_queries']} queries)"
        for shift in comparison.score_shifts
        if shift["n_queries"]
    ]


def heading(comparison: Comparison) -> str:
    return f"{len(comparison.queries)} queries, {comparison.n_documents} documents"


def _interval(row: ComparedMetric) -> str:
    if math.isnan(row["low"]):
        return "–"
    return f"{row['low']:+.4f} … {row['high']:+.4f}"


def _lacks_intervals(comparison: Comparison) -> bool:
    return any(math.isnan(row["low"]) for row in comparison.rows)


def _level(comparison: Comparison) -> str:
    return f"{100 * comparison.confidence_level:g} % interval"


def _columns(comparison: Comparison) -> list[str]:
    names = ["metric", "before", "after", "difference", _level(comparison)]
    return [*names, "p", "helped", "hurt"]


def _cells(comparison: Comparison) -> list[list[str]]:
    return [
        [
            row["metric"],
            f"{row['before']:.4f}",
            f"{row['after']:.4f}",
            f"{row['difference']:+.4f}",
            _interval(row),
            f"{row['p_value']:.4f}",
            str(row["helped"]),
            str(row["hurt"]),
        ]
        for row in comparison.rows
    ]


def _change(change: QueryChange) -> str:
    """What changed for one query."""

    def documents(found: list[Graded]) -> str:
        items = "".join(
            f"<li>{'<b>' if grade > 0 else ''}{_text(document)}"
            f"{'</b> (relevant)' if grade > 0 else ''}</li>"
            for document, grade in found[:5]
        )
        return f"<td style='vertical-align:top;text-align:left'><ol>{items}</ol></td>"

    return (
        f"<p>{_text(change.query)}<br>{change.before:.4f} → {change.after:.4f}; "
        f"relevant: {'; '.join(map(_text, change.relevant[:3]))}</p>"
        "<table><thead><tr><th>retrieved before</th><th>after</th></tr></thead><tbody>"
        f"<tr>{documents(change.documents_before)}{documents(change.documents_after)}"
        "</tr></tbody></table>"
    )


def plain(item: Shown, width: int) -> str:
    """A text on one line, cut to a width."""
    text = item if isinstance(item, str) else shorten(item, width)
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _text(item: Shown, width: int = 120) -> str:
    return html.escape(plain(item, width))
