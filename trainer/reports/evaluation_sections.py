"""Drawings of the page about an evaluation, and its optional sections.

Owns: their words.  Does not own: layout (``templates/``).
"""

from collections.abc import Mapping
from typing import Any

from trainer.data.audit import verdicts
from trainer.evaluation.groups import FIGURES
from trainer.evaluation.metrics import ranking
from trainer.evaluation.predictions import Predictions
from trainer.reports import console, evaluation_plots, html, metric_titles, thresholds

_GROUPS_SHOWN = 30
_CHOSEN = {
    "accuracy": "highest accuracy",
    "balanced_accuracy": "highest balanced accuracy",
    "eer": "misses as frequent as false alarms",
    "fpr": "most found within the allowed false alarms",
}


def drawings(figures: Mapping[str, Any], predictions: Predictions) -> list[html.Drawing]:
    """Return the curves of an evaluation; curves over all thresholds only if the scores can be ranked."""
    positive = predictions.class_names[predictions.positive]
    always = [
        _calibration(figures, predictions),
        thresholds.marked(
            evaluation_plots.score_histogram(predictions),
            "scores",
            f"Histogram of the probability of {positive}, by true class",
            "The less the two overlap, the better they can be told apart.",
        ),
    ]
    if ranking.why_no_ranking(predictions.is_positive, predictions.p_fake):
        return always
    roc = thresholds.marked(
        evaluation_plots.roc(predictions, figures["eer"]),
        "roc",
        f"ROC curve, area {figures['auc']:.4f}",
        f"Every threshold at once: {positive} found, against false alarms. Up and left is better.",
    )
    precision_recall = thresholds.marked(
        evaluation_plots.precision_recall(predictions),
        "pr",
        f"Precision-recall curve, average precision {figures['average_precision']:.4f}",
        f"How many of the images called {positive} are, against how many are found.",
    )
    det = thresholds.marked(
        evaluation_plots.det(predictions, figures["eer"]),
        "det",
        f"DET curve, equal error rate {figures['eer']:.2%}",
        "Both kinds of error, on scales that spread out rare ones. Down and left is better; rates that so few images "
        "cannot tell from 0 are at the edge.",
    )
    return [roc, precision_recall, det, *always]


def _calibration(figures: Mapping[str, Any], predictions: Predictions) -> html.Drawing:
    caption = "Of the answers given with some confidence, how many are right. Below the dotted line it is too sure."
    effect = figures.get("calibration")
    caption += (
        f" Confidence has a temperature of {effect['temperature']:.3g}, fitted on Validation."
        if effect
        else " The export has no temperature (train with --calibrate)."
    )
    alt = f"Calibration diagram, calibration error {figures['ece']:.1%}"
    return thresholds.marked(evaluation_plots.reliability(predictions), "confidence", alt, caption)


def weakest(figures: Mapping[str, Any]) -> list[str]:
    """Return sentences on the weakest groups and distortions, if these were requested."""
    sentences = []
    for column, groups in figures.get("groups", {}).items():
        worst = groups[0]
        if len(groups) > 1:
            sentences.append(
                f"By {column} it does worst on {worst['value']}: {worst['accuracy']:.1%} of {worst['n']:,} images are "
                "classified correctly."
            )
    if "robustness" in figures:
        sentences.append(f"Distorted images: {console.worst_fall(figures['robustness'])}")
    return sentences


def doubts(figures: Mapping[str, Any]) -> list[str]:
    """Return a sentence about problems that an audit of the data found, if there was one."""
    text = console.audit_problems(figures)
    return [f"The audit of the data names {text} that these figures may owe something to; see Data."] if text else []


def audit(findings: Mapping[str, Any] | None, split: str = "", auc: float | None = None) -> dict[str, Any] | None:
    """Return the findings of an audit of the data as text; None without an audit.

    Args:
        findings: see ``digest.py``.
        split: the split that a model was evaluated on, if any.
        auc: the model's AUC on it, to compare with the cues'.
    """
    if not findings:
        return None
    return {
        "about": verdicts.about(findings),
        "page": verdicts.page(findings),
        "counts": findings["counts"],
        "lines": verdicts.lines(findings, split, auc),
    }


def groups(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for each column of the groups table, its name, the rows of the worst groups, and a note."""
    tables = []
    for column, column_groups in figures.get("groups", {}).items():
        rows = [
            {
                "name": group["value"],
                "n": f"{group['n']:,}",
                "cells": [_group_cell(group, name) for name in FIGURES],
            }
            for group in column_groups
        ]
        hidden = len(rows) - _GROUPS_SHOWN
        note = f"The {hidden:,} groups with a higher accuracy are in metrics.json." if hidden > 0 else ""
        tables.append({"column": column, "rows": rows[:_GROUPS_SHOWN], "note": note})
    return tables


def _group_cell(group: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a figure of a group; the AUC of forgeries alone is that against all images that are none."""
    rest = group.get("against_rest")
    if name != "auc" or rest is None:
        return metric_titles.cell(group, name)
    cell = metric_titles.cell(rest, name)
    return {**cell, "note": f"{cell['note']} against all {rest['n']:,} others".strip()}


def videos(figures: Mapping[str, Any]) -> list[str]:
    """Return sentences on whole videos, if it is known which images are of one."""
    whole = figures.get("videos")
    if whole is None:
        return []
    parts = [f"AUC {metric_titles.cell(whole, 'auc')['value']}", f"accuracy {whole['accuracy']:.1%}"]
    texts = [f"Whole videos ({whole['n']:,}; the mean score of the images of each): {', '.join(parts)}."]
    for column, column_groups in whole.get("groups", {}).items():
        named = [f"{group['value']} {metric_titles.cell(group['against_rest'], 'auc')['value']}"
                 for group in column_groups if "against_rest" in group]  # fmt: skip
        texts += [f"AUC of their videos by {column}: {', '.join(named)}."] if named else []
    return texts


def threshold(figures: Mapping[str, Any], positive: str) -> list[str]:
    """Return sentences about the threshold, and about the temperature if there is one."""
    value = f"The threshold is {figures['threshold']:.4g}"
    if len(figures["class_names"]) > 2:
        return ["With more than two classes the likeliest class is the answer.", *_temperature(figures)]
    choice = figures["threshold_choice"] or {"by": "", "why": "the export does not say why"}
    if choice["by"] == "--threshold":
        value += ", given by --threshold instead of the export's own"
    elif choice["why"]:
        value += f" ({choice['why']})"
    else:
        value += f", chosen on {choice['images']:,} Validation images ({_CHOSEN[choice['by']]})"
    return [f"{value}: an image is called {positive} from that probability up.", *_temperature(figures)]


def _temperature(figures: Mapping[str, Any]) -> list[str]:
    effect = figures.get("calibration")
    if not effect:
        return []
    before, after = effect["before"], effect["after"]
    return [
        f"A temperature of {effect['temperature']:.3g}, fitted on Validation, changes the log loss here from "
        f"{before['log_loss']:.3f} to {after['log_loss']:.3f} and the calibration error from {before['ece']:.1%} to "
        f"{after['ece']:.1%}."
    ]


def robustness(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return sentences, drawings and rows about distorted images; None if they were not scored."""
    results = figures.get("robustness")
    if results is None:
        return None
    clean = results["unchanged"]
    rows = [{"name": "unchanged", "cells": _robust_cells(clean)}]
    for kind, what in results["kinds"].items():
        for result in what["results"]:
            rows.append(
                {
                    "name": f"{evaluation_plots.title(kind)}, {what['unit']}: {result['strength']:g}",
                    "cells": _robust_cells(result),
                }
            )
    sentences = [console.worst_fall(results)]
    if results["images"] < results["of"]:
        sentences.append(
            f"Scored on {results['images']:,} of {results['of']:,} images, evenly spread over the classes."
        )
    drawings = [
        html.draw(
            evaluation_plots.curves(kind, what, clean),
            f"AUC and accuracy after {kind}, by {what['unit']}",
            f"{evaluation_plots.title(kind)} by {what['unit']}; bars are 95% intervals.",
        )
        for kind, what in results["kinds"].items()
    ]
    return {"sentences": sentences, "drawings": drawings, "rows": rows}


def _robust_cells(result: Mapping[str, Any]) -> list[dict[str, str]]:
    return [metric_titles.cell(result, name) for name in ("auc", "accuracy")]
