"""Forest plots: values with their intervals, one a row, as SVG that fills its column and needs no script.

Does not own: the values, layout (``templates/forest.html``, ``static/figures.css``).
"""

import dataclasses
from collections.abc import Callable, Sequence

import markupsafe

from trainer.reports import charts

_MARGIN = 0.06  # Of the axis, beyond the outermost end of an interval.


@dataclasses.dataclass(frozen=True)
class Row:
    """A value of a forest plot.

    Attributes:
        label: what it belongs to.
        value: None if it is undefined.
        interval: its ends; None without one.
        text: value and interval in words.
        strong: whether to stress it.
    """

    label: str
    value: float | None
    interval: Sequence[float] | None
    text: str
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Forest:
    """A forest plot on one axis.

    Attributes:
        title: above it.
        rows: from above.
        tick: names a place of the axis.
        reference: of the vertical line that intervals are held against; None: there is none.
    """

    title: str
    rows: Sequence[Row]
    tick: Callable[[float], str]
    reference: float | None = None

    @property
    def tracks(self) -> list[tuple[Row, markupsafe.Markup]]:
        """Each row and its drawing."""
        return [(row, markupsafe.Markup(self._track(row))) for row in self.rows]

    @property
    def axis(self) -> markupsafe.Markup:
        """The axis below the rows."""
        low, high = self._ends()
        names = "".join(
            f'<text x="{self._x(tick)}" y="15" text-anchor="middle">{charts.escaped(self.tick(tick))}</text>'
            for tick in charts.ticks(low, high)
        )
        return markupsafe.Markup(
            f'<svg height="20" width="100%" aria-hidden="true"><line class="axis" x1="0" x2="100%" y1="1" y2="1"/>'
            f"{names}</svg>"
        )

    def _ends(self) -> tuple[float, float]:
        values = [row.value for row in self.rows if row.value is not None]
        values += [end for row in self.rows for end in row.interval or ()]
        return charts.span([*values, *([] if self.reference is None else [self.reference])], _MARGIN)

    def _x(self, value: float) -> str:
        low, high = self._ends()
        return f"{100 * (value - low) / (high - low):.2f}%"

    def _track(self, row: Row) -> str:
        words = charts.escaped(f"{self.title} of {row.label}: {row.text}")
        parts = [f'<svg height="26" width="100%" role="img" aria-label="{words}"><title>{words}</title>']
        for tick in charts.ticks(*self._ends()):
            parts.append(f'<line class="grid" x1="{self._x(tick)}" x2="{self._x(tick)}" y1="0" y2="26"/>')
        if self.reference is not None:
            place = self._x(self.reference)
            parts.append(f'<line class="reference" x1="{place}" x2="{place}" y1="0" y2="26"/>')
        if row.interval:
            low, high = map(self._x, row.interval)
            parts.append(f'<line class="interval" x1="{low}" x2="{high}" y1="13" y2="13"/>')
            parts += [f'<line class="interval" x1="{end}" x2="{end}" y1="8" y2="18"/>' for end in (low, high)]
        if row.value is not None:
            parts.append(f'<circle cx="{self._x(row.value)}" cy="13" r="{6 if row.strong else 5}"/>')
        return "".join([*parts, "</svg>"])
