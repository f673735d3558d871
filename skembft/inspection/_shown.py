"""A comparison to read: as text, and as HTML in a notebook."""

import html
import math
from typing import Protocol

from skembft._utils.messages import shorten
from skembft._utils.types import Items
from skembft.inspection._query_change import Graded, QueryChange, Shown
from skembft.inspection._statistics import ComparedMetric

_NO_INTERVAL = "–: no interval, which takes queries that gain different amounts"


class Comparison(Protocol):
    """What is asked of a `RetrievalComparison`, whose file imports this one."""

    queries: Items
    rows: list[ComparedMetric]
    n_documents: int
    confidence_level: float

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
    lines += [_NO_INTERVAL] if _lacks_intervals(comparison) else []
    return "\n".join([f"RetrievalComparison: {_heading(comparison)}", *lines])


def as_html(comparison: Comparison) -> str:
    """The same with the queries that gained and lost most."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in _columns(comparison))
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
        for row in _cells(comparison)
    )
    metric = html.escape(comparison.rows[0]["metric"])
    changes = "".join(
        f"<details><summary>{title} by {metric}</summary>"
        f"{''.join(map(_change, changes)) or '<p>none</p>'}</details>"
        for title, changes in (
            ("Queries that gained most", comparison.best()),
            ("Queries that lost most", comparison.worst()),
        )
    )
    note = f"<p>{_NO_INTERVAL}</p>" if _lacks_intervals(comparison) else ""
    return (
        f"<div><p>{html.escape(_heading(comparison))}</p><table><thead><tr>{head}</tr>"
        f"</thead><tbody>{body}</tbody></table>{note}{changes}</div>"
    )


def _heading(comparison: Comparison) -> str:
    return f"{len(comparison.queries)} queries, {comparison.n_documents} documents"


def _interval(row: ComparedMetric) -> str:
    if math.isnan(row["low"]):
        return "–"
    return f"{row['low']:+.4f} … {row['high']:+.4f}"


def _lacks_intervals(comparison: Comparison) -> bool:
    return any(math.isnan(row["low"]) for row in comparison.rows)


def _columns(comparison: Comparison) -> list[str]:
    interval = f"{100 * comparison.confidence_level:g} % interval"
    return ["metric", "before", "after", "difference", interval, "p", "helped", "hurt"]


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


def _text(item: Shown, width: int = 120) -> str:
    text = item if isinstance(item, str) else shorten(item, width)
    text = " ".join(text.split())
    return html.escape(text if len(text) <= width else text[: width - 1] + "…")
