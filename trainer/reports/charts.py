"""Interactive charts of a page, and the static pictures that stand in for them where no script runs.

A chart is data: the page holds it as JSON, from which ``static/charts.js`` draws with uPlot.  Its static picture is
written here, in milliseconds, as a page of a running job is written after every validation.
Does not own: what is drawn (``step_charts.py``), figures of matplotlib (``plots.py``).
"""

import dataclasses
import functools
import html as escaping
import importlib.resources
import math
from collections.abc import Sequence
from typing import Any

import markupsafe
import numpy as np

from trainer.core import terminal

LINE, DASHED, POINTS = "line", "dashed", "points"
_MOST_POINTS = 1500  # Of a series; neighbours of longer ones are averaged, as no screen shows more.
_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 28, 34


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        label: in the legend.
        x: places, ascending.
        y: values; those that are not finite are absent.
        colour: ``warm``, ``cool`` or ``ink``, as the page's variables are named.
        form: ``line``, ``dashed`` with a marker at each value, or ``points`` alone.
        smooth: whether the reader may smooth it.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str = "cool"
    form: str = LINE
    smooth: bool = False


@dataclasses.dataclass(frozen=True)
class Mark:
    """A vertical line of a chart, such as a restart."""

    x: float
    label: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of a page.

    Attributes:
        title: above it.
        caption: below it: how to read it.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
        series: at least one.
        marks: vertical lines.
        scale: ``linear``, ``log`` or ``percent``.
    """

    title: str
    caption: str
    x: str
    y: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    scale: str = "linear"

    @property
    def picture(self) -> markupsafe.Markup:
        """The static picture."""
        return markupsafe.Markup(_Picture(self).svg())

    def as_json(self) -> dict[str, Any]:
        """Return what the script draws from."""
        return dataclasses.asdict(self)


def series(label: str, x: Sequence[float], y: Sequence[float | None], **style: Any) -> Series:
    """Return a series of the finite values, with few enough of them for a page."""
    pairs = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]
    places, values = _thinned(np.array(pairs, np.float64).reshape(-1, 2)).T
    return Series(label, [_short(value) for value in places], [_short(value) for value in values], **style)


def _thinned(pairs: Any) -> Any:
    """Return at most ``_MOST_POINTS`` rows ``[x, y]``: the means of equal parts."""
    if len(pairs) <= _MOST_POINTS:
        return pairs
    return np.array([part.mean(axis=0) for part in np.array_split(pairs, _MOST_POINTS)])


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def escaped(text: str) -> str:
    """Return text for a drawing, without characters that would end an element, or reorder or hide a part of a line."""
    return escaping.escape(terminal.visible(text))


@functools.cache
def style() -> markupsafe.Markup:
    """Return the style sheet of interactive charts."""
    return style_of("uPlot.min.css", "charts.css")


@functools.cache
def script() -> markupsafe.Markup:
    """Return the scripts of interactive charts and sortable tables, uPlot's licence first."""
    licence = "/*\n" + _static("uPlot.LICENSE.txt") + "*/\n"
    return markupsafe.Markup(licence + "\n".join(map(_static, ("uPlot.iife.min.js", "charts.js", "tables.js"))))


def style_of(*names: str) -> markupsafe.Markup:
    """Return style sheets of ``static/``, those of controls, sortable tables and lightboxes first."""
    return markupsafe.Markup("".join(map(_static, ("controls.css", *names))))


def script_of(name: str) -> markupsafe.Markup:
    """Return a script of ``static/``; ``gallery.js`` needs ``lightbox.js`` before it, the others need no other one."""
    return markupsafe.Markup(_static(name))


def _static(name: str) -> str:
    return importlib.resources.files("trainer.reports").joinpath("static", name).read_text(encoding="utf-8")


class _Picture:
    """Draws a chart as SVG in the colours of the page."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._xs = span([place for line in chart.series for place in line.x])
        values = [self._scaled(value) for line in chart.series for value in line.y if self._shows(value)]
        self._ys = span(values, margin=0.06)

    def svg(self) -> str:
        """Return the ``<svg>``."""
        chart = self._chart
        alt = escaped(f"{chart.title} by {chart.x}: {', '.join(line.label for line in chart.series)}")
        parts = [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{alt}" class="static">',
            *self._grid(), *self._marks(), *map(self._line, chart.series), *self._legend(), "</svg>",
        ]  # fmt: skip
        return "".join(parts)

    def _shows(self, value: float | None) -> bool:
        return value is not None and (self._chart.scale != "log" or value > 0)

    def _scaled(self, value: float | None) -> float:
        return math.log10(value or 1.0) if self._chart.scale == "log" else float(value or 0.0)

    def _x(self, value: float) -> float:
        low, high = self._xs
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    def _y(self, scaled: float) -> float:
        low, high = self._ys
        return round(_HEIGHT - _BOTTOM - (scaled - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP), 1)

    def _grid(self) -> list[str]:
        floor, parts = _HEIGHT - _BOTTOM, []
        for tick in log_ticks(*self._ys) if self._chart.scale == "log" else ticks(*self._ys):
            place = self._y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place}" y2="{place}"/>')
            parts.append(_text(_LEFT - 6, place + 3.5, self._name(tick), "end"))
        for tick in ticks(*self._xs, whole=True):
            parts.append(_text(self._x(tick), floor + 14, f"{tick:g}", "middle"))
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
        return [*parts, _text((_LEFT + _WIDTH) / 2, _HEIGHT - 5, self._chart.x, "middle")]

    def _name(self, tick: float) -> str:
        value = 10.0**tick if self._chart.scale == "log" else tick
        if self._chart.scale == "percent":
            return f"{value * 100:.3g}%"
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"

    def _marks(self) -> list[str]:
        low, high = self._xs
        inside = [mark for mark in self._chart.marks if low <= mark.x <= high]
        ends = f'y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
        return [f'<line class="mark" x1="{self._x(mark.x)}" x2="{self._x(mark.x)}" {ends}/>' for mark in inside]

    def _line(self, line: Series) -> str:
        places = [(self._x(x), self._y(self._scaled(y))) for x, y in zip(line.x, line.y, strict=True) if self._shows(y)]
        points = " ".join(f"{x},{y}" for x, y in places)
        drawn = "" if line.form == POINTS else f'<polyline class="{line.colour} {line.form}" points="{points}"/>'
        if line.form == LINE and len(places) > 1:
            return drawn
        dots = "".join(f'<rect x="{x - 3}" y="{y - 3}" width="6" height="6"/>' for x, y in places)
        return f'{drawn}<g class="{line.colour} dots">{dots}</g>'

    def _legend(self) -> list[str]:
        parts, place = [], float(_LEFT)
        for line in self._chart.series:
            ends = f'points="{place},14 {place + 20},14"'
            if line.form == POINTS:
                parts.append(f'<g class="{line.colour} dots"><rect x="{place + 7}" y="11" width="6" height="6"/></g>')
            else:
                parts.append(f'<polyline class="{line.colour} {line.form}" {ends}/>')
            parts.append(_text(place + 25, 17.5, line.label, "start"))
            place += 44 + 5.6 * len(line.label)
        return parts


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(words)}</text>'


def span(values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    """Return the ends of an axis that holds all values, which differ."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-9):
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    room = margin * (high - low)
    return low - room, high + room


def log_ticks(low: float, high: float) -> list[float]:
    """Return the logarithms of 1, 2 and 5 times powers of ten between the ends of an axis; of powers on a long one."""
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    step = max(1, math.ceil((high - low) / 6))
    powers = range(math.floor(low), math.ceil(high) + 1, step)
    return [
        each for power in powers for each in (power + math.log10(factor) for factor in factors) if low <= each <= high
    ]


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return round values between the ends of an axis, about five of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
