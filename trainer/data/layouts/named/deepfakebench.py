"""A JSON file of DeepfakeBench (Yan et al. 2023), which lists the frames of a set by label, split and video.

``{set: {label: {split: {video: {"label": ..., "frames": [...]}}}}}``, for FaceForensics++ with the compression between
split and video.  Frames are relative to the folder of the file or one above it.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.core.config import LayoutConfig
from trainer.core.storage import files
from trainer.data.layouts import identities, published, rows, words
from trainer.data.layouts.images import Images
from trainer.data.layouts.named import ffpp
from trainer.data.layouts.words import FAKE, REAL

HELP = "a JSON file of DeepfakeBench."
ORDER = 7

_WHAT = "a JSON file of DeepfakeBench, {set: {label: {split: {video: {label, frames}}}}}"
_ABOVE = 4  # Folders above the file in which the frames are looked for.


def recognises(data_dir: str, names: Sequence[str]) -> bool:
    """Return whether data_dir is a JSON file other than the DFDC's."""
    return data_dir.lower().endswith(".json") and posixpath.basename(data_dir) != "metadata.json"


def read(data_dir: str, settings: LayoutConfig) -> Images:
    """Return the frames that the file lists.

    Raises:
        RequestError: if it has another form.
    """
    content = published.read_json(data_dir, _WHAT)
    try:
        videos = list(_videos(content))
    except (AttributeError, TypeError, KeyError) as error:
        raise published.refused(data_dir, _WHAT) from error
    groups = identities.groups(who for _, _, video, _ in videos if (who := ffpp.people(video)))
    columns: dict[str, list[str]] = {name: [] for name in ("path", "label", "split", "source", "video", "method")}
    for label, split, video, frames in videos:
        who = ffpp.people(video) if label.startswith("FF-") else ()
        row = (label, split, groups[who[0]] if who else video, f"{label}/{video}",
               label if _class_of(label) == FAKE else "")  # fmt: skip
        columns["path"] += [str(frame).replace("\\", "/") for frame in frames]
        for name, value in zip(("label", "split", "source", "video", "method"), row, strict=True):
            columns[name] += [value] * len(frames)
    rule = "identities and videos of DeepfakeBench"
    root = _root(data_dir, columns["path"])
    notes = () if root == posixpath.dirname(data_dir) else (f"frames are below {root!r}",)
    table = rows.Rows(root, f"file {data_dir!r}", columns, notes=notes, source_rule=rule, classes=_class_of)
    return rows.to_images(table, words.labels_of(settings.labels))


def _class_of(label: str) -> str:
    return REAL if "real" in label.lower() else FAKE


def _videos(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield label, split, name and frames of each video."""
    for labels in content.values():
        for label, splits in labels.items():
            for split, videos in splits.items():
                for name, facts in _with_frames(videos):
                    yield label, split, name, facts["frames"]


def _with_frames(videos: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the videos, also those below a compression."""
    for name, facts in videos.items():
        if "frames" in facts:
            yield name, facts
        else:
            yield from _with_frames(facts)


def _root(data_dir: str, paths: Sequence[str]) -> str:
    """Return the folder, that of the file or one above, below which the first frame is; else that of the file."""
    folder = own = posixpath.dirname(data_dir) or "."
    for _ in range(_ABOVE if paths and not files.is_remote(data_dir) else 0):
        if files.exists(files.join(folder, paths[0])):
            return folder
        folder = posixpath.dirname(files.absolute(folder))
    return own
