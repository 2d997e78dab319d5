"""The page of a sweep: ``sweep.html``, one self-contained file.  Imports no TensorFlow."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from trainer import files, pages
from trainer.curves import Curve, read_curves
from trainer.pages import Drawing
from trainer.space import Parameter
from trainer.sweep import drawings, records
from trainer.sweep.importance import FEWEST_TRIALS, importances
from trainer.sweep.records import Record
from trainer.sweep.request import Request

_CURVES = 20
_COLUMN_REM = 7.0  # Width of a column of the parallel coordinates; a phone scrolls, and can read them.


def write(request: Request, known: Sequence[Record]) -> None:
    """Draw the trials that have ended."""
    ranked = records.by_score(known, maximizes=request.maximizes)
    varied = {one.name: _words(one) for one in request.space}
    page = (
        pages.templates()
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
    figure = drawings.course(known, request.metric, maximizes=request.maximizes)
    return [pages.draw(figure, "Score of each trial and the best so far", "In the order in which trials began.")]


def _parallel(request: Request, ranked: Sequence[Record]) -> Drawing:
    figure = drawings.parallel(request.space, ranked, request.metric)
    return pages.draw(figure, "Parallel coordinates of all trials", "One line a trial.")


def _importance(request: Request, ranked: Sequence[Record]) -> list[Drawing]:
    found = importances(request.space, ranked)
    if not found:
        return []
    caption = (
        "Permutation importance in a random forest that learns scores from settings, on trials that it has not "
        "seen; median and 5% to 95% of bootstraps over trials. An interval that reaches 0 says nothing is known."
    )
    return [pages.draw(drawings.importance(found), "Importance of each setting", caption)]


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
    return [pages.draw(drawings.learning(found, request.metric), "Validation by epoch of each trial", caption)]


def _row(request: Request, record: Record) -> dict[str, Any]:
    return {
        "trial": record.trial,
        "status": record.status,
        "score": "-" if record.score is None else f"{record.score:.4f}",
        "settings": [record.settings.get(one.name, "") for one in request.space],
        "epochs": f"{record.best_epoch} of {record.epochs}" if record.epochs else "",
        "reason": record.reason,
    }
