"""FaceForensics++ (Roessler et al. 2019): the tree that its download script makes, with the frames of videos as images.

``original_sequences/youtube/c23/<any>/000/*.png`` and ``manipulated_sequences/<method>/c23/<any>/000_003/*.png``; the
published splits are lists of pairs of identities, ``train.json``, ``val.json`` and ``test.json``, in the folder or in
``splits/`` (https://github.com/ondyari/FaceForensics/tree/master/dataset/splits).
"""

import re
from collections.abc import Sequence

from trainer.core.config import LayoutConfig
from trainer.core.placement import TEST, TRAIN, VALIDATION
from trainer.data.layouts import identities, published, tree
from trainer.data.layouts.images import Images
from trainer.data.layouts.words import FAKE, REAL

HELP = "a folder of FaceForensics++ with original_sequences and manipulated_sequences, frames as images."
ORDER = 4

ORIGINAL, MANIPULATED = "original_sequences", "manipulated_sequences"
RULE = "identities in the names of FaceForensics++"
_FILES = {TRAIN: "train.json", VALIDATION: "val.json", TEST: "test.json"}
_VIDEO = re.compile(r"(\d{3})(?:_(\d{3}))?")
_MASKS = ("masks", "mask")


def recognises(data_dir: str, names: Sequence[str]) -> bool:
    """Return whether the folders of data_dir are those of the set."""
    return MANIPULATED in names or ORIGINAL in names


def people(video: str) -> tuple[str, ...]:
    """Return the identities in the name of a video, such as 000 and 003 of 000_003; empty: it is none of the set."""
    match = _VIDEO.fullmatch(video)
    return tuple(filter(None, match.groups())) if match else ()


def read(data_dir: str, settings: LayoutConfig) -> Images:
    """Return the images.  Those of actors, of which no split was published, are not used.

    Raises:
        RequestError: if a published list has another form.
    """
    split_of, note = _published(data_dir)
    videos = {part for name in tree.walk(data_dir)[0] for part in name.split("/")[-2:-1] if people(part)}
    groups = identities.groups(people(video) for video in videos)

    def describe(parts: list[str]) -> dict[str, str] | None:
        if len(parts) < 4 or parts[0] not in (ORIGINAL, MANIPULATED) or any(part in _MASKS for part in parts):
            return None
        who = people(parts[-2])
        if not who or parts[1] == "actors":
            return None
        label = "original" if parts[0] == ORIGINAL else parts[1]
        facts = {"label": label, "source": groups[who[0]], "video": "/".join(parts[:3]) + f"/{parts[-2]}"}
        facts["method"] = "" if label == "original" else label
        if split_of:
            splits = {split_of.get(one, "") for one in who}
            facts["split"] = splits.pop() if len(splits) == 1 else ""
        return facts

    return published.read_tree(
        data_dir, settings, describe, lambda label: REAL if label == "original" else FAKE, RULE, (note,)
    )


def _published(data_dir: str) -> tuple[dict[str, str], str]:
    """Return the split of each identity, and a note; empty without the published lists."""
    paths = {split: published.find(data_dir, name, f"splits/{name}") for split, name in _FILES.items()}
    lacking = [name for split, name in _FILES.items() if not paths[split]]
    if lacking:
        return {}, f"no published splits: {', '.join(lacking)} not found, so splits are drawn by identity"
    what = 'a published list of pairs of identities, [["071", "054"], ...]'
    lists = {split: published.read_json(path, what) for split, path in paths.items()}
    for split, pairs in lists.items():
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise published.refused(paths[split], what)
    return identities.splits_of(lists), "splits as published (train.json, val.json, test.json)"
