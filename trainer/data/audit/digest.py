"""The part of ``audit.json`` that reports of models tell, and whether it is about the same files.

Owns: finding and reading an audit, comparing what it saw.  Does not own: the audit (``command.py``), what findings
mean (``verdicts.py``).  Imports no TensorFlow.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.storage import files

log = logging.getLogger(__name__)

AUDIT_FILE, SCHEMA = "audit.json", 1

Listings = Mapping[str, Mapping[str, Any]]


def listings(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return by split how many ``files`` there are, and the ``sha256`` over their sorted names.

    Equal ones mean files of the same names and classes, whatever they hold and in whatever order.

    Args:
        names: relative to data_dir, such as ``Train/Fake/a.jpg``; a split is what they begin with.
    """
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(name.split("/", 1)[0], []).append(name)
    return {
        split: {
            "files": len(members),
            "sha256": hashlib.sha256(
                b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in sorted(members))
            ).hexdigest(),
        }
        for split, members in sorted(by_split.items())
    }


def find(given: str, folders: Sequence[str]) -> dict[str, Any] | None:
    """Return the digest of the audit that is given, else of the first folder that holds one; None if none does.

    Args:
        given: ``audit.json``, or a folder that holds it; empty: look into the folders.
        folders: local or gs://.

    Raises:
        RequestError: if what is given is no audit.  A file that was not asked for is only warned of.
    """
    if given:
        files.require_form(given, "audit")
        return read(given if given.endswith(".json") else files.join(given, AUDIT_FILE))
    for path in (files.join(folder, AUDIT_FILE) for folder in folders):
        if files.exists(path):
            try:
                return read(path)
            except RequestError as error:
                log.warning("%s is left out: %s", path, error)
    return None


def read(path: str) -> dict[str, Any]:
    """Return what reports tell of ``audit.json``: plain types, ready for JSON.

    Raises:
        RequestError: if it cannot be read, or is no audit of this form.
    """
    try:
        audit = json.loads(files.read_text(path), parse_constant=_no_number)
        if audit["schema"] != SCHEMA:
            raise ValueError(f"schema {audit['schema']!r}")
        return {"path": path, **_digest(audit)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"--audit: expected audit.json (schema {SCHEMA}) as scripts/prepare_data.py audit writes it, received "
            f"{path!r}, which is none ({type(error).__name__}: {error}); name another file, or audit the data again"
        ) from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _digest(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Take what is told; every value is converted, so that a file of another form is noticed here."""
    exact, near = audit["exact"], audit["near"]
    return {
        "data_dir": str(audit["settings"]["data_dir"]),
        "created": str(audit["settings"]["created"]),
        "listings": {
            split: {"files": int(listing["files"]), "sha256": str(listing["sha256"])}
            for split, listing in audit["listings"].items()
        },
        "counts": {
            split: {name: {kind: int(count[kind]) for kind in ("images", "bad")} for name, count in classes.items()}
            for split, classes in audit["counts"].items()
        },
        "equal": {"pictures": int(exact["groups"]), "files": int(exact["images"])},
        "label_conflicts": int(exact["across_classes"]),
        "similar": {"in_a_class": int(near["inside"]), "across_classes": int(near["across_classes"])},
        "all_compared": bool(near["complete"]),
        "leakage": {
            split: {other: {kind: int(count[kind]) for kind in ("exact", "near")} for other, count in others.items()}
            for split, others in audit["leakage"].items()
        },
        "cues": [_cue(cue) for cue in audit["cues"] if cue["flagged"]],
    }


def _cue(cue: Mapping[str, Any]) -> dict[str, Any]:
    aucs = {str(split): float(value) for split, value in cue["auc"].items() if value is not None}
    return {
        "title": str(cue["title"]),
        "level": str(cue["level"]),
        "auc": {name: aucs[name] for name in cue["flagged"]},
    }


def differences(audited: Listings, evaluated: Listings, trained: Listings | None) -> list[str]:
    """Return why an audit is not of the data that its findings are held against; empty if it is.

    Args:
        audited: of the audit.
        evaluated: of the images that a model was measured on.
        trained: of those that it was trained on; None if that is not known.
    """
    said = [_difference(audited, split, listing, "evaluated") for split, listing in evaluated.items()]
    if trained is None:
        said.append(
            "The export does not record which files it was trained on, so leakage may be about other ones than the "
            "model has seen."
        )
    said += [_difference(audited, split, listing, "trained on") for split, listing in (trained or {}).items()]
    return [sentence for sentence in said if sentence]


def _difference(audited: Listings, split: str, listing: Mapping[str, Any], what: str) -> str:
    seen = audited.get(split, {"files": 0, "sha256": ""})
    if seen["sha256"] == listing["sha256"]:
        return ""
    names = " of other names" if seen["files"] == listing["files"] else ""
    return (
        f"The audit is of other data: in {split} it saw {seen['files']:,} files, the model was {what} "
        f"{listing['files']:,}{names}. What it says of {split} may not hold here."
    )
