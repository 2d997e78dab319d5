"""The ``audit`` command: flags, the order of work, and what is printed."""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core import config
from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, EXIT_FAILED, RequestError
from trainer.core.storage import files
from trainer.data.manifest import Split, read_all_splits

USAGE = """\
Look at a data set before training on it.

  python scripts/prepare_data.py audit --data_dir=D --out=O [flags]

D holds {Train,Validation,Test}/<class>/* images, Train at least.  O receives audit.html to read and audit.json for
programs (docs/audit.md): counts, sizes, formats and brightness by split and class, broken files, equal and similar
images inside and across splits and classes, and how well file size, JPEG quality and the like give the class away.

Exit codes: 0 done; 1 with --strict: images are in two splits, or equal files in two classes; 2 the request is wrong."""


@dataclasses.dataclass(frozen=True)
class AuditFlags:
    """Settings of one audit; the limits of the two thresholds stand in ``duplicates.py`` and ``cues.py``."""

    data_dir: str = config.setting("", "Folder or gs:// path with {Train,Validation,Test}/<class>/* images.")
    out: str = config.setting("", "Folder or gs:// path for audit.html and audit.json.")
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
        "Images are similar when their 64-bit perceptual hashes differ in at most so many bits (and their 16 x 16 "
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


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags or data are wrong.
        JobFailed: if the operating system ends a worker.
    """
    request = flags.parse_request(argv, AuditFlags, usage=USAGE, required=("data_dir", "out"))
    splits = read_all_splits(request.data_dir)
    if any(split.records is not None for split in splits):
        raise RequestError(
            f"--data_dir: expected a folder of images, received a packed set, {request.data_dir!r}; audit the folder "
            "that it was packed from"
        )
    files.require_writable(request.out, "out")
    summary = audit(splits, request)
    print(_table(summary, request.out))
    return EXIT_FAILED if request.strict and summary["strict_failures"] else EXIT_DONE


def audit(splits: Sequence[Split], request: AuditFlags) -> dict[str, Any]:
    """Write ``audit.json`` and ``audit.html``; return what the first holds."""
    # Late: their libraries are slow to import, and a wrong flag should be answered at once.
    from trainer.data.audit import cues, digest, duplicates, scan
    from trainer.data.audit import summary as summaries
    from trainer.reports import audit as audit_report

    records = scan.scan(splits, workers=request.workers, max_image_pixels=request.max_image_pixels)
    found = duplicates.find(records, request.near_distance)
    findings = cues.find(records, request.cue_auc)
    settings = {
        "data_dir": files.printable(request.data_dir),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{name: getattr(request, name) for name in ("max_image_pixels", "near_distance", "cue_auc")},
    }
    summary = summaries.summarise(found, findings, settings)
    text = json.dumps(summary, indent=1, allow_nan=False)
    files.write_text(files.join(request.out, digest.AUDIT_FILE), text + "\n")
    files.write_text(files.join(request.out, "audit.html"), audit_report.render(found, findings, summary))
    return summary


def _table(summary: Mapping[str, Any], out: str) -> str:
    """Return the short text that ends the command."""
    lines = []
    for split, classes in summary["counts"].items():
        counts = ", ".join(f"{name} {count['images']:,}" for name, count in classes.items())
        bad = sum(count["bad"] for count in classes.values())
        lines.append(f"{split:<12}{counts}{f'; {bad:,} broken' if bad else ''}")
    exact, near = summary["exact"], summary["near"]
    lines.append(f"{'equal':<12}{exact['groups']:,} pictures in {exact['images']:,} files")
    lines.append(f"{'similar':<12}{near['inside']:,} pairs in a class, {near['across_classes']:,} across classes")
    lines += [f"{'PROBLEM':<12}{text}" for text in summary["strict_failures"]]
    for cue in summary["cues"]:
        if cue["flagged"]:
            best = max(value for value in cue["auc"].values() if value is not None)
            lines.append(f"{'cue':<12}{cue['title']}: AUC {best:.3f} ({', '.join(cue['flagged'])})")
    if not summary["strict_failures"]:
        lines.append(f"{'leakage':<12}none found, nor equal files in two classes")
    return "\n".join([*lines, f"{'report':<12}{files.join(out, 'audit.html')}"])
