"""One split: its images, labels and what is known of each image.

Does not own: which images there are (``manifest.py``, ``named/``).  Imports no TensorFlow.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trainer.core.litter import NOTHING, LeftOut
from trainer.core.placement import TRAIN
from trainer.core.storage import files
from trainer.data import image_files, tfrecord

SOURCE, METHOD, VIDEO = COLUMNS = ("source", "method", "video")
NO_COLUMNS: Mapping[str, Sequence[str]] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class SelfBlended:
    """Which images of a split count as forgeries of themselves (``self_blending/validation.py``).

    ``examples[i]`` is the number that, with the seed, determines the forgery of image i; -1: it is no forgery.
    """

    seed: int
    examples: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the images of a data_dir were found, in words.

    Attributes:
        texts: by split, where its images come from; a split that is absent has none.
        counts: images of each class, by split, of all splits that were listed.
        notes: what was taken as what, and what was left out; a sentence each.
    """

    texts: Mapping[str, str]
    counts: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, sorted by class and then by file name.

    ``names[i]`` is relative to ``root`` (such as ``Train/Fake/a.jpg``), or in a list an absolute or remote path;
    ``labels[i]`` indexes ``class_names``.  In a packed set ``records`` locates their bytes; the names are those of the
    files that were packed.  ``left_out`` names what else the listing saw, relative to ``root``.  ``self_blended``
    images have the label of forgeries.

    Attributes:
        columns: what is known of each image, by name of ``COLUMNS``; "" where an image has no value.
        source_rule: what says which images share a source, in words; empty: the column, if there is one.
        held_out: for a share of Train, how it was drawn, in words; empty for a split of its own.
        origin: where the images were found; None: in ``root/name/<class>`` or a packed set.
        mount: folder that is not empty as long as the images are mounted; empty: that of each image's class.
        dropped: number of images that ``--drop`` left out of it, if ``origin`` does not say it.
    """

    name: str
    root: str
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: npt.NDArray[np.int32]
    records: tfrecord.Records | None = None
    left_out: LeftOut = NOTHING
    self_blended: SelfBlended | None = None
    columns: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: NO_COLUMNS)
    source_rule: str = ""
    held_out: str = ""
    origin: Origin | None = None
    mount: str = ""
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Return the full path of image ``index``; in a packed set no file has it."""
        return full_path(self.root, self.names[index])

    def folder(self, index: int) -> str:
        """Return the folder that holds something as long as image ``index`` is mounted."""
        return self.mount or image_files.class_folder(self.root, self.names[index])

    @property
    def is_remote(self) -> bool:
        """Whether the images are read over a network: those of a bucket, or of a list that begins with one there."""
        return files.is_remote(self.root) or bool(len(self) and files.is_remote(self.names[0]))

    @property
    def part(self) -> str:
        """The split of data_dir in which the images lie: Train for a share that was held out of it."""
        return TRAIN if self.held_out else self.name

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    @property
    def forgeries_made(self) -> str:
        """What is to be said of images that count as forgeries of themselves; empty if there are none."""
        count = int((self.self_blended.examples >= 0).sum()) if self.self_blended else 0
        return f"{count:,} made by blending images with themselves, as there are no others" if count else ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and labels: equal fingerprints mean the same images in the same order."""
        digest = hashlib.sha256()
        for name in (*self.class_names, *self.names):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(self.labels.astype("<i4").tobytes())
        return digest.hexdigest()

    def select(self, indices: Sequence[int] | npt.NDArray[np.int64], name: str, held_out: str = "") -> "Split":
        """Return the split of only these images, under another name."""
        numbers = np.asarray(indices, np.int64)
        chosen = numbers.tolist()
        blended = self.self_blended and SelfBlended(self.self_blended.seed, self.self_blended.examples[numbers])
        return dataclasses.replace(
            self,
            name=name,
            names=tuple(self.names[i] for i in chosen),
            labels=self.labels[numbers],
            records=self.records.select(numbers) if self.records else None,
            self_blended=blended,
            columns={key: [values[i] for i in chosen] for key, values in self.columns.items()},
            held_out=held_out or self.held_out,
            dropped=0 if held_out else self.dropped,  # Said of Train, which they left.
        )


def full_path(root: str, name: str) -> str:
    """Return the path of an image: its name if that is absolute or remote, else below ``root``."""
    return name if name.startswith("/") or files.is_remote(name) else files.join(root, name)
