"""A packed set: TFRecord shards with an index, so that any image can be read by its offset.

Written by ``pack/writer.py``.  ``pack.json`` names classes, splits and shards; each split has an index, a NumPy archive
with one entry for every image.
Owns: the format and its checksums.  Does not own: reading images (``readers.py``).  Imports no TensorFlow.
"""

import dataclasses
import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from trainer.core import checked_json
from trainer.core.checked_json import CLASSES, COUNT, OBJECT, OBJECTS, TEXT
from trainer.core.errors import RequestError
from trainer.core.storage import files

MANIFEST = "pack.json"
FORMAT = "deepdetect-pack"
VERSION = 1

_MANIFEST_FIELDS = {"class_names": CLASSES, "splits": OBJECT}
_SPLIT_FIELDS = {"index": TEXT, "index_crc32c": COUNT, "shards": OBJECTS}

_COLUMN, _VALUES, _ENDS = "column.", "values.", "ends."  # Keys of a column in an index, before its name.
_RECORD_HEADER = 12  # A TFRecord's length and its checksum, before the data.

Array = npt.NDArray[Any]


class Names(Sequence[str]):
    """Many names in one block of memory: a million Python strings would take 100 bytes each."""

    def __init__(self, blob: Array, ends: Array) -> None:
        """Wrap the UTF-8 bytes ``blob [bytes] uint8`` of all names and the end of each one, ``ends [N] int64``."""
        self._blob = blob.tobytes()
        self._ends = ends

    @classmethod
    def of(cls, names: Sequence[str]) -> "Names":
        """Pack names; bytes that are not UTF-8 are preserved as in Python's file names."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(one) for one in encoded], dtype=np.int64))

    def arrays(self) -> dict[str, Array]:
        """Return the constructor's arguments as they are stored, by key of the archive."""
        return {"names": np.frombuffer(self._blob, np.uint8), "name_ends": self._ends}

    def have_any_of(self, words: Iterable[str]) -> bool:
        """Return whether any of these lower-case words is somewhere in the names, in upper or lower case."""
        text = self._blob.lower()
        return any(word.encode() in text for word in words)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """Return a name, or a tuple of those of a slice."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = int(self._ends[index - 1]) if index else 0
        return self._blob[start : int(self._ends[index])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Locations of a split's encoded images.

    Attributes:
        shards: paths of all shards.
        shard: [N] int32, number of the image's shard.
        offset: [N] int64, of the image's first byte in it.
        length: [N] int64, bytes.
        crc: [N] uint32, CRC-32C of the bytes.
    """

    shards: tuple[str, ...]
    shard: Array
    offset: Array
    length: Array
    crc: Array

    def select(self, indices: Array) -> "Records":
        """Return only these images' records."""
        columns = (self.shard, self.offset, self.length, self.crc)
        return Records(self.shards, *(column[indices] for column in columns))


@dataclasses.dataclass(frozen=True, eq=False)
class PackedSplit:
    """One split of a packed set: ``names``, ``labels [N] int32`` (of ``class_names``) and ``records``, in one order.

    ``columns`` is what is known of each image, as ``Split.columns``.
    """

    class_names: tuple[str, ...]
    names: Names
    labels: Array
    records: Records
    columns: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def read_manifest(data_dir: str) -> dict[str, Any] | None:
    """Return ``pack.json``, or None if the folder is not a packed set.

    Raises:
        RequestError: if this version cannot read it.
    """
    path = files.join(data_dir, MANIFEST)
    remedy = "copy or pack the set again"
    try:
        manifest = checked_json.read(path, {}, remedy=remedy, what="a packed set's manifest")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise RequestError(
            f"expected {path} to say format {FORMAT!r} and version {VERSION}, received {manifest.get('format')!r} and "
            f"{manifest.get('version')!r}; pack again with this version"
        )
    name = f"expected {path!r}"
    checked_json.check(manifest, _MANIFEST_FIELDS, name=name, remedy=remedy)
    for split, entry in manifest["splits"].items():
        checked_json.check({split: entry}, {split: OBJECT}, name=name, remedy=remedy)
        checked_json.check(entry, _SPLIT_FIELDS, name=f"{name} ({split})", remedy=remedy)
        for shard in entry["shards"]:
            checked_json.check(shard, {"path": TEXT}, name=f"{name} (shards of {split})", remedy=remedy)
    return manifest


def read_packed(data_dir: str, split: str, manifest: dict[str, Any]) -> PackedSplit:
    """Read the index of a split that ``manifest`` names.

    Raises:
        RequestError: if the index is missing or damaged.
    """
    entry = manifest["splits"][split]
    path = files.join(data_dir, entry["index"])
    try:
        content = files.read_bytes(path)
    except FileNotFoundError as error:
        raise RequestError(
            f"expected {path}, which {MANIFEST} names, received no such file; copy or pack again"
        ) from error
    if checksum(content) != entry["index_crc32c"]:
        raise RequestError(
            f"expected {path} with the checksum of {MANIFEST}, received other content; copy or pack again"
        )
    with np.load(io.BytesIO(content)) as arrays:
        index = dict(arrays)
    shards = tuple(files.join(data_dir, shard["path"]) for shard in entry["shards"])
    records = Records(shards, *(index[name] for name in ("shard", "offset", "length", "crc")))
    names = Names(index["names"], index["name_ends"])
    return PackedSplit(tuple(manifest["class_names"]), names, index["labels"], records, _columns(index))


def column_arrays(column: str, values: Sequence[str]) -> dict[str, Array]:
    """Return the arrays of an index that hold a column: the number of each image's value, and the values."""
    places = {value: place for place, value in enumerate(dict.fromkeys(values))}
    numbers = np.array([places[value] for value in values], np.int32)
    blob, ends = Names.of(list(places)).arrays().values()
    return {f"{_COLUMN}{column}": numbers, f"{_VALUES}{column}": blob, f"{_ENDS}{column}": ends}


def _columns(index: dict[str, Array]) -> dict[str, list[str]]:
    columns = {}
    for key in index:
        if key.startswith(_COLUMN):
            name = key.removeprefix(_COLUMN)
            values = list(Names(index[f"{_VALUES}{name}"], index[f"{_ENDS}{name}"]))
            columns[name] = [values[number] for number in index[key].tolist()]
    return columns


def record_starts(records: Records, names: Sequence[str], labels: Array) -> Array:
    """Return where each image's TFRecord begins in its shard, ``[N] int64``.

    The index holds the offset of the image's own bytes.  The size of what precedes them in a ``tf.train.Example`` of
    image, label and name follows from lengths alone (https://protobuf.dev/programming-guides/encoding).
    """
    name_bytes = np.fromiter((len(name.encode("utf-8", "surrogateescape")) for name in names), np.int64, len(names))
    contents = {"image": records.length.astype(np.int64), "label": _varint(labels.astype(np.int64)), "name": name_bytes}
    entries = {}
    for key, content in contents.items():  # A list in a feature, in an entry of the map with its key.
        entries[key] = _field(np.int64(len(key))) + _field(_field(_field(content)))
    features = sum(map(_field, entries.values()))
    # The messages around the image's bytes, from the outermost to the bytes themselves.
    nested = (
        features,
        entries["image"],
        _field(_field(contents["image"])),
        _field(contents["image"]),
        contents["image"],
    )
    headers = sum(_field(each) - each for each in nested) + _field(np.int64(len("image")))
    return np.asarray(records.offset - headers - _RECORD_HEADER, np.int64)


def _field(content: Any) -> Any:
    """Return the size in bytes of a field with ``content`` bytes of content: tag, length, content."""
    return 1 + _varint(content) + content


def _varint(number: Any) -> Any:
    """Return the size in bytes of an encoded number, which takes 7 bits per byte."""
    return 1 + sum((number >> bits > 0).astype(np.int64) for bits in range(7, 63, 7))


def checksum(content: bytes) -> int:
    """Return the CRC-32C of some bytes."""
    return int(_crc32c().value(content))


@functools.cache
def _crc32c() -> Any:
    import google_crc32c  # Comes with google-cloud-storage; written in C, gigabytes per second.

    return google_crc32c
