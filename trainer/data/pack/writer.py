"""Write TFRecord shards that can be read at any offset, and their index (``trainer/data/tfrecord.py``).

Each shard is written with a note of its contents, and ``pack.json`` last, so that a rerun resumes after a kill.
Owns: shards, notes, the index.  Does not own: which images need conversion (``convert.py``).
"""

import collections
import dataclasses
import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from typing import Any

import joblib
import numpy as np
import tensorflow as tf

from trainer import __version__
from trainer.core import progress, terminal
from trainer.core.config import LayoutConfig
from trainer.core.config.registries import BILINEAR
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data import readers, tfrecord
from trainer.data.layouts import drop
from trainer.data.manifest import Split
from trainer.data.pack.convert import convert
from trainer.data.pack.request import PackFlags
from trainer.data.tfrecord import Array, Names

NOTES = "unfinished"  # Folder of the notes, next to the shards; removed at the end.
_NOTE_KEY = "told"  # Of a note's JSON part; frozen, as notes of older versions are read.
_READ_AT_ONCE = 64
_LAYOUT = tuple(field.name for field in dataclasses.fields(LayoutConfig))  # What they decide is in the fingerprints.


@dataclasses.dataclass(frozen=True)
class _Shard:
    """The planned contents of one shard: images ``[start, stop)`` of a split."""

    split: Split
    path: str
    start: int
    stop: int

    @property
    def title(self) -> str:
        return self.path.removesuffix(".tfrecord")


@dataclasses.dataclass(frozen=True)
class _Note:
    """The contents of one written shard.

    Attributes:
        columns: of the index.
        names: of the images.
        bad: reasons by name.
        converted: number of converted images.
        size: bytes of the shard.
    """

    columns: dict[str, Array]
    names: list[str]
    bad: dict[str, str]
    converted: int
    size: int


def pack(request: PackFlags, splits: Sequence[Split], dropped: Set[str] = frozenset()) -> dict[str, Any]:
    """Pack splits, or the shards that ``out`` still lacks, and return ``pack.json``.

    Args:
        request: settings.
        splits: of one data_dir, Train first.
        dropped: names of leaks to leave out, such as ``Train/Fake/a.jpg``; the splits already lack those of ``--drop``.

    Raises:
        RequestError: if ``out`` cannot be written or holds another packed set.
    """
    splits = [_without(split, dropped) for split in splits]
    files.require_writable(request.out, "out")
    with progress.phase("comparing the images with what is packed"):
        key = _key(request, splits)
    finished = tfrecord.read_manifest(request.out)
    if finished is not None:
        if finished["key"] != key:
            raise RequestError(
                f"--out: expected an empty folder, or what this command wrote; {request.out!r} holds a packed set of "
                "other images or settings; give another --out"
            )
        return finished
    shards = list(_shards(splits, request.images_per_shard))
    notes = _make(shards, request, key)
    with progress.phase("writing the index"):
        return _finish(request, key, splits, shards, notes, dropped)


def _without(split: Split, dropped: Set[str]) -> Split:
    kept = [i for i, name in enumerate(split.names) if name not in dropped]
    return split if len(kept) == len(split) else split.select(kept, split.name)


def _key(request: PackFlags, splits: Sequence[Split]) -> str:
    """Return a checksum of what determines the packed set: images, by name and stamp, and settings."""
    settings = {name: value for name, value in dataclasses.asdict(request).items()
                if name not in ("data_dir", "out", "workers", "drop_leaks", *_LAYOUT)}  # fmt: skip
    if not request.resize or request.interpolation == BILINEAR:  # As before there was a choice.
        del settings["interpolation"]
    parts = [json.dumps(settings), *(split.fingerprint + readers.stamp(split) for split in splits)]
    parts += [json.dumps(dict(split.columns)) for split in splits if split.columns]
    return f"{tfrecord.checksum('|'.join(parts).encode()):08x}"


def _shards(splits: Sequence[Split], images: int) -> Iterator[_Shard]:
    for split in splits:
        count = max(-(-len(split) // images), 1)
        for number in range(count):
            path = f"{split.name}-{number:05d}-of-{count:05d}.tfrecord"
            yield _Shard(split, path, number * images, min((number + 1) * images, len(split)))


def _make(shards: Sequence[_Shard], request: PackFlags, key: str) -> dict[str, _Note]:
    """Write the missing shards, several at a time, and return the notes of all shards by path."""
    total = sum(shard.stop - shard.start for shard in shards)
    notes: dict[str, _Note] = {}
    with (
        progress.bar(total, "image", "packing") as bar,
        ThreadPoolExecutor(request.workers or joblib.cpu_count()) as pool,
    ):
        stop = threading.Event()
        futures = {pool.submit(_make_one, shard, request, key, stop): shard for shard in shards}
        try:
            for future in as_completed(futures):
                shard = futures[future]
                notes[shard.path] = future.result()
                bar.update(shard.stop - shard.start)
        except BaseException:
            stop.set()  # A rerun makes unfinished shards again; a large one would take minutes now.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return notes


def _make_one(shard: _Shard, request: PackFlags, key: str, stop: threading.Event) -> _Note:
    note_path = files.join(request.out, NOTES, f"{shard.title}-{key}.npz")
    shard_path = files.join(request.out, shard.path)
    if files.exists(note_path) and files.exists(shard_path):  # Written before an earlier kill.
        return _read_note(files.read_bytes(note_path))
    content, note = _build(shard, request, stop)
    # The note comes second, so that it never describes a shard that is missing.
    files.write_bytes(shard_path, content)
    files.write_bytes(note_path, _note_bytes(note))
    return note


def _build(shard: _Shard, request: PackFlags, stop: threading.Event) -> tuple[bytes, _Note]:
    """Return a shard's bytes and the note of its contents.

    Raises:
        CancelledError: once ``stop`` is set.
    """
    split = shard.split
    reader = readers.open_reader(split)
    records = io.BytesIO()
    names: list[str] = []
    rows: list[tuple[int, int, int, int]] = []  # One per image: label, offset, length, CRC.
    bad: dict[str, str] = {}
    converted = 0
    for start in range(shard.start, shard.stop, _READ_AT_ONCE):
        if stop.is_set():
            raise CancelledError
        index = np.arange(start, min(start + _READ_AT_ONCE, shard.stop))
        for i, content in zip(index.tolist(), reader.read(index), strict=True):
            image, reason = convert(content, request)
            if reason:
                bad[split.names[i]] = reason
                if request.drop_bad:
                    continue
            converted += image is not content and not reason
            offset = _append(records, image, int(split.labels[i]), split.names[i])
            rows.append((int(split.labels[i]), offset, len(image), tfrecord.checksum(image)))
            names.append(split.names[i])
    types = {"labels": np.int32, "offset": np.int64, "length": np.int64, "crc": np.uint32}
    columns = {name: np.array([row[place] for row in rows], kind) for place, (name, kind) in enumerate(types.items())}
    content = records.getvalue()
    return content, _Note(columns, names, bad, converted, len(content))


def _append(records: io.BytesIO, image: bytes, label: int, name: str) -> int:
    """Append a ``tf.train.Example`` as a TFRecord and return where the image's bytes begin.

    The format: length (uint64), its masked CRC-32C, the data, its masked CRC-32C, little endian
    (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
    """
    encoded_name = name.encode("utf-8", "surrogateescape")
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded_name])),
    }
    data = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)
    length = len(data).to_bytes(8, "little")
    begin = records.tell() + len(length) + 4
    records.write(length + _masked(length) + data + _masked(data))
    return int(begin + data.index(image))


def _masked(data: bytes) -> bytes:
    crc = tfrecord.checksum(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _note_bytes(note: _Note) -> bytes:
    facts = json.dumps({"bad": note.bad, "converted": note.converted, "size": note.size}).encode()
    return _npz({_NOTE_KEY: np.frombuffer(facts, np.uint8), **Names.of(note.names).arrays(), **note.columns})


def _npz(arrays: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stub mistakes the names for its options.
    return file.getvalue()


def _read_note(content: bytes) -> _Note:
    with np.load(io.BytesIO(content)) as arrays:
        columns = dict(arrays)
    names = list(Names(columns.pop("names"), columns.pop("name_ends")))
    return _Note(columns, names, **json.loads(columns.pop(_NOTE_KEY).tobytes()))


def _finish(
    request: PackFlags,
    key: str,
    splits: Sequence[Split],
    shards: Sequence[_Shard],
    notes: dict[str, _Note],
    dropped: Set[str],
) -> dict[str, Any]:
    """Write the indexes, then ``pack.json``, which makes the set complete, and remove the notes."""
    entries = {}
    for split in splits:
        members = [shard for shard in shards if shard.split is split]
        entries[split.name] = _write_index(request.out, split, [(shard.path, notes[shard.path]) for shard in members])
    manifest = {
        "format": tfrecord.FORMAT,
        "version": tfrecord.VERSION,
        "key": key,
        "deepdetect": __version__,
        "class_names": list(splits[0].class_names),
        "settings": dataclasses.asdict(request),
        "splits": entries,
        "bad": {name: reason for note in notes.values() for name, reason in note.bad.items()},
        "dropped": sorted({*dropped, *drop.read(request.drop)}),
        "leaks": len(dropped),
    }
    files.write_text(files.join(request.out, tfrecord.MANIFEST), json.dumps(manifest, indent=1) + "\n")
    files.remove_tree(files.join(request.out, NOTES))
    return manifest


def _write_index(out: str, split: Split, members: Sequence[tuple[str, _Note]]) -> dict[str, Any]:
    columns = collections.defaultdict(list)
    for number, (_, note) in enumerate(members):
        for name, column in note.columns.items():
            columns[name].append(column)
        columns["shard"].append(np.full(len(note.names), number, np.int32))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    names = [name for _, note in members for name in note.names]
    content = _npz({**joined, **Names.of(names).arrays(), **_columns(split, names)})
    path = f"{split.name}.index.npz"
    files.write_bytes(files.join(out, path), content)
    counts = np.bincount(joined["labels"], minlength=len(split.class_names)).tolist()
    return {
        "images": len(joined["labels"]),
        "counts": dict(zip(split.class_names, counts, strict=True)),
        "converted": sum(note.converted for _, note in members),
        "index": path,
        "index_crc32c": tfrecord.checksum(content),
        "shards": [{"path": path, "images": len(note.names), "bytes": note.size} for path, note in members],
    }


def _columns(split: Split, names: Sequence[str]) -> dict[str, Array]:
    """Return what is known of these images of a split, as ``tfrecord.read_packed`` reads it."""
    arrays: dict[str, Array] = {}
    for column, values in split.columns.items():
        known = dict(zip(split.names, values, strict=True))
        arrays |= tfrecord.column_arrays(column, [known[name] for name in names])
    return arrays


def leaks(splits: Sequence[Split], request: PackFlags) -> set[str]:
    """Return the names of images to leave out so that no image is in two splits."""
    from trainer.data.audit import duplicates, scan  # Late: their libraries are slow to import.

    records = scan.scan(splits, workers=request.workers, max_image_pixels=request.max_image_pixels)
    with progress.phase("looking for images in two splits"):
        return duplicates.leaks(records)


def summary_table(manifest: Mapping[str, Any], request: PackFlags) -> str:
    """Return the short table that the command prints at its end."""
    lines = []
    for split, entry in manifest["splits"].items():
        counts = ", ".join(f"{name} {count:,}" for name, count in entry["counts"].items())
        shards, size = len(entry["shards"]), sum(shard["bytes"] for shard in entry["shards"]) / 1e6
        lines.append(f"{split:<12}{counts}; {shards} shard{'s' if shards > 1 else ''}, {size:,.1f} MB, "
                     f"{entry['converted']:,} converted")  # fmt: skip
    kept = "left out" if request.drop_bad else "kept as they are, and skipped by training"
    lines.append(f"{'bad':<12}{len(manifest['bad']):,}{f' ({kept})' if manifest['bad'] else ''}")
    if request.drop_leaks:
        lines.append(f"{'leaks':<12}{manifest.get('leaks', len(manifest['dropped'])):,} left out")
    return "\n".join([*lines, f"{'packed set':<12}{terminal.link(request.out)}"])
