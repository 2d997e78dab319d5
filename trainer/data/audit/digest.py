"""The part of ``audit.json`` that reports about models show, and whether it describes the same files.

Owns: finding and reading an audit, comparing its files with others.  Does not own: the audit itself (``summary.py``),
what findings mean (``verdicts.py``).  Imports no TensorFlow.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.layouts.split import Split

log = logging.getLogger(__name__)

AUDIT_FILE, SCHEMA = "audit.json", 1

Listings = Mapping[str, Mapping[str, Any]]


def listings(splits: Iterable[Split]) -> dict[str, dict[str, Any]]:
    """Return for each split of data_dir the number of ``files`` and the ``sha256`` over their sorted names.

    Equal hashes mean files of the same names and classes, whatever their content and order.
    """
    by_split: dict[str, list[str]] = {}
    for split in splits:
        by_split.setdefault(split.part, []).extend(split.names)
    return {
        split: {
            "files": len(members),
            "sha256": hashlib.sha256(
                b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in sorted(members))
            ).hexdigest(),
        }
        for split, members in sorted(by_split.items())
    }


def find(path: str, folders: Sequence[str]) -> dict[str, Any] | None:
    """Return the digest of the audit at ``path``, else of the first folder that holds one; None if none does.

    Args:
        path: of ``audit.json``, or of a folder that holds it; empty: search the folders.
        folders: to search, local or remote.

    Raises:
        RequestError: if ``path`` is not an audit.  A damaged file in the folders only causes a warning.
    """
    if path:
        files.require_form(path, "audit")
        return read(path if path.endswith(".json") else files.join(path, AUDIT_FILE))
    for candidate in (files.join(folder, AUDIT_FILE) for folder in folders):
        if files.exists(candidate):
            try:
                return read(candidate)
            except RequestError as error:
                log.warning("%s is left out: %s", candidate, error)
    return None


def read(path: str) -> dict[str, Any]:
    """Return what reports show of ``audit.json``: plain types, ready for JSON.

    Raises:
        RequestError: if it cannot be read, or is not an audit of this schema.
    """
    try:
        audit = json.loads(files.read_text(path), parse_constant=_refuse_constant)
        if audit["schema"] != SCHEMA:
            raise ValueError(f"schema {audit['schema']!r}")
        return {"path": path, **_digest(audit)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"--audit: expected audit.json (schema {SCHEMA}) as scripts/prepare_data.py audit writes it, received "
            f"{path!r}, which is none ({type(error).__name__}: {error}); name another file, or audit the data again"
        ) from error


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def _digest(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Extract what reports show; every value is converted, so that a file of another schema fails here."""
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
    """Return how an audit's data differ from those of a model; empty if they are the same.

    Args:
        audited: files of the audit.
        evaluated: files that the model was measured on.
        trained: files that it was trained on; None if unknown.
    """
    sentences = [_difference(audited, split, listing, "evaluated") for split, listing in evaluated.items()]
    if trained is None:
        sentences.append(
            "The export does not record which files it was trained on, so leakage may be about other ones than the "
            "model has seen."
        )
    sentences += [_difference(audited, split, listing, "trained on") for split, listing in (trained or {}).items()]
    return [sentence for sentence in sentences if sentence]


def _difference(audited: Listings, split: str, listing: Mapping[str, Any], what: str) -> str:
    own = audited.get(split, {"files": 0, "sha256": ""})
    if own["sha256"] == listing["sha256"]:
        return ""
    names = " of other names" if own["files"] == listing["files"] else ""
    return (
        f"The audit is of other data: in {split} it saw {own['files']:,} files, the model was {what} "
        f"{listing['files']:,}{names}. What it says of {split} may not hold here."
    )
