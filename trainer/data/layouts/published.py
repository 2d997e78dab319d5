"""What the layouts of published sets share: images by video folder, and JSON files.  Imports no TensorFlow."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.layouts import rows, tree, words
from trainer.data.layouts.images import Images

Facts = Mapping[str, str]
Describe = Callable[[list[str]], Facts | None]  # Of the parts of an image's path; None: not an image of the set.


def read_tree(
    data_dir: str, settings: LayoutConfig, describe: Describe, classes: Callable[[str], str], rule: str,
    notes: tuple[str, ...] = (),
) -> Images:  # fmt: skip
    """Return the images below data_dir of which ``describe`` knows label and more, with a note on the others.

    Args:
        data_dir: local or remote.
        settings: of the command; its ``labels`` select among the labels.
        describe: returns ``label``, and ``split``, ``source``, ``video`` and ``method`` where they are known.
        classes: the class of a label.
        rule: what says which images share a source, in words.
        notes: on the published lists.

    Raises:
        RequestError: if a folder may not be listed.
    """
    names, left_out = tree.walk(data_dir)
    images = list(tree.may_be_images(names))
    columns: dict[str, list[str]] = {"path": []}
    for name in images:
        facts = describe(name.split("/"))
        if facts is not None:
            columns["path"].append(name)
            for key, value in facts.items():
                columns.setdefault(key, []).append(value)
    if others := len(images) - len(columns["path"]):
        notes = (*notes, f"not used: {others:,} files that are no images of the set by their paths")
    columns.setdefault("label", [])
    table = rows.Rows(data_dir, f"folder {data_dir!r}", columns, notes=notes, source_rule=rule, classes=classes)
    result = rows.to_images(table, words.labels_of(settings.labels))
    return rows.with_left_out(result, left_out)


def read_json(path: str, what: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        RequestError: if it is missing or no JSON.
    """
    try:
        return json.loads(files.read_bytes(path))
    except FileNotFoundError as error:
        raise RequestError(f"--data_dir: expected {what}, received {path!r}, which does not exist") from error
    except ValueError as error:
        raise RequestError(f"--data_dir: expected {what}, received {path!r}, which is no JSON ({error})") from error


def refused(path: str, what: str) -> RequestError:
    """Return the error for a file of another form."""
    return RequestError(f"--data_dir: expected {what}, received {path!r} of another form; get it again")


def find(data_dir: str, *names: str) -> str:
    """Return the path of the first of these files that data_dir holds; empty: none."""
    return next((path for name in names if files.exists(path := files.join(data_dir, name))), "")
