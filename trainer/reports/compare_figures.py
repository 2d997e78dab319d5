"""The figures of a comparison's page: forest plots of metrics and of their differences, pictures of disagreements.

Does not own: the numbers (``evaluation/compare.py``), words around them (``compare.py``).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.core.storage import files
from trainer.evaluation import metrics
from trainer.evaluation.metrics import Metric
from trainer.reports import html
from trainer.reports.parts import thumbnails
from trainer.reports.parts.forest import Forest, Row

_PICTURES = 24


def signed(value: float, share: bool) -> str:
    """Return a difference with its sign; of shares in percentage points."""
    return f"{100 * value:+.1f} pp" if share else f"{value:+.3f}"


def forests(compared: Mapping[str, Any], name: str) -> list[Forest]:
    """Return the plot of a metric of all runs, and that of the paired differences from the first run."""
    metric = metrics.all_metrics()[name]
    levels = [_level(run, metric, name) for run in compared["runs"]]
    differences = [_difference(run, row[name], metric) for run, row in compared["differences"].items()]
    first = compared["runs"][0]["name"]
    shown = [Forest(metric.title, levels, lambda place: f"{100 * place:.4g}%" if metric.is_share else f"{place:.4g}")]
    if any(row.value is not None for row in differences):
        worse = ", lower is better" if metric.lower_is_better else ""
        title = f"{metric.title}: difference from {first}{worse}"
        shown.append(Forest(title, differences, lambda place: _place(place, metric.is_share), reference=0.0))
    return [forest for forest in shown if any(row.value is not None for row in forest.rows)]


def _place(value: float, share: bool) -> str:
    return f"{100 * value if share else value:+.4g}{' pp' * share}" if value else "0"


def _level(run: Mapping[str, Any], metric: Metric, name: str) -> Row:
    value, interval = metrics.by_name(run, name), run["ci95"].get(name)
    words = html.number(value, metric.is_share)
    return Row(run["name"], value, interval, f"{words} ({html.span(interval, metric.is_share)})" if interval else words)


def _difference(run: str, difference: Mapping[str, Any], metric: Metric) -> Row:
    value, interval = difference["difference"], difference["ci95"]
    if value is None:
        return Row(run, None, None, "undefined")
    words = signed(value, metric.is_share)
    if interval:
        ends = " to ".join(signed(end, metric.is_share) for end in interval)
        words = f"{words} ({ends}), {difference['verdict']}"
    return Row(run, value, interval, words, strong=difference["verdict"] in ("better", "worse"))


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """An image that the runs answer differently: its row of ``compare.json``, its file, and perhaps a picture."""

    row: Mapping[str, Any]
    file: str
    uri: str
    words: str


def disagreements(compared: Mapping[str, Any]) -> list[Disagreement]:
    """Return the listed images, the first ones with pictures if they are plain files that can be read here."""
    folder = str(compared["runs"][0]["data_dir"] or "")
    shown = []
    for number, row in enumerate(compared["disagreements"]):
        path = _file(folder, row["path"])
        small = thumbnails.read(path) if path and number < _PICTURES else None
        link = thumbnails.link(path)
        shown.append(Disagreement(row, link, html.jpeg_uri(small) if small else "", _words(row)))
    return shown


def _file(folder: str, path: str) -> str:
    """Return the full path of an image; empty if it is no plain file of this machine below the folder."""
    whole = files.join(folder, path) if folder else ""
    return whole if ".." not in path.split("/") and thumbnails.link(whole) else ""


def _words(row: Mapping[str, Any]) -> str:
    scores = ", ".join(
        f"{run} {row['p_fake'][run]:.3f} ({'wrong' if called != row['label'] else 'right'}: {called})"
        for run, called in row["predicted"].items()
    )
    return f"is {row['label']}; {scores}"
