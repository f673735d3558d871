"""Fills in the page of the report."""

import html
from collections.abc import Iterable
from importlib.resources import files
from string import Template

from skembft._version import __version__
from skembft.inspection._rankings import KEPT, Rankings
from skembft.inspection._report.contents import packed_contents
from skembft.inspection._report.plots import curve_svg, gains_svg, shifts_svg
from skembft.inspection._shown import (
    Comparison,
    heading,
    metrics_table,
    shift_lines,
    verdict,
)


def report(comparison: Comparison, rankings: Rankings, title: str) -> str:
    """The page of a comparison, with all that it needs."""
    names = list(comparison.before)
    stems = [name.partition("@")[0] for name in names]
    ks, curves = rankings.curves(stems)
    contents, texts, n_queries = packed_contents(
        rankings, comparison.queries, comparison.before, comparison.after
    )
    left_out = len(comparison.queries) - n_queries
    return Template(_read("report.html")).substitute(
        title=html.escape(title),
        heading=html.escape(heading(comparison)),
        verdict=html.escape(verdict(comparison)),
        metrics=metrics_table(comparison),
        options="".join(
            f'<option value="{i}">{html.escape(name)}</option>'
            for i, name in enumerate(names)
        ),
        curves=_one_a_metric(curve_svg(ks, curves[stem], stem) for stem in stems),
        gains=_one_a_metric(gains_svg(comparison.gains(name), name) for name in names),
        shifts=shifts_svg(comparison.score_shifts),
        shift_lines="".join(f"<p>{line}</p>" for line in shift_lines(comparison)),
        left_out=f"Of all queries the {n_queries:,} whose {html.escape(names[0])} "
        "changed most."
        if left_out
        else "",
        kept=KEPT,
        version=__version__,
        style=_read("report.css"),
        script=_read("report.js"),
        contents=contents,
        texts=texts,
    )


def _one_a_metric(pictures: Iterable[str]) -> str:
    """Pictures of which the page shows that of the chosen metric."""
    return "".join(
        f'<div data-metric="{i}"{" hidden" if i else ""}>{picture}</div>'
        for i, picture in enumerate(pictures)
    )


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
