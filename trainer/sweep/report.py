"""The report of a sweep: ``sweep.html``, one self-contained file.

Does not own: its figures (``report_plots.py``).  Imports no TensorFlow.
"""

import dataclasses
import urllib.parse
from collections.abc import Sequence
from typing import Any

from trainer.core.storage import files
from trainer.evaluation.training_curves import Curve, read_curves
from trainer.reports import charts, html
from trainer.reports.html import Drawing
from trainer.reports.job_facts import span
from trainer.sweep import records, report_plots, trial_figures
from trainer.sweep.importance import FEWEST_TRIALS, importances
from trainer.sweep.records import Record
from trainer.sweep.request import Request
from trainer.sweep.space import Parameter

_CURVES = 20


def write(request: Request, ended: Sequence[Record]) -> None:
    """Write the report of the trials that have ended."""
    ranked = records.by_score(ended, maximizes=request.maximizes)
    varied = {one.name: _words(one) for one in request.space}
    page = (
        html.templates()
        .get_template("sweep.html")
        .render(
            job_dir=request.base.loop.job_dir,
            sentences=_sentences(request, ended, ranked),
            failures=_failures(ended),
            course=[_scores(request, ended), *_learning(request, ranked)] if ranked else [],
            parallel=trial_figures.parallel(request.space, ranked, request.metric) if len(ranked) > 1 else None,
            columns=len(request.space) + 1,
            left_out=f" Drawings show {trial_figures.MOST} trials at most." if len(ended) > trial_figures.MOST else "",
            slices=trial_figures.slices(request.space, ranked, request.metric) if len(ranked) > 1 else [],
            timeline=trial_figures.timeline(ended, ranked[0].trial if ranked else ""),
            importance=_importance(request, ranked),
            fewest=FEWEST_TRIALS,
            names=list(varied),
            metric=request.metric,
            rows=_rows(request, ended, ranked),
            varied=varied,
            settings=_settings(request),
            style=charts.style_of("figures.css", "trials.css"),
            scripts=[charts.script_of(name) for name in ("tables.js", "trials.js")],
        )
    )
    files.write_text(request.paths.report, page)


def _sentences(request: Request, ended: Sequence[Record], ranked: Sequence[Record]) -> list[str]:
    counts = [
        f"{sum(record.status == status for record in ended)} {status}"
        for status in (records.DONE, records.PRUNED, records.FAILED)
    ]
    sentences = [
        f"{len(ended)} {'trial' if len(ended) == 1 else 'trials'} by {request.sweep.tuner}: {', '.join(counts)}."
    ]
    if any(record.status == records.PRUNED for record in ended):
        sentences.append("A pruned trial was stopped early; its score is the best that it had until then.")
    if ranked:
        best = ranked[0]
        chosen = ", ".join(f"{name} {value}" for name, value in best.settings.items())
        sentences.append(f"Best is trial {best.trial} with validation {request.metric} {best.score:.4f}: {chosen}.")
    if len(ranked) > 1:
        sentences.append(
            "The best of many trials is lucky as well as good: its validation score is somewhat too high. Only images "
            "that were not used to choose a trial, and other seeds (--retrain_best), show by how much."
        )
    return sentences


def _failures(ended: Sequence[Record]) -> list[str]:
    """Return a sentence for each kind of failure, with the reason of its first trial."""
    kinds: dict[str, list[Record]] = {}
    for record in ended:
        if record.status == records.FAILED:
            kinds.setdefault(records.kind_of(record.reason), []).append(record)
    return [f"Failed ({', '.join(one.trial for one in alike)}): {alike[0].reason}" for alike in kinds.values()]


def _words(one: Parameter) -> str:
    """Return in words which values the search may choose for a setting."""
    values = ", ".join(map(str, one.values)) if one.values else f"{one.low:g} to {one.high:g}"
    conditions = [f"{name} is {' or '.join(map(str, allowed))}" for name, allowed in one.condition]
    return (
        values + (", by its logarithm" if one.log else "") + (f"; if {' and '.join(conditions)}" if conditions else "")
    )


def _settings(request: Request) -> dict[str, Any]:
    """Return the settings that are the same in all trials."""
    sweep = {**dataclasses.asdict(request.sweep), "max_trials": request.max_trials or "all"}
    varied = {"space", *(one.name for one in request.space)}
    return {name: value for name, value in {**sweep, **request.base.flat()}.items() if name not in varied}


def _scores(request: Request, ended: Sequence[Record]) -> Drawing:
    figure = report_plots.scores(ended, request.metric, maximizes=request.maximizes)
    return html.draw(figure, "Score of each trial and the best so far", "In the order in which trials began.")


def _importance(request: Request, ranked: Sequence[Record]) -> list[Drawing]:
    rows = importances(request.space, ranked)
    if not rows:
        return []
    caption = (
        "Permutation importance in a random forest that predicts scores from settings, on trials that it has not "
        "seen; median and 5% to 95% of bootstraps over trials. An interval that reaches 0 may mean no effect."
    )
    return [html.draw(report_plots.importance(rows), "Importance of each setting", caption)]


def _learning(request: Request, ranked: Sequence[Record]) -> list[Drawing]:
    learning: list[tuple[str, Curve]] = []
    jobs = dict.fromkeys(record.job for record in ranked)
    for job in list(jobs)[:_CURVES]:
        curves = read_curves(request.paths.trial(job))
        if curves and curves.validation[f"val_{request.metric}"].values:
            learning.append((job, curves.validation[f"val_{request.metric}"]))
    if not learning:
        return []
    caption = f"The {len(learning)} best trials." if len(jobs) > _CURVES else "All trials with a score."
    return [
        html.draw(report_plots.learning_curves(learning, request.metric), "Validation by epoch of each trial", caption)
    ]


def _rows(request: Request, ended: Sequence[Record], ranked: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the rows of the table, best first; those of trials that may have kept a report link to it."""
    kept = set(list(dict.fromkeys(record.job for record in ranked))[: request.sweep.keep_trials])
    reports = {job for job in kept if files.exists(files.join(request.paths.trial(job), "report", "index.html"))}
    ordered = [*ranked, *(one for one in ended if one.score is None)]
    return [_row(request, record, has_report=record.job in reports) for record in ordered]


def _row(request: Request, record: Record, *, has_report: bool) -> dict[str, Any]:
    return {
        "trial": record.trial,
        "folder": f"trials/{urllib.parse.quote(record.job)}/",
        "has_report": has_report,
        "status": record.status,
        "value": record.score,
        "score": "-" if record.score is None else f"{record.score:.4f}",
        "settings": [record.settings.get(one.name, "") for one in request.space],
        "epochs": f"{record.best_epoch} of {record.epochs}" if record.epochs else "",
        "seconds": record.seconds,
        "took": span(record.seconds),
        "worker": record.worker,
        "reason": record.reason,
    }
