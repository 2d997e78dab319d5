"""Cues that give the class away: how well one plain property of a file predicts its class.

Each cue gets an AUC in [0.5, 1]; 0.5 is guessing.  A numeric cue is ranked in either direction: max(auc, 1 - auc).
Numeric and categorical cues are also scored by target rates: the share of the class among other images with the same
value (for numbers: in the same of 32 quantile bins), out of fold over 5 folds.  This also finds a cue that is
predictive but not monotonic ("every fake is exactly 256 pixels wide").  The larger score counts.  With more than two
classes it is the mean over classes of one against the rest.
Owns: which cues exist, their AUC, advice.  Does not own: reading files (``scan.py``).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.audit.scan import Records, Table

FLAG_AUC = 0.6
_STANDARD_ERRORS = 3.0  # Above guessing; closer to it, a cue of a small split may be chance.
_BINS, _FOLDS = 32, 5

FILE, PICTURE = "file", "picture"
SUBSAMPLINGS = {-1: "none", 0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Cue:
    """One property of images.

    Attributes:
        name: in ``audit.json``.
        title: for people.
        level: ``file``, readable without decoding the picture, or ``picture``.
        values: maps a table ``[N]`` to floats, NaN where an image has none, or to strings for a category.
        advice: what to do when it gives the class away.
    """

    name: str
    title: str
    level: str
    values: Callable[[Table], npt.NDArray[Any]]
    advice: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """How well one cue predicts the class.

    Attributes:
        cue: that was scored.
        numeric: whether it has an order.
        auc: by split, in [0.5, 1]; None where it cannot be computed (fewer than two classes have the property).
        flagged: splits in which it is above the threshold and three standard errors above guessing.
        typical: by split and class: the median of a number, the commonest value of a category with its share.
    """

    cue: Cue
    numeric: bool
    auc: Mapping[str, float | None]
    flagged: tuple[str, ...]
    typical: Mapping[str, Mapping[str, Any]]

    @property
    def worst(self) -> tuple[str, float]:
        """Split with the highest AUC, and that AUC; ("", 0.5) if there is none."""
        values = [(value, split) for split, value in self.auc.items() if value is not None]
        value, split = max(values, default=(0.5, ""), key=lambda pair: pair[0])
        return split, value


_RESAVE = "Decode all images and save them again with the same settings (a common format, size and quality)."
_RESIZE = "Crop and resize the images of all classes from the same kind of sources in the same way."
_STRIP = "Training does not read it, but it says that the classes were made by different programs; look for more."
_LIGHT = "Look at the sample images; if the classes come from other cameras or scenes, mix the sources."


def _field(name: str) -> Callable[[Table], npt.NDArray[Any]]:
    return lambda table: table[name].astype(np.float64)


def _text(name: str) -> Callable[[Table], npt.NDArray[Any]]:
    return lambda table: table[name].astype(str)


def _aspect(table: Table) -> Floats:
    return np.asarray(table["width"] / table["height"], np.float64)


def _bits_per_pixel(table: Table) -> Floats:
    return np.asarray(8.0 * table["bytes"] / (table["width"].astype(np.float64) * table["height"]), np.float64)


def _quality(table: Table) -> Floats:
    return np.where(table["quality"] > 0, table["quality"], np.nan)


def _subsampling(table: Table) -> npt.NDArray[Any]:
    return np.array([SUBSAMPLINGS[value] for value in table["subsampling"].tolist()], str)


CUES = (
    Cue("file_bytes", "File size", FILE, _field("bytes"), _RESAVE),
    Cue("width", "Width", FILE, _field("width"), _RESIZE),
    Cue("height", "Height", FILE, _field("height"), _RESIZE),
    Cue("aspect_ratio", "Aspect ratio", FILE, _aspect, _RESIZE + " Training squeezes images to a square."),
    Cue("bits_per_pixel", "Bits per pixel", FILE, _bits_per_pixel, _RESAVE),
    Cue("jpeg_quality", "JPEG quality", FILE, _quality, _RESAVE + " --augment=forensic blurs the difference."),
    Cue("chroma_subsampling", "Chroma subsampling", FILE, _subsampling, _RESAVE),
    Cue("progressive", "Progressive coding", FILE, _text("progressive"), _STRIP),
    Cue("format", "Format", FILE, _text("format"), _RESAVE),
    Cue("mode", "Colour mode", FILE, _text("mode"), "Convert all images alike, to RGB for instance."),
    Cue("extension", "File extension", FILE, _text("extension"), _STRIP),
    Cue("exif", "Has EXIF", FILE, _text("exif"), _STRIP),
    Cue("orientation", "EXIF orientation", FILE, _text("orientation"), "Turn the pixels; training turns JPEGs only."),
    Cue("icc", "Has a colour profile", FILE, _text("icc"), "Convert all images to sRGB."),
    Cue("other_metadata", "Has XMP or comments", FILE, _text("other_metadata"), _STRIP),
    Cue("brightness", "Brightness", PICTURE, _field("brightness"), _LIGHT),
    Cue("contrast", "Contrast", PICTURE, _field("contrast"), _LIGHT),
    Cue("red", "Mean red", PICTURE, _field("red"), _LIGHT),
    Cue("green", "Mean green", PICTURE, _field("green"), _LIGHT),
    Cue("blue", "Mean blue", PICTURE, _field("blue"), _LIGHT),
)


def find(records: Records, flag_auc: float = FLAG_AUC) -> list[Finding]:
    """Score every cue in every split on its good images; the most predictive come first.

    Of equal files only one is used, because copies would carry the class from one fold to another.
    """
    tables = {}
    for number, split in enumerate(records.splits):
        good = records.table[(records.table["split"] == number) & records.table["ok"]]
        tables[split.name] = good[np.unique(good["sha256"], return_index=True)[1]]
    findings = [_score(cue, tables, records.class_names, flag_auc) for cue in CUES]
    return sorted(findings, key=lambda finding: -finding.worst[1])


def _score(cue: Cue, tables: Mapping[str, Table], class_names: Sequence[str], flag_auc: float) -> Finding:
    auc: dict[str, float | None] = {}
    typical: dict[str, Mapping[str, Any]] = {}
    flagged: list[str] = []
    numeric = True
    for split, table in tables.items():
        values, labels = cue.values(table), table["label"]
        numeric = values.dtype.kind == "f"
        has = ~np.isnan(values) if numeric else np.ones(len(values), bool)
        values, labels = values[has], labels[has]
        auc[split] = value = class_auc(values, labels)
        typical[split] = _typical(values, labels, class_names)
        if value is not None and value >= flag_auc and value - 0.5 >= _STANDARD_ERRORS * _standard_error(labels):
            flagged.append(split)
    return Finding(cue, numeric, auc, tuple(flagged), typical)


def class_auc(values: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float | None:
    """Return how well values ``[N]`` (floats or strings) separate the classes, in [0.5, 1]; see the module's docstring.

    None if there are fewer than two classes.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        return None
    distinct, codes = np.unique(values, return_inverse=True)
    numeric = values.dtype.kind == "f"
    bins = _bins(values, codes, len(distinct)) if numeric else codes
    of_classes = []
    for label in classes[:1] if len(classes) == 2 else classes:
        positive = labels == label
        auc = _out_of_fold(bins, positive)
        if numeric:
            ranked = _auc(np.arange(len(distinct)), codes, positive)
            auc = max(auc, ranked, 1 - ranked)
        of_classes.append(max(auc, 0.5))
    return float(np.mean(of_classes))


def _bins(values: Floats, codes: npt.NDArray[Any], distinct: int) -> npt.NDArray[Any]:
    """Return the bin number of each value: one bin per value if there are few, else quantile bins."""
    if distinct <= _BINS:
        return codes
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    return np.searchsorted(edges, values, side="right")


def _out_of_fold(bins: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    """Return the AUC of the target rates: an image's is the share of positives in its bin over the other folds."""
    folds = np.random.default_rng(0).permutation(len(bins)) % _FOLDS
    kinds = int(bins.max()) + 1
    cells = folds * kinds + bins
    totals = np.bincount(cells, minlength=_FOLDS * kinds).reshape(_FOLDS, kinds)
    hits = np.bincount(cells, positive, _FOLDS * kinds).reshape(_FOLDS, kinds)
    share = positive.mean()  # Counts as one more image in each bin, which keeps rare bins near the mean.
    rates = (hits.sum(0) - hits + share) / (totals.sum(0) - totals + 1.0)
    return _auc(rates.ravel(), cells, positive)


def _auc(scores: npt.NDArray[Any], codes: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    """Return the AUC (Mann-Whitney, ties count half) when image ``i`` has ``scores[codes[i]]``."""
    ordered, level = np.unique(scores, return_inverse=True)
    levels = level[codes]
    hits = np.bincount(levels[positive], minlength=len(ordered))
    misses = np.bincount(levels[~positive], minlength=len(ordered))
    below = np.cumsum(misses) - misses
    return float((hits * (below + 0.5 * misses)).sum() / (hits.sum() * misses.sum()))


def _standard_error(labels: npt.NDArray[Any]) -> float:
    """Return the standard error of the AUC of a guess (Mann-Whitney), the largest over the classes."""
    counts = np.unique(labels, return_counts=True)[1].astype(np.float64)
    others = counts.sum() - counts
    return float(np.sqrt((counts + others + 1) / (12 * counts * others)).max())


def _typical(values: npt.NDArray[Any], labels: npt.NDArray[Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the median (numbers) or the commonest value and its share (categories) of each class present."""
    typical: dict[str, Any] = {}
    for label in np.unique(labels):
        members = values[labels == label]
        if values.dtype.kind == "f":
            typical[class_names[label]] = float(np.median(members))
        else:
            distinct, counts = np.unique(members, return_counts=True)
            share = counts.max() / counts.sum()
            typical[class_names[label]] = {"value": str(distinct[counts.argmax()]), "share": float(share)}
    return typical
