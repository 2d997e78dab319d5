"""Draw the demonstration data set of deepdetect: genuine and forged portraits in three splits."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from trainer.commands.demo import draw_request
from trainer.commands.demo.draw_request import DrawFlags
from trainer.commands.demo.faces.example import CLASSES, SPLITS
from trainer.commands.demo.faces.writer import DataSet, prepare_worker, write_subject
from trainer.core import progress, terminal
from trainer.core.errors import EXIT_DONE, EXIT_FAILED, EXIT_REQUEST, EXIT_STOPPED
from trainer.core.storage import transient

MARKER = "demo_data.json"
"""Written last: the arguments of a complete set."""
UNFINISHED_MARKER = "demo_data.unfinished.json"
"""Written first: the arguments of a set that is being drawn, which rerunning the same command completes."""

_Map = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, by default the process's arguments, and return its exit code.

    Raises HelpRequested if `--help` is among the arguments.
    """
    try:
        request = draw_request.parse(sys.argv[1:] if argv is None else argv)
        data, out = _data_set(request), Path(request.out)
        if _claim(out, data):
            print(f"{out} already holds these {data.total()} pictures; nothing to do")
            return EXIT_DONE
        _draw(out, data, request.workers)
        os.replace(out / UNFINISHED_MARKER, out / MARKER)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REQUEST
    except OSError as error:
        print(f"stopped: {error}; free space or repair the disk, then rerun the same command", file=sys.stderr)
        return EXIT_STOPPED if transient.may_pass(error) else EXIT_FAILED
    except KeyboardInterrupt:
        print("stopped: interrupted; rerun the same command to continue", file=sys.stderr)
        return 130
    print(f"wrote {data.total()} pictures of {data.size} x {data.size} pixels to {terminal.link(str(out))}")
    return EXIT_DONE


def _data_set(request: DrawFlags) -> DataSet:
    counts = (request.train_per_class, request.validation_per_class, request.test_per_class)
    return DataSet(dict(zip(SPLITS, counts, strict=True)), request.seed, request.size, request.difficulty)


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
        if transient.may_pass(error):
            raise
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
            with progress.bar(count, "person", f"drawing {split}") as bar:
                for _ in jobs:
                    bar.update()
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
