"""Drawings of a sweep's trials as SVG: parallel coordinates, slices, a timeline.

Each mark carries its trial's id, by which ``reports/static/trials.js`` links all drawings and the table.  Without a
script they are whole, too.  Does not own: the other figures (``report_plots.py``), colours (``static/trials.css``).
"""

import dataclasses
import datetime
import json
import math
from collections.abc import Iterable, Sequence

import markupsafe

from trainer.core import terminal
from trainer.reports import charts
from trainer.reports.job_facts import span as duration
from trainer.sweep.records import DONE, FAILED, PRUNED, Record
from trainer.sweep.space import Parameter, Space

MOST = 300  # Trials of a drawing: a page stays small, and more lines hide each other.
# Of the parallel coordinates, in pixels at normal size.
_COLUMN, _SIDE, _TOP, _FLOOR, _HEIGHT = 120, 70, 38, 268, 310
_UNUSED = 0.1  # Share of an axis below its values, for trials that do not use the setting.
_BEST, _QUARTER, _REST = "best", "quarter", "rest"
_TITLES = {_BEST: "best trial", _QUARTER: "best quarter", _REST: "the others"}


@dataclasses.dataclass(frozen=True)
class Scale:
    """Places of a setting's values on an axis of length 1.

    Attributes:
        name: of the setting, or of the objective.
        values: of a choice, in order; empty for a range.
        low: smallest value of a range, scaled.
        high: largest.
        log: whether a range is scaled by its logarithm.
        base: where used values begin; above 0 if a trial does not use the setting.
    """

    name: str
    values: tuple[object, ...]
    low: float
    high: float
    log: bool
    base: float

    @classmethod
    def of(cls, name: str, values: Sequence[object], one: Parameter | None = None) -> "Scale":
        """Return the scale of the values of some trials, None where a trial does not use the setting."""
        used = [value for value in values if value is not None]
        base = _UNUSED if len(used) < len(values) else 0.0
        if one is not None and one.values:
            return cls(name, tuple(value for value in one.values if value in used), 0.0, 0.0, False, base)
        log = bool(one and one.log) and all(float(value) > 0 for value in used)  # type: ignore[arg-type]
        numbers = [math.log10(value) if log else float(value) for value in used]  # type: ignore[arg-type]
        return cls(name, (), *charts.span(numbers), log, base)

    def place(self, value: object) -> float:
        """Return the place of a value in [0, 1]."""
        if value is None:
            return 0.0
        return self.base + (1.0 - self.base) * self._share(value)

    def _share(self, value: object) -> float:
        if self.values:
            return self.values.index(value) / (len(self.values) - 1) if len(self.values) > 1 else 0.5
        if not isinstance(value, (int, float)):
            return 0.5
        scaled = math.log10(value) if self.log else float(value)
        return (scaled - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and names along the axis."""
        unused = [(0.0, "not used")] if self.base else []
        if self.values:
            return [*unused, *((self.place(value), str(value)) for value in self.values)]
        scaled = charts.log_ticks(self.low, self.high) if self.log else charts.ticks(self.low, self.high)
        places = [(self.base + (1 - self.base) * (tick - self.low) / (self.high - self.low), tick) for tick in scaled]
        return [*unused, *((place, f"{10**tick if self.log else tick:.4g}") for place, tick in places)]

    def as_json(self) -> str:
        """Return what the script needs to name a part of the axis."""
        names = [terminal.visible(str(value)) for value in self.values]
        return json.dumps({"name": self.name, "values": names, "low": self.low, "high": self.high, "log": self.log,
                           "base": self.base})  # fmt: skip


def ranks(ranked: Sequence[Record]) -> dict[str, str]:
    """Return for each trial, best first, whether it is the best one, of the best quarter, or one of the others."""
    quarter = len(ranked) // 4
    return {
        record.trial: _BEST if place == 0 else _QUARTER if place < quarter else _REST
        for place, record in enumerate(ranked)
    }


def words(record: Record) -> str:
    """Return a trial in a line."""
    chosen = ", ".join(f"{name} {value}" for name, value in record.settings.items())
    score = "no score" if record.score is None else f"{record.score:.4g}"
    return f"trial {record.trial} ({record.status}): {score}; {chosen}"


def parallel(space: Space, ranked: Sequence[Record], metric: str) -> markupsafe.Markup:
    """Draw the best trials as lines through settings and score; ``ranked`` holds scored trials, best first."""
    rank = ranks(ranked)
    ranked = ranked[:MOST]
    scales = [Scale.of(one.name, [record.settings.get(one.name) for record in ranked], one) for one in space]
    scales.append(Scale.of(metric, [record.score for record in ranked]))
    width = 2 * _SIDE + _COLUMN * (len(scales) - 1)
    alt = f"Settings and scores of {len(ranked)} trials, one line a trial; the table has them all"
    parts = [f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" class="trials parallel" aria-label="{alt}">']
    for record in reversed(ranked):  # The best one on top.
        values = [*(record.settings.get(one.name) for one in space), record.score]
        points = " ".join(
            f"{_SIDE + _COLUMN * number},{_depth(scale.place(value))}"
            for number, (scale, value) in enumerate(zip(scales, values, strict=True))
        )
        parts.append(f'<polyline class="{rank[record.trial]}" points="{points}" {_identity(record)}</polyline>')
    parts += [_axis(number, scale) for number, scale in enumerate(scales)]
    shown = [kind for kind in _TITLES if kind in {rank[record.trial] for record in ranked}]
    parts += [_sample(_SIDE + 130 * place, kind) for place, kind in enumerate(shown)]
    return markupsafe.Markup("".join([*parts, "</svg>"]))


def _depth(place: float) -> float:
    return round(_FLOOR - place * (_FLOOR - _TOP), 1)


def _identity(record: Record) -> str:
    return f'data-trial="{charts.escaped(record.trial)}"><title>{charts.escaped(words(record))}</title>'


def _axis(number: int, scale: Scale) -> str:
    x = _SIDE + _COLUMN * number
    parts = [f'<g class="axis" data-axis="{charts.escaped(scale.as_json())}" data-x="{x}" data-top="{_TOP}" '
             f'data-floor="{_FLOOR}"><line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_FLOOR}"/>']  # fmt: skip
    parts += [_text(x + 5, _depth(place) - 3, name, "start") for place, name in scale.ticks()]
    name = _text(x, _FLOOR + (18 if number % 2 else 34), scale.name, "middle", "name")  # Neighbours have room.
    return "".join([*parts, name, "</g>"])


def _sample(x: float, kind: str) -> str:
    return f'<polyline class="{kind}" points="{x},10 {x + 24},10"/>{_text(x + 30, 14, _TITLES[kind], "start")}'


def _text(x: float, y: float, said: str, anchor: str, kind: str = "") -> str:
    short = said if len(said) <= 40 else f"{said[:38]}…"
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{charts.escaped(short)}</text>'


@dataclasses.dataclass(frozen=True)
class Slice:
    """The objective against one setting."""

    name: str
    picture: markupsafe.Markup


def slices(space: Space, ranked: Sequence[Record], metric: str) -> list[Slice]:
    """Draw the scores of the best trials against each setting that they use."""
    ranked = ranked[:MOST]
    drawn = []
    for one in space:
        using = [record for record in ranked if record.settings.get(one.name) is not None]
        if using:
            drawn.append(Slice(one.name, _slice(one, using, ranked[0], metric)))
    return drawn


_WIDTH, _LEFT, _RIGHT, _BOTTOM, _HIGH = 420, 58, 34, 36, 240


def _slice(one: Parameter, using: Sequence[Record], best: Record, metric: str) -> markupsafe.Markup:
    across = Scale.of(one.name, [record.settings[one.name] for record in using], one)
    upward = Scale.of(metric, [record.score for record in using])
    floor = _HIGH - _BOTTOM

    def x(place: float) -> float:
        return _LEFT + 12 + place * (_WIDTH - _LEFT - _RIGHT - 12)

    def y(place: float) -> float:
        return floor - 10 - place * (floor - 30)

    alt = charts.escaped(f"{metric} by {one.name} of {len(using)} trials{', on a log scale' * across.log}")
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HIGH}" role="img" class="trials slice" aria-label="{alt}">',
             f'<line class="edge" x1="{_LEFT}" x2="{_WIDTH}" y1="{floor}" y2="{floor}"/>']  # fmt: skip
    for place, name in upward.ticks():
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y(place):.1f}" y2="{y(place):.1f}"/>')
        parts.append(_text(_LEFT - 6, y(place) + 4, name, "end"))
    parts += [_text(x(place), floor + 15, name, "middle") for place, name in across.ticks()]
    parts.append(_text((_LEFT + _WIDTH) / 2, _HIGH - 5, f"{one.name}{' (log scale)' * across.log}", "middle"))
    parts.append(_text(4, 12, metric, "start"))
    for record in reversed(using):
        kind = _BEST if record is best else PRUNED if record.status == PRUNED else _QUARTER
        centre = f'cx="{x(across.place(record.settings[one.name])):.1f}" cy="{y(upward.place(record.score)):.1f}"'
        parts.append(f'<circle class="{kind}" {centre} r="{7 if kind == _BEST else 5}" {_identity(record)}</circle>')
    return markupsafe.Markup("".join([*parts, "</svg>"]))


@dataclasses.dataclass(frozen=True)
class _Bar:
    record: Record
    start: float  # Seconds.
    end: float


_LANE, _LABEL, _LONG = 30, 110, 900
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)  # Seconds.


def timeline(ended: Sequence[Record], best: str) -> markupsafe.Markup | None:
    """Draw when each of the last trials ran last and on which worker; None if no record tells when it ended.

    Args:
        ended: records of all ended trials.
        best: id of the best one; may be empty.
    """
    bars = list(_bars(ended[-MOST:]))
    if not bars:
        return None
    workers = sorted({bar.record.worker for bar in bars})
    first, last = min(bar.start for bar in bars), max(bar.end for bar in bars)
    whole = max(last - first, 1.0)
    floor = 34 + _LANE * len(workers)

    def x(second: float) -> float:
        return _LABEL + (second - first) / whole * (_LONG - _LABEL - 30)

    alt = f"{len(bars)} trials of {len(workers)} workers over {duration(whole)}; the table has all durations"
    parts = [f'<svg viewBox="0 0 {_LONG} {floor + 30}" role="img" class="trials timeline" aria-label="{alt}">']
    step = next((step for step in _STEPS if whole / step <= 6), math.ceil(whole / 6 / 86400) * 86400)
    for second in range(0, int(whole) + 1, step):
        place = f"{x(first + second):.1f}"
        parts.append(f'<line class="grid" x1="{place}" x2="{place}" y1="30" y2="{floor}"/>')
        parts.append(_text(x(first + second), floor + 15, duration(second), "middle"))
    parts += [_text(4, 34 + _LANE * (lane + 0.6), worker or "?", "start") for lane, worker in enumerate(workers)]
    for bar in bars:
        parts.append(_bar(bar, x(bar.start), x(bar.end), 34 + _LANE * workers.index(bar.record.worker), best))
    kinds = {_kind(bar.record, best) for bar in bars}
    shown = [kind for kind in (_BEST, DONE, PRUNED, FAILED) if kind in kinds]
    for number, kind in enumerate(shown):
        left = _LABEL + 110 * number
        parts.append(f'<rect class="{kind}" x="{left}" y="6" width="22" height="14"/>')
        parts.append(_text(left + 28, 17, _TITLES.get(kind, kind), "start"))
    return markupsafe.Markup("".join([*parts, "</svg>"]))


def _bars(ended: Sequence[Record]) -> Iterable[_Bar]:
    for record in ended:
        try:
            end = datetime.datetime.fromisoformat(record.ended).timestamp()
        except ValueError:
            continue
        yield _Bar(record, end - record.seconds, end)


def _kind(record: Record, best: str) -> str:
    return _BEST if record.trial == best else record.status


def _bar(bar: _Bar, left: float, right: float, top: float, best: str) -> str:
    width = max(right - left - 1, 3.0)
    said = f"{words(bar.record)}; {duration(bar.record.seconds)} on {bar.record.worker}"
    parts = [f'<g data-trial="{charts.escaped(bar.record.trial)}"><title>{charts.escaped(said)}</title>']
    parts.append(
        f'<rect class="{_kind(bar.record, best)}" x="{left:.1f}" y="{top + 3}" width="{width:.1f}" height="22"/>'
    )
    if width > 8 * len(bar.record.trial) + 4:
        parts.append(_text(left + 4, top + 18, bar.record.trial, "start"))
    return "".join([*parts, "</g>"])
