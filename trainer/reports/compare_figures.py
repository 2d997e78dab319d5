"""The figures of a comparison's page: forest plots of metrics and of their differences, pictures of disagreements.

Does not own: the numbers (``evaluation/compare.py``), words around them (``compare.py``).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.core import progress
from trainer.core.errors import RequestError, StorageDown
from trainer.core.storage import files
from trainer.data import readers
from trainer.data.manifest import Split
from trainer.evaluation import metrics
from trainer.evaluation.metrics import Metric
from trainer.reports import gallery_items, html
from trainer.reports.parts import split_images, thumbnails
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


def disagreements(compared: Mapping[str, Any], page: str) -> tuple[list[Disagreement], str]:
    """Return the listed images, the first ones with pictures, and why there are none; empty if there are.

    Args:
        compared: the contents of ``compare.json``.
        page: path of the page, to which links are relative.
    """
    listed = compared["disagreements"]
    names = [files.unprintable(row["path"]) for row in listed]
    links: dict[str, str] = {}
    pictures: dict[str, str] = {}
    why_none = "none of these images is there"
    try:
        with progress.phase("reading the pictures of disagreements"):
            split = _split(compared, names)
            links = {name: _link(split, number, page) for number, name in enumerate(split.names)}
            pictures = _pictures(split, names[:_PICTURES])
    except (RequestError, StorageDown, OSError) as error:  # The comparison stands without them.
        why_none = str(error)
    shown = [
        Disagreement(row, links.get(name, ""), pictures.get(name, ""), _words(row))
        for row, name in zip(listed, names, strict=True)
    ]
    return shown, "" if pictures else why_none


def _split(compared: Mapping[str, Any], names: Sequence[str]) -> Split:
    """Return the named images of the first run that are there."""
    first = compared["runs"][0]
    if not first["data_dir"]:
        raise RequestError("the evaluation names no data")
    return split_images.find(first["data_dir"], first["split"], compared["class_names"], names)


def _link(split: Split, number: int, page: str) -> str:
    return "" if split.records else gallery_items.link_to(split.path(number), page)


def _pictures(split: Split, names: Sequence[str]) -> dict[str, str]:
    """Return the data URIs of thumbnails by name, of those named images that can be decoded."""
    chosen = [number for number, name in enumerate(split.names) if name in names]
    contents = readers.open_reader(split).read(np.array(chosen, np.int64))
    small = {split.names[number]: thumbnails.of(content) for number, content in zip(chosen, contents, strict=True)
             if isinstance(content, bytes)}  # fmt: skip
    return {name: html.jpeg_uri(picture) for name, picture in small.items() if picture}


def _words(row: Mapping[str, Any]) -> str:
    scores = ", ".join(
        f"{run} {row['p_fake'][run]:.3f} ({'wrong' if called != row['label'] else 'right'}: {called})"
        for run, called in row["predicted"].items()
    )
    return f"is {row['label']}; {scores}"
