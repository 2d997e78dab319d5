"""WebDataset shards on a local disk: tar files in which the files of one sample share the beginning of their names.

``000123.jpg`` with ``000123.cls`` (its label) or ``000123.json`` (an object with what is known of it).  Members are at
fixed offsets, so any image can be read at any time.
"""

import functools
import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence

from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.core.storage import files, tar_members, transient
from trainer.data.layouts import rows, table_files, tree, words
from trainer.data.layouts.images import Images

HELP = "a local folder of WebDataset shards, .tar files of images with .cls or .json files or in folders of classes."
ORDER = 8

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "heic", "avif", "ppm", "pgm", "jp2")
_CLASS, _FACTS = "cls", "json"


def recognises(data_dir: str, names: Sequence[str]) -> bool:
    """Return whether there are tar files in a local folder, or in its folders of splits, and no other folders.

    Beside another folder a tar file is most likely the archive that the folder came in.
    """
    return all(map(words.split_of, names)) and bool(_shards(data_dir, names))


def read(data_dir: str, settings: LayoutConfig) -> Images:
    """Return the images of all shards.

    Raises:
        RequestError: if a shard is damaged, or a label is not understood.
    """
    shards = _shards(data_dir, tree.folders(data_dir))
    columns: dict[str, list[str]] = {"path": [], "split": []}
    notes = [f"{len(shards):,} shards"]
    names: dict[str, str] = {}  # Of what is known of an image, by meaning.
    for shard in shards:
        path = files.join(data_dir, shard)
        split = next(filter(None, map(words.split_of, re.split(r"[^a-z]+", shard.lower()))), "")
        for member, facts in transient.retry(path, functools.partial(_images, path)):
            if not names:
                names = rows.meanings(settings.columns, ["path", *facts])
                notes += rows.notes_on(names, [*facts])
                columns |= {meaning: [] for meaning in names}
            for meaning, name in names.items():
                columns[meaning].append(f"{shard}/{member}" if meaning == "path" else facts.get(name, ""))
            if "split" not in names:
                columns["split"].append(split)
    table = rows.Rows(data_dir, f"shards in {data_dir!r}", columns, names.get("label", ""), tuple(notes))
    return rows.to_images(table, words.labels_of(settings.labels))


def _shards(data_dir: str, folders: Sequence[str]) -> list[str]:
    """Return the shards in a local folder and in those of splits in it, relative to it, sorted."""
    if files.is_remote(data_dir):
        return []
    listed = [posixpath.join(folder, name) for folder in ("", *folders)
              for name in files.list_names(posixpath.join(data_dir, folder))]  # fmt: skip
    shards = (name for name in listed if name.endswith(tar_members.ENDING))
    return sorted(name for name in shards if os.path.isfile(posixpath.join(data_dir, name)))


def _images(path: str) -> list[tuple[str, dict[str, str]]]:
    """Return the images of a shard, and what is known of each as text; its class's folder if nothing else is."""
    samples: dict[str, dict[str, str]] = {}
    for name in tar_members.names(path):
        folder, base = posixpath.split(name)
        key, _, ending = base.partition(".")
        if key:  # Else hidden.
            samples.setdefault(posixpath.join(folder, key), {})[ending.lower()] = name
    found: list[tuple[str, dict[str, str]]] = []
    for members in samples.values():
        endings = sorted((one for one in members if one.rpartition(".")[2] in _IMAGES), key=lambda one: one.count("."))
        if _CLASS in members or _FACTS in members:
            found += [(members[one], _facts(members, path)) for one in endings[:1]]
        else:
            found += [(members[one], {"label": members[one].split("/")[-2]}) for one in endings if "/" in members[one]]
    return found


def _facts(members: Mapping[str, str], path: str) -> dict[str, str]:
    facts: dict[str, str] = {}
    try:
        if _FACTS in members:
            content = json.loads(tar_members.read(path, members[_FACTS]))
            facts = {name: table_files.as_text(value) for name, value in content.items() if name != "path"}
        if _CLASS in members:
            facts["label"] = tar_members.read(path, members[_CLASS]).decode().strip()
    except (ValueError, AttributeError) as error:
        raise RequestError(
            f"--data_dir: expected JSON objects in .json and text in .cls files of {path!r}, received {error}"
        ) from error
    return facts
