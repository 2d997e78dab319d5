"""The usual names of splits and classes, and ``--labels``.  Imports no TensorFlow."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from trainer.core.errors import RequestError
from trainer.core.placement import SPLIT_WORDS
from trainer.data import positive_class

FAKE, REAL = "Fake", "Real"
_FAKE_WORDS = re.compile(r"synthesi[sz]|altered|tampered|forger|swapped|attack")
_REAL_WORDS = re.compile(r"real|original|authentic|genuine|pristine|natur|live|bona.?fide|youtube")
_NOT = re.compile(r"(?:non|not|no|un|sur)[^a-z0-9]*$")


def split_of(name: str) -> str:
    """Return the split that a name means, in any case; empty: none."""
    word = name.strip().lower()
    return next((split for split, words in SPLIT_WORDS.items() if word in words), "")


def kind_of(name: str) -> str:
    """Return Fake or Real if a class's name says which it is; else an empty string."""
    text = name.lower()
    is_real = any(not _NOT.search(text[: match.start()]) for match in _REAL_WORDS.finditer(text))
    is_fake = positive_class.says_fake(name) or bool(_FAKE_WORDS.search(text))
    return "" if is_real == is_fake else (FAKE if is_fake else REAL)


def renamed(names: Iterable[str], class_names: Sequence[str]) -> dict[str, str]:
    """Return which class each folder's name stands for, where another name of it is expected.

    That is the one in another case, else the only class of the same kind, real or fake.  A name without such a class
    stands for itself.
    """
    names = list(names)
    meant = {name: _meant(name, class_names) for name in names}
    taken = [one for one in meant.values() if one]
    return {name: one if one and taken.count(one) == 1 else name for name, one in meant.items()}


def _meant(name: str, class_names: Sequence[str]) -> str:
    if name in class_names:
        return name
    alike = [one for one in class_names if one.lower() == name.lower()]
    alike = alike or [one for one in class_names if kind_of(name) and kind_of(one) == kind_of(name)]
    return alike[0] if len(alike) == 1 else ""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Which class a folder's name or a label stands for: ``--labels``, as it was given."""

    classes: Mapping[str, str]

    def class_of(self, value: str) -> str:
        """Return the class; empty: the value is not one of those."""
        return self.classes.get(value.strip().lower(), "")

    def __bool__(self) -> bool:
        return bool(self.classes)


def labels_of(text: str) -> Labels:
    """Parse ``--labels``, such as ``real:original,fake:Deepfakes|Face2Face``; empty: none.

    Raises:
        RequestError: if it has another form, or names a value twice or one class only.
    """
    classes: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, colon, values = part.partition(":")
        words = [word.strip().lower() for word in values.split("|")]
        if not name.strip() or not colon or not all(words):
            raise _refused(text, f"{part!r}")
        for word in words:
            if word in classes:
                raise _refused(text, f"{word!r} twice")
            classes[word] = _class_name(name.strip())
    if classes and len(set(classes.values())) < 2:
        raise _refused(text, "one class")
    return Labels(classes)


def _class_name(name: str) -> str:
    return {"real": REAL, "fake": FAKE}.get(name.lower(), name)


def _refused(text: str, received: str) -> RequestError:
    return RequestError(
        f"--labels: expected class:value|value,class:value, such as real:original,fake:Deepfakes|Face2Face, received "
        f"{text!r} ({received})"
    )
