"""MP4 files with what OpenCV cannot write: frames of different lengths, rotation, a cover picture without a video."""

import struct
from collections.abc import Iterator
from pathlib import Path

_IDENTITY = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def set_frame_lengths(path: Path, runs: list[tuple[int, float]]) -> None:
    """Give ``(count, seconds)`` of consecutive frames their lengths; OpenCV writes the index behind the frames."""
    content = path.read_bytes().replace(b"edts", b"free")  # Edits would cut off what lies after the old end.
    place = content.index(b"mdhd") + 4
    (ticks,) = struct.unpack_from(">I", content, place + 12)
    table = struct.pack(">II", 0, len(runs)) + b"".join(struct.pack(">II", n, round(s * ticks)) for n, s in runs)
    path.write_bytes(_replaced(content, [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"], table))


def turn(path: Path) -> None:
    """Let players turn the pictures by 90 degrees clockwise."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    assert content[place : place + 36] == _IDENTITY
    height = struct.unpack_from(">I", content, place + 40)[0]
    content[place : place + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, height, 0, 0x40000000)
    path.write_bytes(content)


def add_cover(path: Path, png: bytes) -> None:
    """Add a cover picture to a video."""
    content = path.read_bytes()
    moov = next(body for name, body in _boxes(content) if name == b"moov")
    path.write_bytes(_replaced(content, [b"moov"], moov + _cover(png)))


def write_cover_alone(path: Path, png: bytes) -> None:
    """Write a file as of music: no video, one picture."""
    header = struct.pack(">5I", 0, 0, 0, 1000, 0) + struct.pack(">IH10x", 0x10000, 0x100) + _IDENTITY + bytes(24)
    movie = _box(b"mvhd", header + struct.pack(">I", 1)) + _cover(png)
    path.write_bytes(_box(b"ftyp", b"M4A \0\0\0\0M4A mp42isom") + _box(b"moov", movie) + _box(b"mdat", bytes(8)))


def _cover(png: bytes) -> bytes:
    items = _box(b"ilst", _box(b"covr", _box(b"data", struct.pack(">II", 14, 0) + png)))
    handler = _box(b"hdlr", struct.pack(">II4s", 0, 0, b"mdir") + b"appl" + bytes(9))
    return _box(b"udta", _box(b"meta", bytes(4) + handler + items))


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(content):
        (size,) = struct.unpack_from(">I", content, place)
        yield content[place + 4 : place + 8], content[place + 8 : place + size]
        place += size


def _replaced(content: bytes, names: list[bytes], body: bytes) -> bytes:
    """Return boxes with the body of the one at the end of a path replaced."""
    if not names:
        return body
    parts = [_box(name, _replaced(old, names[1:], body) if name == names[0] else old) for name, old in _boxes(content)]
    return b"".join(parts)
