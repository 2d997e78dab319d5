"""Cut the faces out of one video or image, and note what was cut.

The note comes after the crops, so it never describes any that are missing; an input with a note is done.
Owns: which frames are looked at, the crops' files, notes.  Does not own: processes and the table (``run.py``).
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator

from trainer.core.errors import AccessDenied
from trainer.core.storage import files, transient
from trainer.core.tables import Row
from trainer.data import image_files
from trainer.data.faces import crop_rule, video_file
from trainer.data.faces.crop_rule import Cropper, CropRule
from trainer.data.faces.detector import Face
from trainer.data.faces.inputs import Input
from trainer.data.faces.request import FacesFlags
from trainer.data.formats import rescue
from trainer.data.formats.image_format import Unreadable
from trainer.data.pixels import Pixels

NOTES = ".faces"  # Folder in the output; hidden, so that no listing takes it for images.


@dataclasses.dataclass
class Note:
    """What was cut out of one input.

    Attributes:
        rows: one for each crop, as in ``faces.csv``.
        frames: number of frames that were looked at.
        without_face: number of these without a face.
        error: what is wrong with the input; empty if nothing is.  A truncated video has crops and an error.
    """

    rows: list[Row] = dataclasses.field(default_factory=list)
    frames: int = 0
    without_face: int = 0
    error: str = ""


def process(one: Input, request: FacesFlags) -> Note:
    """Cut the faces out of an input, unless a note says that it is done; return the note.

    An input that cannot be read has an error in its note, and is tried again by the next run.

    Raises:
        OSError, StorageDown: if it cannot be read or written for a reason that may pass.
    """
    path = files.join(
        request.out, NOTES, f"{hashlib.sha256(one.target.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
    )
    stamp = _stamp(one)
    note = _read_note(path, stamp)
    if note is not None:
        return note
    if one.is_video:
        files.remove_tree(files.join(request.out, one.target))  # What a kill left, or an older version of the video.
    note = Note()
    try:
        for sample, rgb in _frames(one, request, note):
            _cut(one, request, sample, rgb, note)
    except (OSError, AccessDenied, Unreadable) as error:
        if transient.is_transient(error):
            raise
        note.error = getattr(error, "strerror", None) or str(error)
    if not note.error and not note.frames:
        note.error = "a video without frames"
    files.write_text(path, json.dumps({"stamp": stamp, **dataclasses.asdict(note)}) + "\n")
    return note


def _stamp(one: Input) -> str:
    """Return what changes when a local file does, so that a replaced video is cut again."""
    if files.is_remote(one.path):
        return one.path
    with contextlib.suppress(OSError):
        status = os.stat(one.path)
        return f"{one.path}:{status.st_size}:{status.st_mtime_ns}"
    return ""


def _read_note(path: str, stamp: str) -> Note | None:
    """Return the note of an input that is done; a damaged one counts as none."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        values = json.loads(files.read_text(path))
        if values.pop("stamp") == stamp and not values["error"]:
            return Note(**values)
    return None


def _frames(one: Input, request: FacesFlags, note: Note) -> Iterator[tuple[video_file.Sample | None, Pixels]]:
    """Yield the frames to look at; an image is one frame, which has no number."""
    if not one.is_video:
        yield None, rescue.decode(image_files.read(one.path), request.max_image_pixels)
        return
    with files.local_file(one.path) as local, contextlib.closing(video_file.Video(local, 1, 0)) as video:
        yield from video.evenly(request.frames_per_video)
        note.error = video.missing


def _cut(one: Input, request: FacesFlags, sample: video_file.Sample | None, rgb: Pixels, note: Note) -> None:
    """Write the crops of a frame, and note them."""
    note.frames += 1
    crops = _cropper(request.rule).crops(rgb, largest=request.which == "largest")
    note.without_face += not crops
    base = one.target if sample is None else f"{one.target}/{sample.number:06d}"
    for number, (face, content) in enumerate(crops):
        name = f"{base}{f'_{number}' if number else ''}{crop_rule.ENDINGS[request.encode]}"
        files.write_bytes(files.join(request.out, name), content)
        place: Row = {"frame": None, "time": None}
        if sample is not None:
            place = {"frame": sample.number, "time": round(sample.seconds, 3)}
        about: Row = {"path": name, "label": one.label, "split": one.split, "source": one.name}
        note.rows.append({**about, **place, **box(face, *rgb.shape[:2]), "score": round(face.score, 4)})


def box(face: Face, height: int, width: int) -> Row:
    """Return the columns of a face's box, in whole pixels inside the image."""
    limits = (width, height, width, height)
    values = (min(max(round(value), 0), limit) for value, limit in zip(face.box, limits, strict=True))
    return dict(zip(("x0", "y0", "x1", "y1"), values, strict=True))


@functools.lru_cache(maxsize=1)
def _cropper(rule: CropRule) -> Cropper:
    return Cropper(rule)
