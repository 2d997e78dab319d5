"""What the findings of an audit mean for the figures of a model: sentences for reports and model cards.

Does not own: the findings (``digest.py``), the audit's own page (``trainer/reports/audit.py``), layout.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def lines(audit: Mapping[str, Any], split: str = "", auc: float | None = None) -> list[dict[str, str]]:
    """Return the findings as sentences, each with a ``kind`` (bad, do, note, good) and a ``text``; doubts come first.

    Args:
        audit: of ``find``, with ``differences``.
        split: that a model was measured on; empty: none.
        auc: of the model on that split.
    """
    verdicts = [("bad", text) for text in audit["differences"]]
    verdicts += [_broken(audit), *_leaks(audit), *_copies(audit), *_cues(audit, split, auc)]
    if not audit["all_compared"]:
        verdicts.append(("note", "So many images look alike that not all pairs were compared; there are more."))
    return [{"kind": kind, "text": text} for kind, text in verdicts]


def about(audit: Mapping[str, Any]) -> str:
    """Return what was audited and when, with the number of files of each split."""
    splits = (
        f"{split} {sum(count['images'] for count in classes.values()):,}" for split, classes in audit["counts"].items()
    )
    return f"Audit of {audit['data_dir']} on {audit['created'][:10]}, files by split: {', '.join(splits)}."


def page(audit: Mapping[str, Any]) -> str:
    """Return the path of the audit's own page, if it still lies next to ``audit.json``."""
    return str(audit["path"]).removesuffix(".json") + ".html"


def _broken(audit: Mapping[str, Any]) -> tuple[str, str]:
    counts = {split: sum(count["bad"] for count in classes.values()) for split, classes in audit["counts"].items()}
    if not any(counts.values()):
        return "good", "Every file could be decoded to its end."
    named = ", ".join(f"{count:,} in {split}" for split, count in counts.items() if count)
    return "note", f"Files that cannot be decoded: {named}. Nothing is learned from them, and no figure counts them."


def _leaks(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    verdicts = []
    for split, others in audit["leakage"].items():
        for other, count in others.items():
            if count["exact"] or count["near"]:
                verdicts.append(
                    f"{count['exact']:,} images of {split} are in {other} too, and {count['near']:,} more look like "
                    f"one there. A model that learned from {split} knows them, so its figures on {other} are too good."
                )
    clean = "No image is in two splits, equal or similar, as far as such a comparison tells."
    return [("bad", text) for text in verdicts] or ([("good", clean)] if audit["leakage"] else [])


def _copies(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    verdicts = []
    if audit["label_conflicts"]:
        text = f"{audit['label_conflicts']:,} pictures are in more than one class, byte for byte. One of the labels is "
        verdicts.append(("bad", f"{text}wrong, and no model can call both right."))
    else:
        verdicts.append(("good", "No picture is in more than one class, byte for byte."))
    equal, similar = audit["equal"], audit["similar"]
    if equal["pictures"] or similar["in_a_class"]:
        text = f"{equal['pictures']:,} pictures have equal copies ({equal['files']:,} files), and "
        text += f"{similar['in_a_class']:,} pairs inside a class look alike. Each counts as often as it is there."
        verdicts.append(("note", text))
    if similar["across_classes"]:
        text = f"{similar['across_classes']:,} pairs of different classes look alike: usually a picture and its "
        verdicts.append(("note", f"{text}forgery, which is fine as long as both are in the same split."))
    return verdicts


def _cues(audit: Mapping[str, Any], split: str, auc: float | None) -> list[tuple[str, str]]:
    verdicts = []
    for level, text in (("file", "Without a look at the picture"), ("picture", "At a glance")):
        telling = [cue for cue in audit["cues"] if cue["level"] == level]
        if not telling:
            continue
        named = ", ".join(f"{cue['title']} (AUC {_highest(cue)})" for cue in telling)
        text += f", the class is given away by: {named}. A model may have learned this instead of the forgery, and "
        verdicts.append(("bad", f"{text}then fails where it is missing.{_comparison(telling, split, auc)}"))
    return verdicts or [("good", "No plain property of the files gives the class away.")]


def _highest(cue: Mapping[str, Any]) -> str:
    split, value = max(cue["auc"].items(), key=lambda pair: pair[1])
    return f"{value:.2f} in {split}"


def _comparison(telling: Sequence[Mapping[str, Any]], split: str, auc: float | None) -> str:
    """Return a sentence that compares the strongest cue of a split with the model; empty without one."""
    here = [(cue["auc"][split], cue["title"]) for cue in telling if split in cue["auc"]]
    if not here or auc is None:
        return ""
    value, title = max(here)
    return f" On {split} the AUC of {title} alone is {value:.3f}, the model's {auc:.3f}."
