"""The ``pack`` command: flags, what is left out, and what is printed."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, RequestError
from trainer.core.storage import files
from trainer.data import tfrecord
from trainer.data.manifest import Split, read_all_splits
from trainer.data.pack.request import PackFlags

USAGE = """\
Pack a folder of images into TFRecord shards with an index.

  python scripts/prepare_data.py pack --data_dir=D --out=O [flags]

D holds {Train,Validation,Test}/<class>/* images, Train at least.  O can be the --data_dir of every other command: the
same images in the same order give the same weights as D.  Images keep their bytes unless something must change: what
EXIF turns, CMYK, WebP, BMP and GIF become PNG of the very pixels that training on D would see; what TensorFlow cannot
read but Pillow can (WebP with alpha, TIFF) becomes PNG of Pillow's, and counts as good.  After a kill the same command
goes on.

Exit codes: 0 done, or done before; 2 the request is wrong; 1 anything else."""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags or data are wrong.
    """
    request = flags.parse_request(argv, PackFlags, usage=USAGE, required=("data_dir", "out"))
    if tfrecord.read_manifest(request.data_dir) is not None:
        raise RequestError(f"--data_dir: expected a folder of images, received the packed set {request.data_dir!r}")
    splits = read_all_splits(request.data_dir)
    files.require_writable(request.out, "out")
    dropped = leaks(splits, request) if request.drop_leaks else set()
    from trainer.data.pack import writer  # TensorFlow is loaded here, after everything that can be refused without it.

    told = writer.pack(request, splits, dropped)
    for name, reason in told["bad"].items():
        print(f"bad: {files.printable(name)}: {reason}", file=sys.stderr)
    print(_summary(told, request))
    return EXIT_DONE


def leaks(splits: Sequence[Split], request: PackFlags) -> set[str]:
    """Return the names of images to leave out so that no image is in two splits."""
    from trainer.data.audit import (
        duplicates,
        scan,  # Late: their libraries are slow to import.
    )

    records = scan.scan(splits, workers=request.workers, max_image_pixels=request.max_image_pixels)
    return duplicates.leaks(records)


def _summary(told: Mapping[str, Any], request: PackFlags) -> str:
    """Return the short table that ends the command."""
    lines = []
    for split, entry in told["splits"].items():
        counts = ", ".join(f"{name} {count:,}" for name, count in entry["counts"].items())
        size = sum(shard["bytes"] for shard in entry["shards"]) / 1e6
        lines.append(f"{split:<12}{counts}; {len(entry['shards'])} shards, {size:,.1f} MB, "
                     f"{entry['converted']:,} converted")  # fmt: skip
    kept = "left out" if request.drop_bad else "kept as they are, and skipped by training"
    lines.append(f"{'bad':<12}{len(told['bad']):,}{f' ({kept})' if told['bad'] else ''}")
    if request.drop_leaks:
        lines.append(f"{'leaks':<12}{len(told['dropped']):,} left out")
    return "\n".join([*lines, f"{'packed set':<12}{request.out}"])
