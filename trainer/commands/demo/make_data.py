"""Draw the demonstration data set of deepdetect: genuine and forged portraits in three splits."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from trainer.commands.demo.faces.example import CLASSES, SPLITS
from trainer.commands.demo.faces.writer import DataSet, prepare_worker, write_subject
from trainer.core.config import flags

MARKER = "demo_data.json"
"""Written last: the arguments of a complete set."""
UNFINISHED_MARKER = "demo_data.unfinished.json"
"""Written first: the arguments of a set that is being drawn, which rerunning the same command completes."""

_WITH_UNDERSCORES = ("train_per_class", "validation_per_class", "test_per_class")

_Map = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]

_DESCRIPTION = """\
Draw portraits for a demonstration of deepdetect that needs no download.

Real pictures are drawn portraits. Fake pictures show the same people after a forgery: the inner face of
another person blended in (a swap), or the inner face re-rendered through a generator's up-sampling. Both
classes pass the same camera and are compressed once by the same distribution of JPEG qualities.

The set is written to OUT/{Train,Validation,Test}/{Fake,Real}/*.jpg. A picture depends on the seed, its split,
class and number alone. Rerun an interrupted command to continue where it stopped.
"""
_EPILOG = """\
example:
  deepdetect demo draw --out demo_data --train_per_class 2000 --seed 7

exit codes: 0 the set is complete, 2 an argument or the output folder cannot be used, 130 interrupted.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command with `argv`, by default the process's arguments, and return its exit code."""
    words = flags.with_underscores(sys.argv[1:] if argv is None else argv, _WITH_UNDERSCORES)
    arguments = _parser().parse_args(words)
    try:
        data = _data_set(arguments)
        out = Path(arguments.out)
        if _claim(out, data):
            print(f"{out} already holds these {data.total()} pictures; nothing to do")
            return 0
        _draw(out, data, arguments.workers)
        os.replace(out / UNFINISHED_MARKER, out / MARKER)
    except (ValueError, OSError) as error:
        print(f"make_demo_data: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make_demo_data: interrupted; rerun the same command to continue", file=sys.stderr)
        return 130
    print(f"wrote {data.total()} pictures of {data.size} x {data.size} pixels to {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="deepdetect demo draw",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    about_out = "folder to write to, new or empty (default: %(default)s)"
    add("--out", type=os.path.expanduser, default="demo_data", help=about_out)
    add("--train_per_class", type=int, default=750, metavar="N", help="default: %(default)s")
    add("--validation_per_class", type=int, default=150, metavar="N", help="default: %(default)s")
    add("--test_per_class", type=int, default=250, metavar="N", help="default: %(default)s")
    add("--seed", type=int, default=0, help="another seed draws other people (default: %(default)s)")
    add(
        "--difficulty",
        type=float,
        default=0.5,
        metavar="X",
        help="0: forgeries easily seen, 1: hardly distinguishable (default: %(default)s)",
    )
    add("--size", type=int, default=256, help="side of the pictures in pixels (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes; 0 takes all cores (default: %(default)s)",
    )
    return parser


def _data_set(arguments: argparse.Namespace) -> DataSet:
    """Check the arguments; raise ValueError with a one-line remedy."""
    for name in ("train_per_class", "validation_per_class", "test_per_class", "seed", "workers"):
        value = getattr(arguments, name)
        if value < 0:
            raise ValueError(f"expected --{name} of 0 or more, received {value}; give a whole number from 0 up")
    if not 0 <= arguments.difficulty <= 1:
        raise ValueError(f"expected --difficulty in [0, 1], received {arguments.difficulty}; give 0.5 for the default")
    if not 64 <= arguments.size <= 512:
        raise ValueError(f"expected --size from 64 to 512, received {arguments.size}; give 256 for the default")
    counts = (arguments.train_per_class, arguments.validation_per_class, arguments.test_per_class)
    return DataSet(dict(zip(SPLITS, counts, strict=True)), arguments.seed, arguments.size, float(arguments.difficulty))


def _claim(out: Path, data: DataSet) -> bool:
    """Claim the output folder for this set; return whether it already holds the complete set.

    Raises ValueError where the folder holds something else or cannot be written.
    """
    try:
        complete = _holds(out / MARKER, data) and all(path.is_file() for path in data.paths(out))
        if complete:
            return True
        if _holds(out / MARKER, data):
            os.replace(out / MARKER, out / UNFINISHED_MARKER)
        elif not _holds(out / UNFINISHED_MARKER, data) and out.exists() and any(out.iterdir()):
            raise ValueError(
                f"expected --out to be new, empty or a set of the same arguments, received {out} with other "
                "content; do give another folder or remove this one"
            )
        for split in SPLITS:
            for label in CLASSES:
                (out / split / label).mkdir(parents=True, exist_ok=True)
        (out / UNFINISHED_MARKER).write_text(json.dumps(data.description(), indent=2) + "\n")
    except OSError as error:
        raise ValueError(
            f"expected --out to be a folder that can be written, received {out} ({error.strerror}); "
            "do give another folder"
        ) from error
    return False


def _holds(marker: Path, data: DataSet) -> bool:
    """Return whether a marker exists and holds the same arguments."""
    if not marker.is_file():
        return False
    try:
        return bool(json.loads(marker.read_text()) == data.description())
    except ValueError:
        return False


def _draw(out: Path, data: DataSet, workers: int) -> None:
    """Draw all missing pictures, split by split."""
    workers = workers or os.cpu_count() or 1
    quiet = not sys.stderr.isatty()
    with _mapper(workers) as run:
        for split, count in data.counts.items():
            jobs = run(partial(write_subject, out, data, split), range(count))
            for _ in tqdm(jobs, total=count, desc=f"{split:10}", unit="person", disable=quiet, file=sys.stderr):
                pass
            if quiet:
                print(f"{split}: {count} pictures a class", file=sys.stderr)


@contextmanager
def _mapper(workers: int) -> Iterator[_Map]:
    """Yield a map function that runs in this process, or in a pool of fresh ones that share no state with it."""
    if workers == 1:
        prepare_worker()
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(workers, prepare_worker, (True,)) as pool:
        yield partial(pool.imap_unordered, chunksize=8)
