"""The page of a sweep: ``sweep.html``, one self-contained file.  Imports no TensorFlow."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.core.storage import files
from trainer.evaluation.training_curves import Curve, read_curves
from trainer.reports import html
from trainer.reports.html import Drawing
from trainer.reports.plots import COOL, INK, LINE, MUTED, SIZE, WARM, dress, legend, new_figure
from trainer.sweep import records
from trainer.sweep.importance import FEWEST_TRIALS, Importance, encode, importances
from trainer.sweep.records import PRUNED, Record
from trainer.sweep.request import Request
from trainer.sweep.space import Parameter, Space

_CURVES = 20
_COLUMN_REM = 7.0  # Width of a column of the parallel coordinates; a phone scrolls, and can read them.


def write(request: Request, known: Sequence[Record]) -> None:
    """Draw the trials that have ended."""
    ranked = records.by_score(known, maximizes=request.maximizes)
    varied = {one.name: _words(one) for one in request.space}
    page = (
        html.templates()
        .get_template("sweep.html")
        .render(
            job_dir=request.base.loop.job_dir,
            sentences=_sentences(request, known, ranked),
            failures=_failures(known),
            course=[*_course(request, known), *_learning(request, ranked)] if ranked else [],
            parallel=_parallel(request, ranked) if len(ranked) > 1 else None,
            parallel_rem=_COLUMN_REM * (len(request.space) + 1),
            importance=_importance(request, ranked),
            fewest=FEWEST_TRIALS,
            names=list(varied),
            metric=request.metric,
            rows=[_row(request, record) for record in [*ranked, *(one for one in known if one.score is None)]],
            varied=varied,
            settings=_settings(request),
        )
    )
    files.write_text(request.paths.report, page)


def _sentences(request: Request, known: Sequence[Record], ranked: Sequence[Record]) -> list[str]:
    counts = [
        f"{sum(record.status == status for record in known)} {status}"
        for status in (records.DONE, records.PRUNED, records.FAILED)
    ]
    said = [f"{len(known)} {'trial' if len(known) == 1 else 'trials'} by {request.sweep.tuner}: {', '.join(counts)}."]
    if any(record.status == records.PRUNED for record in known):
        said.append("A pruned trial was stopped early as hopeless; its score is the best that it had until then.")
    if ranked:
        best = ranked[0]
        chosen = ", ".join(f"{name} {value}" for name, value in best.settings.items())
        said.append(f"Best is trial {best.trial} with validation {request.metric} {best.score:.4f}: {chosen}.")
    if len(ranked) > 1:
        said.append(
            "The best of many trials is lucky as well as good: its validation score is too high by some. Only images "
            "that no trial was chosen by, and other seeds (--retrain_best), tell how much."
        )
    return said


def _failures(known: Sequence[Record]) -> list[str]:
    """Return a sentence for each kind of failure, with the reason of its first trial."""
    kinds: dict[str, list[Record]] = {}
    for record in known:
        if record.status == records.FAILED:
            kinds.setdefault(records.kind_of(record.reason), []).append(record)
    return [f"Failed ({', '.join(one.trial for one in alike)}): {alike[0].reason}" for alike in kinds.values()]


def _words(one: Parameter) -> str:
    """Return what the search may choose for a setting."""
    said = ", ".join(map(str, one.values)) if one.values else f"{one.low:g} to {one.high:g}"
    conditions = [f"{name} is {' or '.join(map(str, values))}" for name, values in one.condition]
    return said + (", by its logarithm" if one.log else "") + (f"; if {' and '.join(conditions)}" if conditions else "")


def _settings(request: Request) -> dict[str, Any]:
    """Return what is the same in all trials."""
    sweep = {**dataclasses.asdict(request.sweep), "max_trials": request.max_trials or "all"}
    varied = {"space", *(one.name for one in request.space)}
    return {name: value for name, value in {**sweep, **request.base.flat()}.items() if name not in varied}


def _course(request: Request, known: Sequence[Record]) -> list[Drawing]:
    figure = course(known, request.metric, maximizes=request.maximizes)
    return [html.draw(figure, "Score of each trial and the best so far", "In the order in which trials began.")]


def _parallel(request: Request, ranked: Sequence[Record]) -> Drawing:
    figure = parallel(request.space, ranked, request.metric)
    return html.draw(figure, "Parallel coordinates of all trials", "One line a trial.")


def _importance(request: Request, ranked: Sequence[Record]) -> list[Drawing]:
    found = importances(request.space, ranked)
    if not found:
        return []
    caption = (
        "Permutation importance in a random forest that learns scores from settings, on trials that it has not "
        "seen; median and 5% to 95% of bootstraps over trials. An interval that reaches 0 says nothing is known."
    )
    return [html.draw(importance(found), "Importance of each setting", caption)]


def _learning(request: Request, ranked: Sequence[Record]) -> list[Drawing]:
    found: list[tuple[str, Curve]] = []
    jobs = dict.fromkeys(record.job for record in ranked)
    for job in list(jobs)[:_CURVES]:
        curves = read_curves(request.paths.trial(job))
        if curves and curves.validation[f"val_{request.metric}"].values:
            found.append((job, curves.validation[f"val_{request.metric}"]))
    if not found:
        return []
    caption = f"The {len(found)} best trials." if len(jobs) > _CURVES else "All trials with a score."
    return [html.draw(learning(found, request.metric), "Validation by epoch of each trial", caption)]


def _row(request: Request, record: Record) -> dict[str, Any]:
    return {
        "trial": record.trial,
        "status": record.status,
        "score": "-" if record.score is None else f"{record.score:.4f}",
        "settings": [record.settings.get(one.name, "") for one in request.space],
        "epochs": f"{record.best_epoch} of {record.epochs}" if record.epochs else "",
        "reason": record.reason,
    }


_COLUMN = 1.1  # Inches of a setting in the parallel coordinates.


def course(records: Sequence[Record], metric: str, *, maximizes: bool) -> Figure:
    """Draw each trial's score and the best so far, by trial."""
    figure = new_figure()
    axes = figure.subplots()
    dress(axes, title="Scores", x="trial", y=f"validation {metric}")
    places = [place for place, record in enumerate(records) if record.score is not None]
    scores = [record.score for record in records if record.score is not None]
    axes.plot(places, scores, "o", color=COOL, markersize=6, label="trial")
    pruned = [at for at in zip(places, scores, strict=True) if records[at[0]].status == PRUNED]
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "o", color=INK, markersize=9, fillstyle="none", label="pruned")
    best = (np.maximum if maximizes else np.minimum).accumulate(np.array(scores, np.float64))
    axes.plot(places, best, "-", color=WARM, linewidth=2, drawstyle="steps-post", label="best so far")
    failed = [place for place, record in enumerate(records) if record.score is None]
    if failed and scores:
        worst = min(scores) if maximizes else max(scores)
        axes.plot(failed, [worst] * len(failed), "x", color=INK, markersize=8, label="failed")
    axes.set_xticks(range(len(records)), [record.trial.lstrip("0") or "0" for record in records])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend_below(figure, 2)
    return figure


def _legend_below(figure: Figure, columns: int) -> None:
    """Add a legend where it cannot stand on a trial."""
    figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK, handlelength=2.6
    )


def parallel(space: Space, ranked: Sequence[Record], metric: str) -> Figure:
    """Draw each trial as a line through its settings and its score; ``ranked`` holds scored trials, best first."""
    figure = new_figure((_COLUMN * (len(space) + 1), SIZE[1]))
    axes = figure.subplots()
    dress(axes, title="Settings and scores", x="", y="")
    axes.grid(visible=False, axis="y")
    scores = np.array([record.score for record in ranked], np.float64)
    columns = [_scaled(one, ranked) for one in space] + [_unit(scores)]
    quarter = max(1, len(ranked) // 4)
    for place in reversed(range(len(ranked))):
        rank = "best" if place == 0 else "quarter" if place < quarter else "rest"
        style = {"best": (WARM, 3.0, "-"), "quarter": (COOL, 1.8, "-"), "rest": (MUTED, 1.0, ":")}[rank]
        label = {0: "best trial", 1: "best quarter", len(ranked) - 1: "the others"}.get(place)
        axes.plot(
            range(len(columns)), [column[place] for column in columns], color=style[0], linewidth=style[1],
            linestyle=style[2], label=label if rank != "quarter" or place == 1 else None,
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), [*(one.name for one in space), metric], rotation=20, ha="right")
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.12)
    for place, one in enumerate(space):
        for height, text in _marks(one, ranked):
            axes.annotate(text, (place, height), (4, 2), textcoords="offset points", fontsize=8, color=INK)
        axes.axvline(place, color=LINE, linewidth=1)
    for score, height in ((scores.max(), 1.0), (scores.min(), 0.0)):
        axes.annotate(f"{score:.4g}", (len(space), height), (4, 2), textcoords="offset points", fontsize=8, color=INK)
    _legend_below(figure, 3)
    return figure


def _unit(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> list[float]:
    low, high = float(values.min()), float(values.max())
    return [(float(value) - low) / (high - low) if high > low else 0.5 for value in values]


def _scaled(one: Parameter, ranked: Sequence[Record]) -> list[float]:
    return _unit(np.array([encode(one, record) for record in ranked], np.float64))


def _marks(one: Parameter, ranked: Sequence[Record]) -> list[tuple[float, str]]:
    """Return heights and words beside a setting's axis: all values of a choice, the ends of a range."""
    heights = dict(zip((record.settings.get(one.name) for record in ranked), _scaled(one, ranked), strict=True))
    if not one.values:
        ends = sorted(heights, key=lambda value: heights[value])
        heights = {value: heights[value] for value in (ends[0], ends[-1])}
    return [(height, _value_text(value)) for value, height in heights.items()]


def _value_text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "not used" if value is None else str(value)


def importance(found: Sequence[Importance]) -> Figure:
    """Draw the importance of each setting with its interval, largest on top."""
    figure = new_figure((SIZE[0], 1.2 + 0.4 * len(found)))
    axes = figure.subplots()
    dress(axes, title="Importance", x="growth of the squared error,\nin variances of the score", y="")
    for row, one in enumerate(found):
        axes.plot([one.low, one.high], [row, row], color=COOL, linewidth=2)
        axes.plot([one.median], [row], "o", color=INK, markersize=6)
    axes.axvline(0.0, color=MUTED, linestyle=":")
    axes.set_yticks(range(len(found)), [one.name for one in found])
    axes.invert_yaxis()
    return figure


def learning(curves: Sequence[tuple[str, Curve]], metric: str) -> Figure:
    """Draw validation by epoch; the curves come best first, the best one thick, the others thin."""
    figure = new_figure()
    axes = figure.subplots()
    dress(axes, title="Learning curves", x="epoch", y=f"validation {metric}")
    for place, (trial, curve) in enumerate(curves):
        colour, width, line = (
            (WARM, 2.5, "o-") if place == 0 else (COOL, 1.5, "s--") if place < 3 else (MUTED, 1.0, ".:")
        )
        label = f"trial {trial}{', the best' * (place == 0)}" if place < 3 else None
        axes.plot(
            curve.epochs, curve.values, line, color=colour, linewidth=width, markersize=4, label=label,
            zorder=4 - min(place, 2),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(axes)
    return figure
