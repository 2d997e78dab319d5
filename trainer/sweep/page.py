"""The page of a sweep: ``sweep.html``, one self-contained file.  Imports no TensorFlow."""

from collections.abc import Sequence
from typing import Any

from trainer import files, pages
from trainer.curves import Curve, read_curves
from trainer.pages import Drawing
from trainer.sweep import drawings, records
from trainer.sweep.importance import FEWEST_TRIALS, importances
from trainer.sweep.records import Record
from trainer.sweep.request import Request

_CURVES = 20


def write(request: Request, known: Sequence[Record]) -> None:
    """Draw the trials that have ended."""
    ranked = records.by_score(known, maximizes=request.maximizes)
    page = (
        pages.templates()
        .get_template("sweep.html")
        .render(
            job_dir=request.base.loop.job_dir,
            sentences=_sentences(request, known, ranked),
            course=_course(request, known) if ranked else [],
            why=_why(request, ranked) if ranked else [],
            fewest=FEWEST_TRIALS,
            learning=_learning(request, ranked),
            names=[one.name for one in request.space],
            metric=request.metric,
            rows=[_row(request, record) for record in [*ranked, *(one for one in known if one.score is None)]],
            settings={"tuner": request.sweep.tuner, "objective": request.metric, **request.base.flat()},
        )
    )
    files.write_text(request.paths.report, page)


def _sentences(request: Request, known: Sequence[Record], ranked: Sequence[Record]) -> list[str]:
    failed = sum(record.status == records.FAILED for record in known)
    pruned = sum(record.status == records.PRUNED for record in known)
    said = [f"{len(known)} trials by {request.sweep.tuner}, {failed} of them failed, {pruned} pruned."]
    if pruned:
        said.append("A pruned trial was stopped early as hopeless; its score is the best that it had until then.")
    if ranked:
        best = ranked[0]
        chosen = ", ".join(f"{name} {value}" for name, value in best.settings.items())
        said.append(f"Best is trial {best.trial} with validation {request.metric} {best.score:.4f}: {chosen}.")
        said.append(
            "The best of many trials is lucky as well as good: its validation score is too high by some. Only images "
            "that no trial was chosen by, and other seeds (--retrain_best), tell how much."
        )
    return said


def _course(request: Request, known: Sequence[Record]) -> list[Drawing]:
    figure = drawings.course(known, request.metric, maximizes=request.maximizes)
    return [pages.draw(figure, "Score of each trial and the best so far", "In the order in which trials began.")]


def _why(request: Request, ranked: Sequence[Record]) -> list[Drawing]:
    figure = drawings.parallel(request.space, ranked, request.metric)
    drawn = [pages.draw(figure, "Parallel coordinates of all trials", "One line a trial.")]
    found = importances(request.space, ranked)
    if found:
        caption = (
            "Permutation importance in a random forest that learns scores from settings, on trials that it has not "
            "seen; median and 5% to 95% of bootstraps over trials. An interval that reaches 0 says nothing is known."
        )
        drawn.append(pages.draw(drawings.importance(found), "Importance of each setting", caption))
    return drawn


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
        "score": "failed" if record.score is None else f"{record.score:.4f}",
        "settings": [record.settings.get(one.name, "") for one in request.space],
        "epochs": f"{record.best_epoch} of {record.epochs}" if record.epochs else "",
        "reason": record.reason,
    }
