"""Which videos and images faces are cut out of, and where the crops of each go.

Does not own: what is in them (``extract.py``).
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from trainer.core import globs
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.faces import video_file
from trainer.data.formats import image_format
from trainer.data.layouts import rows as table_rows
from trainer.data.layouts import table_files, words

_GUESSES = {
    "path": (*table_rows.GUESSES["path"], *table_rows.GUESSES["video"]), "label": table_rows.GUESSES["label"],
    "split": table_rows.GUESSES["split"],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Input:
    """A video or an image.

    Attributes:
        path: where it lies.
        name: relative to the folder or list that named it, such as ``Train/Fake/a.mp4``.
        target: of its crops, relative to the output: a video's folder, an image's file without its ending.
        split: such as Train; empty if none is known.
        label: its class; empty if none is known.
    """

    path: str
    name: str
    target: str
    split: str
    label: str

    @property
    def is_video(self) -> bool:
        """Whether it is taken for a video, by its name."""
        return self.name.lower().endswith(video_file.ENDINGS)


def find(videos: str) -> list[Input]:
    """Return the inputs of a folder or a list, in a fixed order.

    Raises:
        RequestError: if there are none, or the list cannot be read.
    """
    return _of_list(videos) if table_files.is_list(videos) else _of_folder(videos)


def _of_folder(folder: str) -> list[Input]:
    if not files.is_dir(folder):
        raise RequestError(f"--videos: expected a folder or a list file, received {folder!r}; check the spelling")
    takes = globs.with_endings((*video_file.ENDINGS, *image_format.ENDINGS))
    paths = globs.expand([folder], (), takes, kinds="videos or images")
    names = [path[len(folder) :].lstrip("/") for path in paths]
    rows = [(path, name, name.split("/")[:-1], *_place(name)) for path, name in zip(paths, names, strict=True)]
    return _with_targets(rows)


def _place(name: str) -> tuple[str, str]:
    """Return split and class of a path such as ``Train/Fake/a.mp4`` or ``Fake/a.mp4``."""
    folders = name.split("/")[:-1]
    has_split = bool(folders) and bool(words.split_of(folders[0]))
    split, rest = (folders[0], folders[1:]) if has_split else ("", folders)
    return split, rest[0] if rest else ""


def _of_list(path: str) -> list[Input]:
    heads: dict[str, str] = {}

    def choose(names: Sequence[str]) -> Sequence[str]:
        heads.update(_heads(path, names))
        return list(heads.values())

    columns = table_files.read(path, choose, "videos")
    names = columns[heads["path"]]
    labels, splits = (columns[heads[kind]] if kind in heads else [""] * len(names) for kind in ("label", "split"))
    truth = table_rows.truth_of(heads.get("label", ""), labels)
    base = path.rpartition("/")[0]
    rows = []
    for name, given, split in zip(names, labels, splits, strict=True):
        label = truth.get(given, given)
        if name:
            full = name if name.startswith("/") or files.is_remote(name) or not base else files.join(base, name)
            rows.append((full, name, [part for part in (split, label) if part], split, label))
    if not rows:
        raise RequestError(f"--videos: expected videos in {path!r}, received none; add a line for each")
    return _with_targets(rows)


def _heads(path: str, names: Sequence[str]) -> dict[str, str]:
    """Return the first column of each meaning that has one of the usual names.

    Raises:
        RequestError: if none is a path.
    """
    alike = {name.lower(): name for name in reversed(names)}
    guesses = {kind: next((alike[one] for one in ones if one in alike), "") for kind, ones in _GUESSES.items()}
    if not guesses["path"]:
        raise RequestError(f"--videos: expected {path!r} to have a column path, received {', '.join(names)}; name it")
    return {kind: name for kind, name in guesses.items() if name}


def _with_targets(rows: Sequence[tuple[str, str, list[str], str, str]]) -> list[Input]:
    """Give each input a target of its own: by its name, and its ending and a number where two would be equal."""
    stems = [[*folders, name.rpartition("/")[2].rpartition(".")[0]] for _, name, folders, _, _ in rows]
    count = Counter("/".join(stem) for stem in stems)
    taken: Counter[str] = Counter()
    inputs = []
    for (path, name, folders, split, label), stem in zip(rows, stems, strict=True):
        target = "/".join(stem)
        if count[target] > 1:
            target = "/".join([*folders, name.rpartition("/")[2]])
        taken[target] += 1
        if taken[target] > 1:
            target = f"{target}-{taken[target]}"
        inputs.append(Input(path, name, target, split, label))
    return inputs
