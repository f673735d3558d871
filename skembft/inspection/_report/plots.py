"""Small pictures as SVG, in the colours of `report.css`."""

import html
import math
from collections.abc import Callable, Sequence

import numpy as np

from skembft._utils.types import Floats
from skembft.inspection._rankings import ScoreShift
from skembft.inspection._statistics import ComparedMetric

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 388, 12, 212  # edges of what is drawn on
_STEPS = 300  # of the picture of all gains

_Scale = Callable[[float], float]


def interval_svg(row: ComparedMetric, limits: tuple[float, float]) -> str:
    """A difference and its interval beside 0, on a scale with these limits."""
    x = _scale(*limits, 5, 195)
    bar = ""
    if not math.isnan(row["low"]):
        low, high = x(row["low"]), x(row["high"])
        bar = f'<line x1="{low:.1f}" x2="{high:.1f}" y1="8" y2="8" stroke-width="3"/>'
    zero = f"{x(0):.1f}"
    return (
        '<svg viewBox="0 0 200 16" width="200" height="16" stroke="currentColor" '
        'fill="currentColor" aria-hidden="true">'
        f'<line x1="{zero}" x2="{zero}" y1="0" y2="16" opacity="0.4"/>'
        f'{bar}<circle cx="{x(row["difference"]):.1f}" cy="8" r="3.5"/></svg>'
    )


def curve_svg(ks: Sequence[int], curves: Sequence[Sequence[float]], stem: str) -> str:
    """A metric against k, before and after."""
    ticks = _ticks(min(map(min, curves)), max(map(max, curves)))
    x = _scale(0, math.log(max(ks[-1], 2)), _LEFT + 8, _RIGHT - 8)
    y = _scale(ticks[0], ticks[-1], _BOTTOM, _TOP)
    parts = [_horizontal_grid(ticks, y)]
    parts += [_label(x(math.log(k)), _BOTTOM + 17, str(k)) for k in ks]
    parts.append(_label((_LEFT + _RIGHT) / 2, _BOTTOM + 34, "k"))
    for side, values in zip(("before", "after"), curves, strict=True):
        points = [
            (k, value, f"{x(math.log(k)):.1f}", f"{y(value):.1f}")
            for k, value in zip(ks, values, strict=True)
        ]
        line = " ".join(f"{left},{top}" for *_, left, top in points)
        parts.append(f'<polyline class="line {side}" points="{line}"/>')
        parts += [
            f'<circle class="fill {side}" cx="{left}" cy="{top}" r="4">'
            f"<title>{side}, k = {k}: {value:.4f}</title></circle>"
            for k, value, left, top in points
        ]
    told = "; ".join(
        f"k = {k}: {before:.3f}, {after:.3f}"
        for k, before, after in zip(ks, *curves, strict=True)
    )
    return _svg(parts, f"{stem} at k before and after. {told}")


def gains_svg(gains: Floats, metric: str) -> str:
    """The gains of all queries, the greatest first."""
    n = len(gains)
    steps = min(n, _STEPS)
    middles = ((np.arange(steps) + 0.5) * n / steps).astype(int)
    values = np.sort(gains)[::-1][middles]
    ticks = _ticks(min(0.0, float(gains.min())), max(0.0, float(gains.max())))
    x = _scale(0, steps, _LEFT, _RIGHT)
    y = _scale(ticks[0], ticks[-1], _BOTTOM, _TOP)
    parts = [_horizontal_grid(ticks, y)]
    for name, kept in (("good", values > 0), ("bad", values < 0)):
        if kept.any():
            places = np.flatnonzero(kept).tolist()
            path = "".join(f"V{y(values[i]):.1f}H{x(i + 1):.1f}" for i in places)
            start = f"M{x(places[0]):.1f},{y(0):.1f}"
            parts.append(f'<path class="fill {name}" d="{start}{path}V{y(0):.1f}Z"/>')
    mean = float(gains.mean())
    for name, height in (("axis", y(0)), ("mean", y(mean))):
        parts.append(
            f'<line class="{name}" x1="{_LEFT}" x2="{_RIGHT}" y1="{height:.1f}" '
            f'y2="{height:.1f}"/>'
        )
    parts.append(_label(_LEFT, _BOTTOM + 17, "0", "start"))
    parts.append(_label(_RIGHT, _BOTTOM + 17, f"{n:,}", "end"))
    parts.append(_label((_LEFT + _RIGHT) / 2, _BOTTOM + 17, "queries, by gain"))
    told = f"{(gains > 0).sum()} helped, {(gains < 0).sum()} hurt, mean {mean:+.4f}"
    return _svg(parts, f"Gains of all queries in {metric}: {told}")


def shifts_svg(shifts: Sequence[ScoreShift]) -> str:
    """Quartiles of the scores of two kinds of documents, before and after."""
    boxes = [
        (shift["document"], side, median, *quartiles)
        for shift in shifts
        if shift["n_queries"]
        for side, median, quartiles in (
            ("before", shift["before"], shift["quartiles_before"]),
            ("after", shift["after"], shift["quartiles_after"]),
        )
    ]
    if not boxes:
        return "<p>No query has such documents on both sides.</p>"
    ticks = _ticks(min(box[3] for box in boxes), max(box[4] for box in boxes))
    x = _scale(ticks[0], ticks[-1], _LEFT, _RIGHT - 8)
    parts = []
    for tick in ticks:
        place = f"{x(tick):.1f}"
        parts.append(
            f'<line class="grid" x1="{place}" x2="{place}" y1="{_TOP}" y2="{_BOTTOM}"/>'
        )
        parts.append(_label(x(tick), _BOTTOM + 17, f"{tick:g}"))
    parts.append(_label((_LEFT + _RIGHT) / 2, _BOTTOM + 34, "score"))
    for row, (document, side, median, low, high) in enumerate(boxes):
        top = _TOP + 26 + 36 * row + 22 * (row // 2)
        if row % 2 == 0:
            parts.append(_label(_LEFT, top - 8, document, "start"))
        parts.append(
            f'<rect class="fill {side}" x="{x(low):.1f}" y="{top}" height="20" rx="3" '
            f'width="{max(x(high) - x(low), 2):.1f}"><title>{document}, {side}: median '
            f"{median:.4f}, quartiles {low:.4f} and {high:.4f}</title></rect>"
            f'<line class="median" x1="{x(median):.1f}" x2="{x(median):.1f}" '
            f'y1="{top - 3}" y2="{top + 23}"/>'
        )
    told = "; ".join(f"{box[0]} {box[1]}: median {box[2]:.4f}" for box in boxes)
    return _svg(parts, f"Quartiles of scores. {told}")


def _svg(parts: list[str], label: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )


def _scale(low: float, high: float, start: float, stop: float) -> _Scale:
    slope = (stop - start) / (high - low)
    return lambda value: start + slope * (value - low)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`: up to seven, at least two."""
    width = max(high - low, 0.01 * max(abs(low), abs(high))) or 1.0
    size = 10.0 ** math.floor(math.log10(width / 4))
    step = size * next(m for m in (1, 2, 2.5, 5, 10) if width / (m * size) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, max(last, first + 1) + 1)]


def _horizontal_grid(ticks: Sequence[float], y: _Scale) -> str:
    return "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(tick):.1f}" '
        f'y2="{y(tick):.1f}"/>{_label(_LEFT - 6, y(tick) + 4, f"{tick:g}", "end")}'
        for tick in ticks
    )


def _label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
