"""What a training report says of its job in words: state, duration, starts, changed settings, epochs, links.

Does not own: charts (``step_charts.py``), the page (``training.py``).  Imports no TensorFlow.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core import config as config_lib
from trainer.core.job_dir import EXPORT_CARD, JobPaths
from trainer.core.storage import files
from trainer.evaluation.training_curves import Curves

RUNNING, STOPPED, FINISHED, FAILED = "running", "stopped", "finished", "failed"

Line = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Status:
    """How a job stands when its page is written.

    Attributes:
        state: ``running``, ``stopped`` (the same command resumes it), ``finished`` or ``failed``.
        reason: why it stopped or failed; empty otherwise.
    """

    state: str = FINISHED
    reason: str = ""


def tiles(lines: Sequence[Line], curves: Curves | None, status: Status, now: datetime.datetime) -> list[dict[str, str]]:
    """Return the large figures on top of the page."""
    starts = [line for line in lines if line.get("kind") == "start"]
    last = starts[-1] if starts else {}
    total = last.get("total_steps")
    step = max((int(line.get("step", 0)) for line in lines), default=0)
    machine = f"{last['num_devices']} x {last['device_kind']}" if "num_devices" in last else ""
    clock = now.strftime("%Y-%m-%d %H:%M UTC")
    shown = [
        ("State", status.state, f"at {clock}"),
        ("Steps", f"{step:,}", f"of {total:,}" if total else ""),
        ("Duration", span(seconds(lines, now if status.state == RUNNING else None)), "of all starts"),
        _best(curves),
        ("Speed", *_speed(lines)),
        ("Starts", f"{len(starts)}", ""),
        ("Host", str(last.get("host", "")), machine),
    ]
    return [{"name": name, "value": value, "note": note} for name, value, note in shown if value]


def _best(curves: Curves | None) -> tuple[str, str, str]:
    if curves is None or curves.best_epoch is None:
        return ("Best epoch", "", "")
    curve = curves.validation[curves.monitor]
    value = curve.values[curve.epochs.index(curves.best_epoch)]
    return ("Best epoch", str(curves.best_epoch), f"{curves.monitor} {value:.4f}")


def _speed(lines: Sequence[Line]) -> tuple[str, str]:
    rates = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    return (f"{rates[-1]:,.0f}", "images/s, in the last line") if rates else ("", "")


def seconds(lines: Sequence[Line], now: datetime.datetime | None) -> float | None:
    """Return how long the starts of a job took, from their first line to their last one.

    Args:
        lines: of ``metrics.jsonl``; those of older versions have a time at starts alone.
        now: the end of the last start if it is still running.
    """
    spans: list[list[datetime.datetime]] = []
    for line in lines:
        moment = time_of(line)
        if line.get("kind") == "start":
            spans.append([])
        if moment and spans:
            spans[-1].append(moment)
    if now is not None and spans:
        spans[-1].append(now)
    taken = [(max(span) - min(span)).total_seconds() for span in spans if len(span) > 1]
    return sum(taken) if taken else None


def time_of(line: Line) -> datetime.datetime | None:
    """Return the time of a line; None if it has none."""
    try:
        moment = datetime.datetime.fromisoformat(str(line.get("time")))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def span(value: float | None) -> str:
    """Return a duration as text; empty if it is not known."""
    if value is None:
        return ""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def changed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults, in the order of the flags."""
    fields = config_lib.settings()
    return {name: value for name, value in settings.items() if name in fields and value != fields[name].default}


def epochs(lines: Sequence[Line], curves: Curves | None) -> list[dict[str, Any]]:
    """Return a row for each epoch: numbers, and None where there is none."""
    if curves is None:
        return []
    rates, ends = _means(lines, "images_per_second"), _ends(lines)
    columns = {
        "train_loss": curves.train["loss"], "train_accuracy": curves.train["accuracy"],
        **curves.validation, "learning_rate": curves.learning_rate,
    }  # fmt: skip
    by_epoch = {name: dict(zip(curve.epochs, curve.values, strict=True)) for name, curve in columns.items()}
    numbers = sorted({epoch for values in by_epoch.values() for epoch in values})
    return [
        {
            "epoch": epoch, **{name: values.get(epoch) for name, values in by_epoch.items()},
            "images_per_second": rates.get(epoch), "ended": ends.get(epoch, ""), "best": epoch == curves.best_epoch,
        }
        for epoch in numbers
    ]  # fmt: skip


def _means(lines: Sequence[Line], name: str) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for line in lines:
        if line.get("kind") == "train" and line.get(name) is not None:
            values.setdefault(line["epoch"], []).append(line[name])
    return {epoch: sum(each) / len(each) for epoch, each in values.items()}


def _ends(lines: Sequence[Line]) -> dict[int, str]:
    """Return when each epoch was validated."""
    moments = {line["epoch"]: time_of(line) for line in lines if line.get("kind") == "validation"}
    return {epoch: moment.strftime("%m-%d %H:%M:%S") for epoch, moment in moments.items() if moment}


def links(job_dir: str, *, finished: bool) -> list[tuple[str, str]]:
    """Return title and address, relative to the page, of the job's files that exist.

    Args:
        job_dir: of the job.
        finished: whether ``result.json`` follows the page.
    """
    paths = JobPaths(job_dir)
    shown = []
    for kind in ("best", "last"):
        folder = paths.exports(kind)
        for step in sorted(_names(folder)):
            card = files.join(folder, step, EXPORT_CARD)
            if files.exists(card):
                shown.append((f"Model card ({kind}, step {step})", f"../export/{kind}/{step}/{EXPORT_CARD}"))
            if step.isdigit():
                shown.append((f"Export ({kind}, step {step})", f"../export/{kind}/{step}/"))
    for name in sorted(_names(job_dir)):
        if files.exists(files.join(job_dir, name, "report.html")):
            shown.append((f"Evaluation ({name})", f"../{name}/report.html"))
    named = (("Log", "metrics.jsonl"), ("Settings", "config.json"), ("Result", "result.json"),
             ("Images that cannot be decoded", "skipped.jsonl"), ("TensorBoard", "tensorboard"))  # fmt: skip
    following = "result.json" if finished else ""
    return shown + [
        (title, f"../{name}") for title, name in named if name == following or files.exists(files.join(job_dir, name))
    ]


def _names(folder: str) -> list[str]:
    """Return the names in a folder that could be a version or an evaluation; none without the folder."""
    own = {"checkpoints", "features", "tensorboard", "report", "export"}
    return [name for name in files.list_names(folder) if name not in own] if files.is_dir(folder) else []
