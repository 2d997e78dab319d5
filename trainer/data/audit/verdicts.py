"""What the findings of an audit mean for the figures of a model, in words for reports and model cards.

Does not own: the findings (``digest.py``), the audit's own page (``page.py``), layout (``templates/``).
"""

from collections.abc import Mapping, Sequence
from typing import Any


def lines(found: Mapping[str, Any], split: str = "", auc: float | None = None) -> list[dict[str, str]]:
    """Return the findings in words, each with a ``kind`` (bad, do, good) and a ``text``; doubts about them first.

    Args:
        found: of ``find``, with ``differences``.
        split: that a model was measured on; empty: none.
        auc: what the model reached there.
    """
    said = [("bad", text) for text in found["differences"]]
    said += [_broken(found), *_leaks(found), *_copies(found), *_cues(found, split, auc)]
    if not found["all_compared"]:
        said.append(("do", "So many images look alike that not all pairs were compared; there are more."))
    return [{"kind": kind, "text": text} for kind, text in said]


def about(found: Mapping[str, Any]) -> str:
    """Return what was audited, when, and how many files of which split."""
    splits = (
        f"{split} {sum(count['images'] for count in classes.values()):,}" for split, classes in found["counts"].items()
    )
    return f"Audit of {found['data_dir']} on {found['created'][:10]}, files by split: {', '.join(splits)}."


def page(found: Mapping[str, Any]) -> str:
    """Return where the audit's own page is, if it still lies beside ``audit.json``."""
    return str(found["path"]).removesuffix(".json") + ".html"


def _broken(found: Mapping[str, Any]) -> tuple[str, str]:
    counts = {split: sum(count["bad"] for count in classes.values()) for split, classes in found["counts"].items()}
    if not any(counts.values()):
        return "good", "Every file could be decoded to its end."
    named = ", ".join(f"{count:,} in {split}" for split, count in counts.items() if count)
    return "do", f"Files that cannot be decoded: {named}. Nothing is learned from them, and no figure counts them."


def _leaks(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = []
    for split, others in found["leakage"].items():
        for other, count in others.items():
            if count["exact"] or count["near"]:
                said.append(
                    f"{count['exact']:,} images of {split} are in {other} too, and {count['near']:,} more look like "
                    f"one there. A model that learned from {split} knows them, so its figures on {other} are too good."
                )
    clean = "No image is in two splits, equal or similar, as far as such a comparison tells."
    return [("bad", text) for text in said] or ([("good", clean)] if found["leakage"] else [])


def _copies(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = []
    if found["label_conflicts"]:
        text = f"{found['label_conflicts']:,} pictures are in more than one class, byte for byte. One of the labels is "
        said.append(("bad", f"{text}wrong, and no model can call both right."))
    else:
        said.append(("good", "No picture is in more than one class, byte for byte."))
    equal, similar = found["equal"], found["similar"]
    if equal["pictures"] or similar["in_a_class"]:
        text = f"{equal['pictures']:,} pictures have equal copies ({equal['files']:,} files), and "
        text += f"{similar['in_a_class']:,} pairs inside a class look alike. Each counts as often as it is there."
        said.append(("do", text))
    if similar["across_classes"]:
        text = f"{similar['across_classes']:,} pairs of different classes look alike: usually a picture and its "
        said.append(("do", f"{text}forgery, which is fine as long as both are in the same split."))
    return said


def _cues(found: Mapping[str, Any], split: str, auc: float | None) -> list[tuple[str, str]]:
    said = []
    for level, text in (("file", "Without a look at the picture"), ("picture", "At a glance")):
        telling = [cue for cue in found["cues"] if cue["level"] == level]
        if not telling:
            continue
        named = ", ".join(f"{cue['title']} (AUC {_highest(cue)})" for cue in telling)
        text += f", the class is given away by: {named}. A model may have learned this instead of the forgery, and "
        said.append(("bad", f"{text}then fails where it is missing.{_beside(telling, split, auc)}"))
    return said or [("good", "No plain property of the files gives the class away.")]


def _highest(cue: Mapping[str, Any]) -> str:
    split, value = max(cue["auc"].items(), key=lambda pair: pair[1])
    return f"{value:.2f} in {split}"


def _beside(telling: Sequence[Mapping[str, Any]], split: str, auc: float | None) -> str:
    """Return the strongest cue of a split beside the model; empty without one."""
    here = [(cue["auc"][split], cue["title"]) for cue in telling if split in cue["auc"]]
    if not here or auc is None:
        return ""
    value, title = max(here)
    return f" On {split} the AUC of {title} alone is {value:.3f}, the model's {auc:.3f}."
