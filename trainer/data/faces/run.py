"""Cut the faces out of many videos on all cores, and write the table and the rule of the set.

Owns: the progress bar, ``faces.csv``, that a rerun has the settings of the first run.  Does not own: processes
(``worker_processes.py``), one video (``extract.py``).
"""

import functools
from collections.abc import Sequence

from trainer import __version__
from trainer.core import progress, tables, terminal, worker_processes
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.faces import crop_rule, extract, video_file
from trainer.data.faces.extract import Note
from trainer.data.faces.inputs import Input
from trainer.data.faces.request import FacesFlags

TABLE = "faces.csv"


def run(inputs: Sequence[Input], request: FacesFlags) -> list[Note]:
    """Cut the faces out of all inputs that are not done; write ``faces.json``, then ``faces.csv``; return the notes.

    Raises:
        RequestError: if the output holds crops of other settings.
        JobFailed: if a worker is killed.
        StorageDown: if something cannot be read or written, for a reason that may pass.
    """
    _claim(request)
    notes = []
    with progress.bar(len(inputs), "video", "cutting faces") as bar:
        work = functools.partial(extract.process, request=request)
        remedy = "use fewer --workers"
        for note in worker_processes.ordered_map(work, inputs, request.workers, remedy=remedy, prepare=_one_core):
            notes.append(note)
            bar.update()
    rows = [row for note in notes for row in note.rows]
    files.write_text(files.join(request.out, TABLE), tables.to_csv(rows))
    return notes


def _claim(request: FacesFlags) -> None:
    """Write ``faces.json``, or compare it: all crops of a set are cut alike."""
    path = files.join(request.out, crop_rule.FILE)
    if not files.exists(path):
        crop_rule.write(path, request.rule, request.decisive, __version__)
        return
    content = crop_rule.read(path)
    before = {**content["rule"], **content.get("settings", {})}
    now = {**request.rule.metadata(), **request.decisive}
    for name, value in now.items():
        if before.get(name) != value:
            raise RequestError(
                f"--out: expected an empty folder, or crops of the same settings, received {request.out!r} with "
                f"{name} {before.get(name)!r} instead of {value!r}; give another --out, or the settings of before"
            )


def _one_core() -> None:
    """Leave the other cores to the other workers."""
    video_file.opencv().setNumThreads(1)


def summary(inputs: Sequence[Input], notes: Sequence[Note], request: FacesFlags) -> str:
    """Return the short table that the command prints at its end."""
    counts: dict[str, int] = {}
    for note in notes:
        for row in note.rows:
            place = "/".join(str(part) for part in (row["split"], row["label"]) if part) or "crops"
            counts[place] = counts.get(place, 0) + 1
    frames, empty = sum(note.frames for note in notes), sum(note.without_face for note in notes)
    lines = [f"{place:<20}{count:,} crops" for place, count in sorted(counts.items())]
    faceless = sum(not note.rows and not note.error for note in notes)
    lines.append(f"{'inputs':<20}{len(inputs):,}; {faceless:,} without a face, "
                 f"{sum(bool(note.error) for note in notes):,} bad")  # fmt: skip
    lines.append(f"{'frames':<20}{frames:,}; {empty:,} without a face")
    lines.append(f"{'rule':<20}{request.rule.text}")
    return "\n".join([*lines, f"{'set':<20}{terminal.link(request.out)}"])
