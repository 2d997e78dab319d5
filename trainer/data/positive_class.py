"""Which class's probability is ``p_fake``: by ``--positive_class``, else by the names of the classes.

One rule for training, sweeps and exports; an export carries its answer.  Imports no TensorFlow.
"""

import re
from collections.abc import Sequence

from trainer.core.errors import RequestError

# A class with one of these words is the one of forgeries; a word of two letters must stand alone.
_ANYWHERE = re.compile(r"fake|synthetic|forged|spoof|manipulated|generated")
_ALONE = frozenset({"ai"})
_NEGATED = re.compile(r"(?:non|not|no|un|anti)[^a-z0-9]*$")  # Before such a word, as in "non-fake" or "unmanipulated".
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # "AIFaces" and "ai_faces" have the part "ai", "paint" has not.


def says_fake(class_name: str) -> bool:
    """Return whether a class's name says that its images are forgeries."""
    text = class_name.lower()
    if any(not _NEGATED.search(text[: match.start()]) for match in _ANYWHERE.finditer(text)):
        return True
    parts = [part.lower() for part in _PARTS.findall(class_name)]
    return any(part in _ALONE and parts[number - 1 : number] not in (["non"], ["not"], ["no"])
               for number, part in enumerate(parts))  # fmt: skip


def positive_class_index(class_names: Sequence[str], positive_class: str) -> int:
    """Return the label whose probability is ``p_fake``: of the given class, else of the one whose name says so.

    Raises:
        RequestError: if the given class does not exist, or none is given and not exactly one name says it.
    """
    if positive_class:
        if positive_class not in class_names:
            raise RequestError(
                f"--positive_class: expected one of {', '.join(class_names)}; received {positive_class!r}"
            )
        return list(class_names).index(positive_class)
    matches = [name for name in class_names if says_fake(name)]
    if len(matches) != 1:
        received = f"{len(matches)} ({', '.join(matches)})" if matches else "none"
        raise RequestError(
            f"--positive_class: expected the class whose probability p_fake is, as {received} of the classes "
            f"{', '.join(class_names)} has a name such as Fake, synthetic or ai; name it"
        )
    return list(class_names).index(matches[0])


def settle(class_names: Sequence[str], positive_class: str, before: str | None) -> str:
    """Return the setting ``positive_class`` for a job, new or begun earlier, such that its meaning never changes.

    Older versions took Fake, else the first class.  ``config.json`` holds "" only where they take the same class, so a
    job that goes on keeps its class, whichever version began it.

    Args:
        class_names: of Train.
        positive_class: the setting now; empty: not given.
        before: the setting in the job's ``config.json``; None for a new job.

    Raises:
        RequestError: as ``positive_class_index``, or if the job began with another class.
    """
    older = "Fake" if "Fake" in class_names else class_names[0]
    if before is None:
        name = class_names[positive_class_index(class_names, positive_class)]
        return "" if not positive_class and name == older else name
    name = class_names[positive_class_index(class_names, before or older)]
    if positive_class and class_names[positive_class_index(class_names, positive_class)] != name:
        raise RequestError(
            f"--positive_class: expected {name}, with which the job began, received {positive_class!r}; use another "
            "--job_dir, or --resume=never to start over"
        )
    is_implied = not before and [one for one in class_names if says_fake(one)] == [name]
    return positive_class or ("" if is_implied else name)
