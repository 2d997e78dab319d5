"""Celeb-DF v1 and v2 (Li et al. 2020): folders Celeb-real, YouTube-real and Celeb-synthesis, frames as images.

``List_of_testing_videos.txt`` names the videos of Test, one a line as ``1 YouTube-real/00170.mp4``, where 1 says real.
The names are ``id0_0000`` of identity 0, and ``id0_id1_0000`` of a video of identity 0 with the face of identity 1.
"""

import posixpath
import re
from collections.abc import Sequence

from trainer.core.config import LayoutConfig
from trainer.core.placement import TEST, TRAIN
from trainer.core.storage import files
from trainer.data.layouts import published
from trainer.data.layouts.images import Images
from trainer.data.layouts.words import FAKE, REAL

HELP = "a folder of Celeb-DF with Celeb-real and Celeb-synthesis, frames as images."
ORDER = 5

RULE = "identity of the video in the names of Celeb-DF"
_FOLDERS = {"celeb-real": REAL, "youtube-real": REAL, "celeb-synthesis": FAKE}
_LIST = "List_of_testing_videos.txt"
_IDENTITY = re.compile(r"id\d+(?=_)")
_LINE = re.compile(r"[01]\s+(\S+)")


def recognises(data_dir: str, names: Sequence[str]) -> bool:
    """Return whether the folders of data_dir are those of the set."""
    return "celeb-synthesis" in [name.lower() for name in names]


def read(data_dir: str, settings: LayoutConfig) -> Images:
    """Return the images.

    Raises:
        RequestError: if the published list has another form.
    """
    tested, note = _published(data_dir)

    def describe(parts: list[str]) -> dict[str, str] | None:
        if len(parts) < 3 or parts[0].lower() not in _FOLDERS or "masks" in parts:
            return None
        video = f"{parts[0]}/{posixpath.splitext(parts[-2])[0]}"
        match = _IDENTITY.match(parts[-2])
        facts = {"label": parts[0], "source": match[0] if match else video, "video": video}
        return {**facts, "split": TEST if video in tested else TRAIN} if tested else facts

    return published.read_tree(data_dir, settings, describe, lambda label: _FOLDERS[label.lower()], RULE, (note,))


def _published(data_dir: str) -> tuple[set[str], str]:
    path = published.find(data_dir, _LIST)
    if not path:
        return set(), f"no published split: {_LIST} not found, so splits are drawn by identity"
    lines = [line for line in files.read_text(path).splitlines() if line.strip()]
    matches = [_LINE.fullmatch(line.strip()) for line in lines]
    if not lines or not all(matches):
        raise published.refused(path, "lines such as 1 YouTube-real/00170.mp4")
    return {posixpath.splitext(match[1])[0] for match in matches if match}, f"Test as published ({_LIST})"
