"""The images that differ most from the others of a data set, by one plain measure each.  Does not own: the measures."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.audit.scan import Records, Table

LISTED = 100

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measure of an image.

    Attributes:
        name: in ``audit.json``.
        title: for people.
        rank: maps a table ``[N]`` to numbers; the largest are the oddest.
        value: of one row, for people and programs.
        unit: of the value, in words.
    """

    name: str
    title: str
    rank: Callable[[Table], Floats]
    value: Callable[[Any], float]
    unit: str


def _far_from_median(values: Floats) -> Floats:
    return np.abs(values - np.median(values))


def _log_area(table: Table) -> Floats:
    return np.asarray(np.log(table["width"].astype(np.float64) * table["height"]), np.float64)


def _log_aspect(table: Table) -> Floats:
    return np.asarray(np.log(table["width"] / table["height"]), np.float64)


MEASURES = (
    Measure("blurred", "Most blurred", lambda table: -table["sharpness"].astype(np.float64),
            lambda row: row["sharpness"], "variance of the Laplacian"),
    Measure("dark", "Darkest", lambda table: -table["brightness"].astype(np.float64),
            lambda row: row["brightness"], "of 255 mean brightness"),
    Measure("odd_size", "Oddest size", lambda table: _far_from_median(_log_area(table)),
            lambda row: row["width"] * row["height"] / 1e6, "megapixels"),
    Measure("odd_aspect", "Oddest shape", lambda table: _far_from_median(_log_aspect(table)),
            lambda row: row["width"] / row["height"], "width to height"),
    Measure("few_colours", "Fewest colours", lambda table: -table["colours"].astype(np.float64),
            lambda row: row["colours"], "colours"),
)  # fmt: skip


def oddest(records: Records) -> dict[str, list[int]]:
    """Return the positions of the oddest good images by each measure, the oddest first; none if all are alike."""
    good = np.flatnonzero(records.table["ok"])
    if not len(good):
        return {measure.name: [] for measure in MEASURES}
    found = {}
    for measure in MEASURES:
        rank = measure.rank(records.table[good])
        order = np.argsort(-rank, kind="stable")[:LISTED]
        found[measure.name] = good[order[rank[order] > rank.min()]].tolist()
    return found
