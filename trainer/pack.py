"""Pack a folder of images into TFRecord shards that can be read at any offset (``trainer/data/packed.py``).

Images keep their bytes unless something must change: what is turned, CMYK, WebP, BMP or GIF becomes PNG of the very
pixels that training on the folder would see; what TensorFlow cannot read but Pillow can becomes PNG of Pillow's.
Each shard is written with a note of what is in it, ``pack.json`` last: after a kill the same command goes on.
"""

import collections
import dataclasses
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm
from PIL import Image, ImageOps

from trainer import __version__, config, files
from trainer.data import decode, manifest, packed, reading
from trainer.data.manifest import Split
from trainer.data.packed import Array, Names
from trainer.errors import RequestError

log = logging.getLogger(__name__)

NOTES = "unfinished"  # Folder of the notes beside the shards; removed at the end.
_READ_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class PackFlags:
    """Settings of one packing."""

    data_dir: str = config.setting("", "Folder or gs:// path with {Train,Validation,Test}/<class>/* images.")
    out: str = config.setting("", "Folder or gs:// path for the packed set; a --data_dir for every other command.")
    images_per_shard: int = config.setting(1024, "Images in one TFRecord file.", unit="images", minimum=1)
    resize: int = config.setting(
        0, "Store images at this height and width, as --image_size would resize them; 0: as they are.", minimum=0
    )
    encode: str = config.setting(
        "keep",
        "keep: the files' own bytes where possible. png, jpeg: encode every image anew (jpeg loses detail).",
        choices=("keep", "png", "jpeg"),
    )
    jpeg_quality: int = config.setting(95, "Of --encode=jpeg.", minimum=1, maximum=100)
    drop_bad: bool = config.setting(
        False, "Leave out what cannot be decoded; without it, training skips and names it, as it does in the folder."
    )
    drop_leaks: bool = config.setting(
        False, "Leave out of Train what is also in Validation or Test, and of Validation what is also in Test, exactly "
        "or nearly; see audit."
    )  # fmt: skip
    max_image_pixels: int = config.setting(
        config.MAX_IMAGE_PIXELS, "Larger images count as bad, and are not decoded.", unit="pixels", minimum=1
    )
    workers: int = config.setting(0, "Shards made at a time; 0: one for each core.", minimum=0)


@dataclasses.dataclass(frozen=True)
class _Shard:
    """What one shard is to hold: images ``[start, stop)`` of a split."""

    split: Split
    path: str
    start: int
    stop: int

    @property
    def title(self) -> str:
        return self.path.removesuffix(".tfrecord")


@dataclasses.dataclass(frozen=True)
class _Note:
    """What one shard holds: the index's columns, the bad images with their reasons, how many were converted."""

    columns: dict[str, Array]
    names: list[str]
    bad: dict[str, str]
    converted: int
    size: int


def pack(request: PackFlags, dropped: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Pack every split that ``data_dir`` holds, or what is missing of it, and return ``pack.json``.

    Args:
        request: what to pack, how.
        dropped: names of images to leave out, such as ``Train/Fake/a.jpg``.

    Raises:
        RequestError: if there is nothing to pack, or ``out`` holds another packed set.
    """
    splits = _read_splits(request.data_dir, dropped)
    files.require_writable(request.out, "out")
    key = _key(request, splits)
    before = packed.read_manifest(request.out)
    if before is not None:
        if before["key"] != key:
            raise RequestError(
                f"--out: expected an empty folder, or what this command wrote; {request.out!r} holds a packed set of "
                "other images or settings; give another --out"
            )
        log.info("already packed: %s", request.out)
        return before
    shards = list(_shards(splits, request.images_per_shard))
    notes = _make(shards, request, key)
    return _finish(request, key, splits, shards, notes, dropped)


def _read_splits(data_dir: str, dropped: frozenset[str]) -> list[Split]:
    if packed.read_manifest(data_dir) is not None:
        raise RequestError(f"--data_dir: expected a folder of images, received the packed set {data_dir!r}")
    train = manifest.read_split(data_dir, manifest.TRAIN)
    others = [name for name in (manifest.VALIDATION, manifest.TEST) if manifest.has_split(data_dir, name)]
    splits = [train, *(manifest.read_split(data_dir, name, train.class_names) for name in others)]
    return [split.take([i for i, name in enumerate(split.names) if name not in dropped], split.name)
            if dropped else split for split in splits]  # fmt: skip


def _key(request: PackFlags, splits: Sequence[Split]) -> str:
    """Return a checksum of what decides the packed set: images, by name and stamp, and settings."""
    settings = {name: value for name, value in dataclasses.asdict(request).items()
                if name not in ("data_dir", "out", "workers", "drop_leaks")}  # fmt: skip
    parts = [json.dumps(settings), *(split.fingerprint + reading.stamp(split) for split in splits)]
    return f"{packed.checksum('|'.join(parts).encode()):08x}"


def _shards(splits: Sequence[Split], images: int) -> Iterator[_Shard]:
    for split in splits:
        count = max(-(-len(split) // images), 1)
        for number in range(count):
            path = f"{split.name}-{number:05d}-of-{count:05d}.tfrecord"
            yield _Shard(split, path, number * images, min((number + 1) * images, len(split)))


def _make(shards: Sequence[_Shard], request: PackFlags, key: str) -> dict[str, _Note]:
    """Write the shards that are not there yet, several at a time, and return the notes of all by path."""
    total = sum(shard.stop - shard.start for shard in shards)
    notes: dict[str, _Note] = {}
    with (
        tqdm.tqdm(total=total, unit="image", desc="packing", file=sys.stderr, disable=None) as bar,
        ThreadPoolExecutor(request.workers or os.cpu_count()) as pool,
    ):
        futures = {pool.submit(_make_one, shard, request, key): shard for shard in shards}
        try:
            for future in as_completed(futures):
                shard = futures[future]
                notes[shard.path] = future.result()
                bar.update(shard.stop - shard.start)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return notes


def _make_one(shard: _Shard, request: PackFlags, key: str) -> _Note:
    note_path = files.join(request.out, NOTES, f"{shard.title}-{key}.npz")
    shard_path = files.join(request.out, shard.path)
    if files.exists(note_path) and files.exists(shard_path):
        return _read_note(files.read_bytes(note_path))
    content, note = _build(shard, request)
    files.write_bytes(shard_path, content)
    files.write_bytes(note_path, _note_bytes(note))
    return note


def _build(shard: _Shard, request: PackFlags) -> tuple[bytes, _Note]:
    """Return a shard's bytes and what is in it."""
    split, reader = shard.split, reading.open_reader(shard.split)
    records, bad, names, converted = io.BytesIO(), {}, [], 0
    rows = []
    for start in range(shard.start, shard.stop, _READ_AT_ONCE):
        index = np.arange(start, min(start + _READ_AT_ONCE, shard.stop))
        for i, content in zip(index.tolist(), reader.read(index), strict=True):
            image, reason = convert(content, request)
            if reason:
                bad[split.names[i]] = reason
                if request.drop_bad:
                    continue
            converted += image is not content and not reason
            offset = _append(records, image, int(split.labels[i]), split.names[i])
            rows.append((split.labels[i], offset, len(image), packed.checksum(image)))
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
    crc = packed.checksum(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def convert(content: bytes | OSError, request: PackFlags) -> tuple[bytes, str]:
    """Return the bytes to store and, if the image is bad, why; a bad one's bytes are stored as they are."""
    if isinstance(content, OSError):
        return b"", content.strerror or str(content)
    try:
        pixels = decode.decode_one(request.max_image_pixels)(tf.constant(content))
    except tf.errors.InvalidArgumentError as error:
        reason = decode.reason(error)
        rescued = None if "max_image_pixels" in reason else _by_pillow(content)
        if rescued is None:
            return content, reason
        pixels, plain = tf.constant(rescued), False
    else:
        plain = _is_plain(content)
    if plain and request.encode == "keep" and not request.resize:
        return content, ""
    if request.resize:
        pixels = decode.resize(pixels, request.resize)
    if request.encode == "jpeg":
        return tf.io.encode_jpeg(pixels, quality=request.jpeg_quality).numpy(), ""
    return tf.io.encode_png(pixels).numpy(), ""


def _is_plain(content: bytes) -> bool:
    """Tell whether an image that TensorFlow reads is a JPEG or PNG that every reader would show alike."""
    with Image.open(io.BytesIO(content)) as image:
        upright = image.getexif().get(0x0112, 1) == 1
        return image.format == "PNG" or (image.format == "JPEG" and image.mode != "CMYK" and upright)


def _by_pillow(content: bytes) -> Array | None:
    """Return ``[H, W, 3]`` uint8 of an image that only Pillow reads, upright; None if it does not either."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _note_bytes(note: _Note) -> bytes:
    told = json.dumps({"bad": note.bad, "converted": note.converted, "size": note.size}).encode()
    return _npz({"told": np.frombuffer(told, np.uint8), **Names.of(note.names).arrays(), **note.columns})


def _npz(arrays: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes the names for its own options.
    return file.getvalue()


def _read_note(content: bytes) -> _Note:
    with np.load(io.BytesIO(content)) as arrays:
        columns = dict(arrays)
    names = list(Names(columns.pop("names"), columns.pop("name_ends")))
    return _Note(columns, names, **json.loads(columns.pop("told").tobytes()))


def _finish(
    request: PackFlags,
    key: str,
    splits: Sequence[Split],
    shards: Sequence[_Shard],
    notes: dict[str, _Note],
    dropped: frozenset[str],
) -> dict[str, Any]:
    """Write the indices and ``pack.json``, and remove the notes."""
    entries = {}
    for split in splits:
        members = [shard for shard in shards if shard.split is split]
        entries[split.name] = _write_index(request.out, split, [(shard.path, notes[shard.path]) for shard in members])
    told = {
        "format": packed.FORMAT,
        "version": packed.VERSION,
        "key": key,
        "deepdetect": __version__,
        "class_names": list(splits[0].class_names),
        "settings": dataclasses.asdict(request),
        "splits": entries,
        "bad": {name: reason for note in notes.values() for name, reason in note.bad.items()},
        "dropped": sorted(dropped),
    }
    files.write_text(files.join(request.out, packed.MANIFEST), json.dumps(told, indent=1) + "\n")
    files.remove_tree(files.join(request.out, NOTES))
    return told


def _write_index(out: str, split: Split, members: Sequence[tuple[str, _Note]]) -> dict[str, Any]:
    columns = collections.defaultdict(list)
    for number, (_, note) in enumerate(members):
        for name, column in note.columns.items():
            columns[name].append(column)
        columns["shard"].append(np.full(len(note.names), number, np.int32))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    content = _npz({**joined, **Names.of([name for _, note in members for name in note.names]).arrays()})
    path = f"{split.name}.index.npz"
    files.write_bytes(files.join(out, path), content)
    counted = np.bincount(joined["labels"], minlength=len(split.class_names)).tolist()
    return {
        "images": len(joined["labels"]),
        "counts": dict(zip(split.class_names, counted, strict=True)),
        "converted": sum(note.converted for _, note in members),
        "index": path,
        "index_crc32c": packed.checksum(content),
        "shards": [{"path": path, "images": len(note.names), "bytes": note.size} for path, note in members],
    }
