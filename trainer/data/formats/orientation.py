"""The EXIF orientation of an encoded image, 1 to 8, as ``PIL.ImageOps.exif_transpose`` finds it.

Exif is read wherever it stands before the pixels of a JPEG (APP1), in a PNG (``eXIf``) and in a WebP (``EXIF``); of it
only IFD0, because IFD1 describes the thumbnail.  Without an orientation there, XMP's ``tiff:Orientation`` counts.
``orientation_ops.py`` does the same with TensorFlow's operations.  Imports no TensorFlow.
"""

import re
import struct
from collections.abc import Iterator

from trainer.data.formats import image_format

STEPS = 4096  # Segments, chunks or bytes of junk that are looked at, so that no file keeps a reader busy.

EXIF_PREFIX = b"Exif\0\0"
XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
PNG_XMP = b"XML:com.adobe.xmp\0"
APP1, SOS = 0xE1, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # ITU-T T.81, table B.1: all but DHT, JPG and DAC.
TAG = 0x0112
TIFF_HEADS = (b"II*\0", b"II\0*", b"MM\0*", b"MM*\0")  # The second and the fourth are wrong, and common.
# Bytes of one value by type (TIFF 6.0, Exif 2.3), and how many of them an orientation of this type has.
UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
NUMBERS = {3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 13: 4}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')

Metadata = tuple[bytes, bytes]  # Exif, a TIFF structure, and XMP; empty where there is none.


def of(content: bytes) -> int:
    """Return the orientation; 1, upright, if there is none or a wrong one."""
    match image_format.name(content):
        case "JPEG":
            exif, xmp = _of_jpeg(content)
        case "PNG":
            exif, xmp = _of_png(content)
        case "WebP":
            exif, xmp = _of_webp(content)
        case _:
            return 1
    value = of_exif(exif)
    if value is None:
        match_ = _XMP.search(xmp)
        value = int(match_[1]) if match_ else 1
    return value if 1 <= value <= 8 else 1


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end (of what follows the length) of each segment before the pixels."""
    at = 2
    for _ in range(STEPS):
        if at + 4 > len(content) or (content[at] == 0xFF and content[at + 1] == SOS):
            return
        marker = content[at + 1]
        if content[at] != 0xFF or marker == 0xFF:  # Junk, or a fill byte.
            at += 1
        elif marker < 2 or 0xD0 <= marker <= 0xD9:  # These have no length.
            at += 2
        else:
            end = at + 2 + max(int.from_bytes(content[at + 2 : at + 4]), 2)
            yield marker, at + 4, end
            at = end


def jpeg_components(content: bytes) -> int:
    """Return the number of a JPEG's colour components from its frame header; 0 without one."""
    for marker, begin, _ in jpeg_segments(content):
        if marker in _FRAMES and begin + 6 <= len(content):
            return content[begin + 5]
    return 0


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, begin and end (of the data) of each chunk."""
    at = 8
    for _ in range(STEPS):
        if at + 8 > len(content):
            return
        end = at + 8 + int.from_bytes(content[at : at + 4])
        yield content[at + 4 : at + 8], at + 8, end
        at = end + 4


def webp_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, begin and end (of the data) of each chunk."""
    at = 12
    for _ in range(STEPS):
        if at + 8 > len(content):
            return
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        yield content[at : at + 4], at + 8, at + 8 + size
        at += 8 + size + size % 2


def _of_jpeg(content: bytes) -> Metadata:
    exif, xmp = b"", b""
    for marker, begin, end in jpeg_segments(content):
        if marker == APP1 and content.startswith(EXIF_PREFIX, begin):
            exif += content[begin + len(EXIF_PREFIX) : end]  # Long Exif is split over segments.
        elif marker == APP1 and content.startswith(XMP_PREFIX, begin):
            xmp = content[begin + len(XMP_PREFIX) : end]
    return exif, xmp


def _of_png(content: bytes) -> Metadata:
    exif, xmp = b"", b""
    for kind, begin, end in png_chunks(content):
        if kind == b"eXIf":
            exif = content[begin:end]
        elif kind == b"iTXt" and content.startswith(PNG_XMP + b"\0", begin):  # Not the compressed kind.
            xmp = content[begin:end]
    return exif, xmp


def _of_webp(content: bytes) -> Metadata:
    exif, xmp = b"", b""
    for kind, begin, end in webp_chunks(content) if content[12:16] == b"VP8X" else ():
        if kind == b"EXIF":
            exif = exif or content[begin:end]
        elif kind == b"XMP ":
            xmp = xmp or content[begin:end]
    return exif, xmp


def of_exif(exif: bytes) -> int | None:
    """Return the orientation that IFD0 holds, which may be out of range; None if it holds none.

    As in Pillow, entries behind one whose value lies beyond the end are not read.
    """
    exif = exif.removeprefix(EXIF_PREFIX).removeprefix(EXIF_PREFIX)
    if len(exif) < 8 or exif[:4] not in TIFF_HEADS:
        return None
    order = "<" if exif.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(order + "H", exif, start)
    total = 0
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values, offset = struct.unpack_from(order + "HHII", exif, at)
        size = values * UNITS.get(kind, 0)
        if size > 4:
            total += size
            if total <= len(exif) < offset + size:
                return None
        elif tag == TAG and size:
            length = NUMBERS.get(kind, 0)  # Of several values the first counts.
            return int.from_bytes(exif[at + 8 : at + 8 + length], "little" if order == "<" else "big")
        if tag == TAG and size > 4 and total <= len(exif):
            return 0
    return None
