"""The summary that ``trainer.evaluate`` prints.

Does not own: metrics and their names (``evaluation/metrics/``), pages.
"""

from collections.abc import Mapping
from typing import Any

from trainer.core import terminal
from trainer.core.storage import files
from trainer.data.audit import verdicts
from trainer.evaluation import metrics

_GROUPS_SHOWN = 5


def summary(figures: Mapping[str, Any], out: str) -> str:
    """Return the summary of ``metrics.json`` and the path of the report."""
    lines = [no_use(figures)] if no_use(figures) else []
    lines += [f"{figures['split']}: {figures['n']:,} images, {figures['skipped']} skipped"]
    for name, metric in metrics.all_metrics().items():
        if metric.console and name in figures["ci95"]:
            value = metrics.by_name(figures, name)
            shown = f"undefined, because {figures['undefined'][name]}" if value is None else f"{value:.4f}"
            lines.append(f"  {metric.console:<10}{shown}{_span(figures['ci95'][name])}")
    if figures["drawn"]["unit"] == "sources" and figures["bootstrap"]:
        lines.append(f"  intervals over {figures['drawn']['count']:,} sources, by {figures['drawn']['rule']}")
    for column, groups in figures.get("groups", {}).items():
        lines += _groups(column, groups)
    if "robustness" in figures:
        lines.append(worst_fall(figures["robustness"]))
    if "audit" in figures:
        lines.append(f"  {'audit':<10}{audit_problems(figures) or 'no problem'}, see the report's data")
    report = terminal.link(files.join(out, "report.html"))
    return f"{terminal.visible(chr(10).join(lines))}\n  {'report':<10}{report}"


def no_use(figures: Mapping[str, Any]) -> str:
    """Return the line that says that the model is no better than guessing on these images; empty if it is better."""
    if figures.get("learned") is not False:  # Figures of an older version do not say.
        return ""
    return f"The model is of no use on these images: {figures['learned_because']}."


def audit_problems(figures: Mapping[str, Any]) -> str:
    """Return the number of problems that an audit of the data found, as text; empty if none."""
    audit = figures.get("audit")
    problems = sum(line["kind"] == "bad" for line in verdicts.lines(audit)) if audit else 0
    return f"{problems} problem{'s' if problems > 1 else ''}" if problems else ""


def worst_fall(robustness: Mapping[str, Any]) -> str:
    """Return a sentence on the distortion that lowers a model's performance most."""
    worst = robustness["worst"]
    title = {"auc": "AUC", "accuracy": "accuracy"}[worst["figure"]]
    where = f"{worst['kind']} ({robustness['kinds'][worst['kind']]['unit']} {worst['strength']:g})"
    if worst["value"] >= worst["unchanged"]:
        return f"No distortion lowers the {title} of {worst['unchanged']:.3f}."
    return f"The worst fall is at {where}: the {title} is {worst['value']:.3f} instead of {worst['unchanged']:.3f}."


def _span(interval: list[float] | None) -> str:
    return f"  (95%: {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""


def _groups(column: str, groups: list[dict[str, Any]]) -> list[str]:
    shown = groups[:_GROUPS_SHOWN]
    more = f", {len(shown)} of {len(groups)}" if len(groups) > len(shown) else ""
    lines = [f"by {column} (lowest accuracy first{more}):"]
    names = [terminal.in_line(group["value"]) for group in shown]
    width = max(map(len, names))
    for name, group in zip(names, shown, strict=True):
        accuracy = f"accuracy {group['accuracy']:.4f}{_span(group['ci95']['accuracy'])}"
        auc = "" if group["auc"] is None else f"  AUC {group['auc']:.4f}"
        lines.append(f"  {name:<{width}}  {accuracy}{auc}  {group['n']:,} images")
    return lines
