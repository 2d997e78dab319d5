"""The settings of an audit, each of them a flag."""

import dataclasses

from trainer.core import config

USAGE = """\
Look at a data set before training on it.

  python scripts/prepare_data.py audit --data_dir=D --out=O [flags]

D holds {Train,Validation,Test}/<class>/* images, Train at least.  O receives audit.html to read, audit.json for
programs (docs/audit.md), suggested_drop.txt for --drop, and rescued.csv: counts, sizes, formats and brightness by split
and class, broken files, equal and similar images inside and across splits and classes, odd images, and how well file
size, JPEG quality and the like give the class away.

Exit codes: 0 done; 1 with --strict: images are in two splits, or equal files in two classes; 2 the request is wrong."""


@dataclasses.dataclass(frozen=True)
class AuditFlags(config.LayoutConfig):
    """Settings of one audit; ``duplicates.py`` and ``cues.py`` define the limits of the two thresholds."""

    data_dir: str = config.setting(
        "", "Folder or gs:// path with {Train,Validation,Test}/<class>/* images.", path=config.PATH
    )
    out: str = config.setting("", "Folder or gs:// path for audit.html and audit.json.", path=config.PATH)
    strict: bool = config.setting(
        False,
        "Exit with code 1 if two splits share an image (equal or similar) or two classes an equal file. Similar images "
        "of two classes are reported only: a forgery looks like its source.",
    )
    workers: int = config.setting(0, "Processes that read and decode; 0: one for each core.", minimum=0, maximum=1024)
    max_image_pixels: int = config.setting(
        config.MAX_IMAGE_PIXELS,
        "An image whose header says more (width times height) is reported as broken and not decoded; 100 million "
        "takes 0.5 GB or more in each worker.",
        unit="pixels",
        minimum=1,
    )
    near_distance: int = config.setting(
        6,
        "Images are similar when their 64-bit perceptual hashes differ in at most this many bits (and their 16 x 16 "
        "luminances correlate by 0.98).",
        unit="bits",
        minimum=0,
        maximum=7,
    )
    cue_auc: float = config.setting(
        0.6,
        "A cue is flagged from this AUC on, if it is three standard errors above 0.5 too.",
        minimum=0.5,
        maximum=1.0,
    )
    evaluation: str = config.setting(
        "",
        "Folder or gs:// path that trainer.evaluate wrote for images of data_dir; what its model calls something else "
        "with a probability of 0.95 or more is listed as a likely wrong label.",
        path=config.PATH,
    )
