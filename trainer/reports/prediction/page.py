"""The page of one prediction: scores, pictures, their histogram with a threshold to move, and what has no score.

Owns: which rows it shows, and its words.  Does not own: rows (``serving/predict_files.py``), thumbnails
(``thumbnails.py``), what the gallery can do (``gallery_items.py``), layout (``templates/prediction.html``).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.core.storage import files
from trainer.core.tables import Row
from trainer.evaluation import provenance
from trainer.reports import charts, gallery_items, html, plots, thresholds
from trainer.reports.gallery_items import Item
from trainer.reports.prediction import thumbnails
from trainer.serving.exported_model import ExportedModel
from trainer.serving.predict_files import Scoring
from trainer.serving.predict_request import PredictFlags

_EMBEDDED = 240  # Thumbnails; a third of them the highest scores, a third the nearest to the threshold.
_WITHOUT_SCRIPT = 36
_CONSIDERED = 20_000  # Rows that could fit into ``gallery_items.LISTED_BYTES`` at the very most.
_TABLE_ROWS = 500
_TABLE_COLUMNS = {"p_fake_top": "Mean of the top", "frames": "Frames", "seconds": "Seconds", "faces": "Faces"}
_BINS = 40
_SORTS = (
    {"title": "highest score first", "key": "s", "down": True},
    {"title": "lowest score first", "key": "s", "down": False},
    {"title": "nearest to the threshold first", "key": "w", "down": True},
    {"title": "name", "key": "p", "down": False},
)


def write(rows: Sequence[Row], scoring: Scoring, request: PredictFlags) -> None:
    """Write the page of all rows to ``--report``, whole or not at all."""
    files.write_text(request.report, _Page(rows, scoring, request).render())


class _Page:
    def __init__(self, rows: Sequence[Row], scoring: Scoring, request: PredictFlags) -> None:
        self._rows, self._scoring, self._request = rows, scoring, request
        self._export = scoring.export
        own = request.own_threshold
        self._threshold = self._export.threshold if own is None else own
        self._scored = sorted(
            (row for row in rows if row["p_fake"] is not None), key=lambda row: -_score(row)
        )  # Stable: equal scores stay in the order of the rows.
        self._failed = [row for row in rows if row["error"]]

    def render(self) -> str:
        items, unlisted = self._items()
        shown = [item.picture for item in items if item.picture][:_WITHOUT_SCRIPT]
        scores = [_score(row) for row in self._scored]
        tried = thresholds.of_scores(scores, self._threshold, self._export.class_names, self._export.positive)
        return html.templates().get_template("prediction.html").render(
            what="videos" if self._request.video else "images",
            positive=self._export.positive_class,
            count=len(self._rows),
            model=self._export.path,
            tiles=self._tiles(),
            threshold=_threshold_text(self._export, self._request, self._threshold),
            left_out=self._scoring.left_out,
            histogram=self._histogram(scores) if scores else None,
            pictures=shown,
            gallery_text=self._gallery_text(items, unlisted),
            gallery=self._gallery_data([_without_shown(item, shown) for item in items]),
            columns=[title for name, title in _TABLE_COLUMNS.items() if self._has(name)],
            table=[self._table_row(row) for row in self._scored[:_TABLE_ROWS]],
            table_rest=max(len(self._scored) - _TABLE_ROWS, 0),
            failed=[self._failure(row) for row in self._failed[:_TABLE_ROWS]],
            failed_rest=max(len(self._failed) - _TABLE_ROWS, 0),
            out=self._request.out,
            made=provenance.scored("trainer.predict", self._request),
            thresholds=tried,
            style=charts.style_of("charts.css", "gallery.css"),
            scripts=[charts.script_of(name) for name in ("tables.js", "lightbox.js", "gallery.js", "thresholds.js")],
        )  # fmt: skip

    def _items(self) -> tuple[list[Item], int]:
        """Return the gallery's images, highest score first, and how many did not fit."""
        embedded = _spread(self._scored, self._threshold)
        others = [place for place in range(len(self._scored)) if place not in embedded][:_CONSIDERED]
        order = [*sorted(embedded), *others]
        made = [self._item(self._scored[place]) for place in order]
        listed = gallery_items.fitting(made)
        chosen = [self._scored[place] for place in order[: min(len(embedded), listed)]]
        pictures = thumbnails.load(chosen, of_videos=self._request.video, max_pixels=self._export.max_image_pixels)
        made[: len(chosen)] = [
            dataclasses.replace(item, picture=picture) for item, picture in zip(made, pictures, strict=False)
        ]
        ordered = sorted(zip(order[:listed], made[:listed], strict=True), key=lambda pair: pair[0])
        items = [
            dataclasses.replace(item, picture=item.picture and dataclasses.replace(item.picture, item=number))
            for number, (_, item) in enumerate(ordered)
        ]
        return items, len(self._scored) - listed

    def _item(self, row: Row) -> Item:
        path = str(row["path"])
        answer = self._export.class_names.index(str(row["label"]))
        faces = row.get("faces")
        return Item(
            path=path,
            link=gallery_items.link_to(files.unprintable(path), self._request.report),
            kind=answer,
            score=_score(row),
            wrong=-abs(_score(row) - self._threshold),
            answer=answer,
            groups=[path.rpartition("/")[0]],
            note=f"one of {faces} faces" if isinstance(faces, int) and faces > 1 else "",
        )

    def _gallery_data(self, items: Sequence[Item]) -> dict[str, Any]:
        names = self._export.class_names
        return gallery_items.as_json(
            items, ["folder"], names=list(names), positive=self._export.positive, sorts=_SORTS,
            kinds=[{"title": f"called {name}", "wrong": False} for name in names], follows=len(names) == 2,
        )  # fmt: skip

    def _gallery_text(self, items: Sequence[Item], unlisted: int) -> str:
        pictures = sum(item.picture is not None for item in items)
        if pictures == len(self._scored):
            return ""
        text = (
            f"{pictures:,} of {len(self._scored):,} have a picture here: the highest scores, those nearest to the "
            "threshold, and some of all others. The rest are listed without one."
        )
        if self._request.video and any(files.is_remote(str(row["path"])) for row in self._scored):
            text += " Videos in a bucket have none."
        return f"{text} {unlisted:,} of the rest do not fit into this page." if unlisted else text

    def _tiles(self) -> list[dict[str, str]]:
        labels = [row["label"] for row in self._scored]
        tiles = [{"name": "scored", "value": f"{len(self._scored):,}", "note": ""}]
        for name in self._export.class_names:
            count = labels.count(name)
            note = f"{count / len(labels):.1%} of them" if labels else ""
            tiles.append({"name": f"called {name}", "value": f"{count:,}", "note": note})
        missing = sum(row["p_fake"] is None for row in self._rows)
        return [*tiles, {"name": "without a score", "value": f"{missing:,}", "note": "see below" if missing else ""}]

    def _histogram(self, scores: Sequence[float]) -> html.Drawing:
        return thresholds.marked(
            _histogram(scores, self._threshold if len(self._export.class_names) == 2 else None,
                       self._export.positive_class),
            "scores",
            f"Histogram of the probability of {self._export.positive_class}",
            "How many there are of each score. Scores near the threshold are those that it is least sure of.",
        )  # fmt: skip

    def _has(self, name: str) -> bool:
        return bool(self._scored) and name in self._scored[0]

    def _table_row(self, row: Row) -> dict[str, Any]:
        cells = [row[name] for name in _TABLE_COLUMNS if self._has(name)]
        return {
            "path": row["path"],
            "link": gallery_items.link_to(files.unprintable(str(row["path"])), self._request.report),
            "label": row["label"],
            "score": f"{_score(row):.4f}",
            "cells": [f"{cell:.4g}" if isinstance(cell, float) else "" if cell is None else cell for cell in cells],
        }

    def _failure(self, row: Row) -> dict[str, Any]:
        link = gallery_items.link_to(files.unprintable(str(row["path"])), self._request.report)
        return {"path": row["path"], "link": link, "why": row["error"]}


def _score(row: Row) -> float:
    return float(row["p_fake"])  # type: ignore[arg-type]


def _without_shown(item: Item, shown: Sequence[html.Picture]) -> Item:
    """Return an item without its picture if the page shows that anyway."""
    return dataclasses.replace(item, picture=None) if item.picture in shown else item


def _spread(scored: Sequence[Row], threshold: float) -> set[int]:
    """Return the places of the rows that get a thumbnail."""
    count = len(scored)
    if count <= _EMBEDDED:
        return set(range(count))
    part = _EMBEDDED // 3
    distance = np.abs(np.array([_score(row) for row in scored]) - threshold)
    chosen = {*range(part), *np.argsort(distance, kind="stable")[:part].tolist()}
    rest = np.array([place for place in range(count) if place not in chosen])
    return chosen | set(rest[np.linspace(0, len(rest) - 1, min(part, len(rest))).round().astype(int)].tolist())


def _histogram(scores: Sequence[float], threshold: float | None, positive: str) -> Figure:
    figure = plots.new_figure()
    axes = plots.new_axes(figure, title="Scores", x=f"probability of {positive}", y="number")
    counts, edges = np.histogram(scores, np.linspace(0.0, 1.0, _BINS + 1))
    axes.stairs(counts, edges, fill=True, color=plots.COOL, alpha=0.3)
    axes.stairs(counts, edges, color=plots.COOL, linewidth=1.5)
    if threshold is not None:
        axes.axvline(threshold, color=plots.INK, linestyle=":", label=f"threshold {threshold:.3g}")
        plots.legend(axes, "upper left")
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.2)  # Room for the legend.
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _threshold_text(export: ExportedModel, request: PredictFlags, threshold: float) -> str:
    if len(export.class_names) > 2:
        return "With more than two classes the likeliest class is the answer."
    whose = "given by --threshold" if request.threshold else "the export's own"
    return f"The threshold is {threshold:.4g}, {whose}: {export.positive_class} is the answer from that score up."
