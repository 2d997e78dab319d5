"""What operating systems and tools leave among images: never an image, never a class.

A short list of names that cannot be meant as data; anything else that is no image is reported as a bad image.
Imports no TensorFlow.
"""

import dataclasses

# Lower-case names of files.  Names that begin with a dot, such as .DS_Store, are hidden and left out anyway.
FILES = frozenset({
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",  # Windows.
    "icon\r",  # macOS.
    "demo_data.json", "demo_data.unfinished.json",  # scripts/make_demo_data.py.
})  # fmt: skip

# Lower-case names of folders, which are left out with everything in them.
FOLDERS = frozenset({
    "$recycle.bin", "system volume information",  # Windows.
    "__macosx",  # Archives made on macOS.
    "lost+found",  # The root of an ext file system.
    "@eadir",  # Network storage by Synology.
})  # fmt: skip


def is_litter(name: str) -> bool:
    """Return whether a file is litter: by its own name, or by a folder above it in this relative path."""
    *folders, last = name.lower().split("/")
    return last in FILES or any(folder in FOLDERS for folder in folders)


def is_litter_folder(name: str) -> bool:
    """Return whether a folder is litter, by the last name of its path."""
    return name.rpartition("/")[2].lower() in FOLDERS


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What a listing left out, by relative path; a folder's ends with "/".

    Attributes:
        litter: see ``is_litter``.
        special: pipes, sockets and devices, whose reading could wait for ever.
        loose: files beside the class folders.
        others: files of other kinds than those to read.
    """

    litter: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __add__(self, other: "LeftOut") -> "LeftOut":
        """Return what either left out."""
        return LeftOut(
            self.litter + other.litter, self.special + other.special, self.loose + other.loose,
            self.others + other.others,
        )  # fmt: skip

    def below(self, folder: str) -> "LeftOut":
        """Return the same with the folder before each name."""
        return LeftOut(*(tuple(f"{folder}/{name}" for name in names) for names in dataclasses.astuple(self)))

    def describe(self) -> str:
        """Return how many of each were left out, with an example; empty if none."""
        kinds = (
            (self.litter, "left by other programs"),
            (self.special, "pipes, sockets or devices"),
            (self.loose, "outside the class folders"),
            (self.others, "of other kinds"),
        )
        texts = [f"{len(names):,} {what} (such as {names[0]!r})" for names, what in kinds if names]
        return f"not used: {', '.join(texts)}" if texts else ""


NOTHING = LeftOut()
