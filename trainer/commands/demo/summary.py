"""Print the results of ``deepdetect demo``: validation and test figures, speed, and the paths of model and reports.

With several seeds (``job/seeds.json``): mean and standard deviation of each figure, and its range.
"""

import json
from pathlib import Path
from typing import Any

from trainer.core import terminal

_FIGURES = ("accuracy", "auc")


def summary(out: Path) -> str:
    """Return the table for a folder that holds ``job/`` and, of a single job, ``evaluation/``."""
    return _of_seeds(out) if (out / "job/seeds.json").exists() else _of_one(out)


def _of_one(out: Path) -> str:
    result = json.loads((out / "job/result.json").read_text())
    test = json.loads((out / "evaluation/metrics.json").read_text())
    rows = [
        ("", "accuracy", "AUC"),
        ("Validation", _figure(result["validation"]["accuracy"]), _figure(result["validation"]["auc"])),
        ("Test", _figure(test["accuracy"]), _figure(test["auc"])),
    ]
    lines = [f"{name:<12}{accuracy:>10}{auc:>10}" for name, accuracy, auc in rows]
    lines += [
        "",
        *_learned([result]),
        _speed(result),
        f"model            {result['exports']['best']}",
        f"training report  {terminal.link(str(out / 'job/report/index.html'))}",
        f"test report      {terminal.link(str(out / 'evaluation/report.html'))}",
    ]
    return "\n".join(lines)


def _of_seeds(out: Path) -> str:
    group = json.loads((out / "job/seeds.json").read_text())
    results = [json.loads((Path(job["job_dir"]) / "result.json").read_text()) for job in group["jobs"]]
    lines = [f"{len(results)} seeds".ljust(12) + f"{'accuracy':>34}{'AUC':>34}"]
    for split in ("Validation", "Test"):
        if split in group:
            lines.append(f"{split:<12}" + "".join(f"{_spread(group[split].get(name)):>34}" for name in _FIGURES))
    lines += [
        "(mean and standard deviation, lowest to highest)",
        "",
        *_learned(results),
        _speed(results[0]),
        *(f"model            {result['exports']['best']}" for result in results if "best" in result["exports"]),
        f"reports          {terminal.link(str(out / 'job/report/index.html'))}",
    ]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _spread(values: dict[str, float] | None) -> str:
    if values is None:
        return "undefined"
    return f"{values['mean']:.4f} +- {values['std']:.4f} ({values['min']:.4f}..{values['max']:.4f})"


def _learned(results: list[dict[str, Any]]) -> list[str]:
    """Return a line for each job that learned nothing."""
    return [f"learned nothing  {result['learned_because']}" for result in results if result.get("learned") is False]


def _speed(result: dict[str, Any]) -> str:
    return (
        f"training speed   {result['images_per_second']:.0f} images/s on {result['num_devices']} x "
        f"{result['device_kind']}, {result['precision']}"
    )
