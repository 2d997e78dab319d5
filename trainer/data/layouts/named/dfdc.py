"""The Deepfake Detection Challenge (Dolhansky et al. 2020): parts with a ``metadata.json`` each, frames as images.

``{"aagfhgtpmv.mp4": {"label": "FAKE", "split": "train", "original": "vudstovrck.mp4"}, ...}``; the frames of a video
are in a folder of its name, with or without the ending, below the folder of ``metadata.json``.
"""

import posixpath
from collections.abc import Sequence
from typing import Any

from trainer.core.config import LayoutConfig
from trainer.core.storage import files
from trainer.data.layouts import published, tree, words
from trainer.data.layouts.images import Images
from trainer.data.layouts.words import FAKE, REAL

HELP = "a folder of the DFDC with metadata.json, or of its parts, frames as images."
ORDER = 6

RULE = "originals in metadata.json"
_METADATA = "metadata.json"
_WHAT = 'metadata.json of the DFDC, {"video.mp4": {"label": "FAKE", "original": "other.mp4"}, ...}'


def recognises(data_dir: str, names: Sequence[str]) -> bool:
    """Return whether data_dir, or the first folder in it, holds a metadata.json."""
    return bool(published.find(data_dir, _METADATA, *(f"{name}/{_METADATA}" for name in names[:1])))


def read(data_dir: str, settings: LayoutConfig) -> Images:
    """Return the images of the videos that a metadata.json names.

    Raises:
        RequestError: if one has another form.
    """
    parts = ["", *tree.folders(data_dir)]
    known = {part: _videos(path) for part in parts if files.exists(path := files.join(data_dir, *filter(None, [part]),
                                                                                     _METADATA))}  # fmt: skip
    has_splits = any("split" in facts for videos in known.values() for facts in videos.values())

    def describe(names: list[str]) -> dict[str, str] | None:
        videos = known.get(names[0]) or known.get("")
        if videos is None:
            return None
        video = next((stem for name in reversed(names[:-1]) if (stem := posixpath.splitext(name)[0]) in videos), "")
        if not video:
            return None
        facts = videos[video]
        original = posixpath.splitext(str(facts.get("original") or ""))[0]
        row = {"label": str(facts["label"]), "source": original or video, "video": video}
        return {**row, "split": words.split_of(str(facts.get("split", "")))} if has_splits else row

    return published.read_tree(
        data_dir, settings, describe, lambda label: FAKE if label.upper() == "FAKE" else REAL, RULE
    )


def _videos(path: str) -> dict[str, dict[str, Any]]:
    content = published.read_json(path, _WHAT)
    if not isinstance(content, dict) or not all(
        isinstance(facts, dict) and str(facts.get("label")).upper() in ("REAL", "FAKE") for facts in content.values()
    ):
        raise published.refused(path, _WHAT)
    return {posixpath.splitext(name)[0]: facts for name, facts in content.items()}
