"""Decode with Pillow what TensorFlow does not read, or not as Pillow does.  Imports no TensorFlow.

Training, evaluate, predict, pack and audit all come here; the graph of an export cannot, and refuses such images.
Owns: what Pillow may read, and the words for what it cannot.  Does not own: recognising formats (``image_format.py``).
"""

import contextlib
import importlib
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.core.errors import StoppedEarly
from trainer.data.formats import bmp, image_format, orientation
from trainer.data.formats.image_format import Unreadable
from trainer.data.pixels import Pixels

# Warnings about damaged metadata, which is of no interest here; filters cannot be set for one thread alone.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BY_OWN_RULE = ("JPEG", "PNG", "WebP")
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_COLOUR_SEGMENTS = (0xE0, 0xEE)  # APP0 (JFIF) and APP14 (Adobe) say which colours a JPEG holds.


def decode(content: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Pixels:
    """Return ``[H, W, 3]`` uint8 of the first frame, upright.

    Raises:
        Unreadable: if it cannot be decoded or has more than ``max_pixels`` pixels.
    """
    with opened(content, max_pixels) as (image, _):
        return np.asarray(rgb(upright(image, content)))


def as_png(content: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> bytes:
    """Return the pixels of ``decode`` as a PNG, which every graph reads; raises as ``decode`` does."""
    file = io.BytesIO()
    Image.fromarray(decode(content, max_pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def for_graph(content: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> bytes:
    """Return an image as the graph of an export reads it: its own bytes, or a PNG; raises as ``decode`` does."""
    return content if image_format.is_for_graph(content) else as_png(content, max_pixels)


def claimed_pixels(content: bytes, max_pixels: int) -> int:
    """Return how many pixels an image has by its header, without decoding it.

    A header that Pillow cannot read counts as ``max_pixels``, because another decoder may read it.

    Raises:
        Unreadable: if the format is not supported, or there are more than ``max_pixels``.
    """
    name = _supported(content)
    with _without_pillows_limit():
        try:
            with Image.open(io.BytesIO(content), formats=[image_format.PILLOW[name]]) as image:
                pixels = image.width * image.height
        except (MemoryError, StoppedEarly):
            raise
        except Exception:  # As in ``opened``.
            return max_pixels
    if pixels > max_pixels:
        raise Unreadable("".join(map(str, image_format.too_large(max_pixels, pixels, name))))
    return pixels


@contextlib.contextmanager
def opened(content: bytes, max_pixels: int) -> Iterator[tuple[Image.Image, bool]]:
    """Open an image and load its first frame; also say whether damaged metadata had to be left out.

    Raises:
        Unreadable: as ``decode`` does.
    """
    name = _supported(content)
    with _without_pillows_limit():
        try:
            image, is_bare = _load(content, name, max_pixels), False
        except (Unreadable, MemoryError, StoppedEarly):
            raise
        except Exception as error:  # Decoders raise many types: SyntaxError, struct.error, ...
            image, is_bare = _load_bare(content, name, max_pixels, error), True
    with image:
        yield image, is_bare


def _supported(content: bytes) -> str:
    """Return the name of the format.

    Raises:
        Unreadable: if Pillow does not read it.
    """
    if not content:
        raise Unreadable("the file is empty; replace or remove it")
    name = image_format.name(content)
    if not name:
        raise Unreadable(image_format.UNKNOWN)
    if name not in image_format.PILLOW:
        raise Unreadable(image_format.unsupported(name))
    if name == "HEIC":
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            raise Unreadable(
                "HEIC needs the package pillow-heif; pip install pillow-heif, or save the image as JPEG or PNG"
            ) from None
    return name


def _load(content: bytes, name: str, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=[image_format.PILLOW[name]])
    if image.width * image.height > max_pixels:
        parts = image_format.too_large(max_pixels, image.width * image.height, name)
        raise Unreadable("".join(map(str, parts)))
    image.load()
    return image


def _load_bare(content: bytes, name: str, max_pixels: int, error: Exception) -> Image.Image:
    """Load an image without its metadata, which may be all that is damaged, or a BMP without its masks."""
    bare = {"JPEG": _bare_jpeg, "PNG": _bare_png, "WebP": _bare_webp, "BMP": bmp.without_masks}.get(name)
    if bare is not None:
        with contextlib.suppress(OSError, ValueError, SyntaxError, EOFError, IndexError):
            return _load(bare(content), name, max_pixels)
    why = "no such image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
    raise Unreadable(image_format.damaged(name, why)) from error


def _bare_jpeg(content: bytes) -> bytes:
    parts, at = [], 0
    for marker, begin, end in orientation.jpeg_segments(content):
        if (marker & 0xF0 == 0xE0 and marker not in _COLOUR_SEGMENTS) or marker == 0xFE:
            parts.append(content[at : begin - 4])
            at = end
    return b"".join([*parts, content[at:]])


def _bare_png(content: bytes) -> bytes:
    chunks = orientation.png_chunks(content)
    return content[:8] + b"".join(content[begin - 8 : end + 4] for kind, begin, end in chunks if kind in _PIXEL_CHUNKS)


def _bare_webp(content: bytes) -> bytes:
    for kind, begin, end in orientation.webp_chunks(content):
        if kind in (b"VP8 ", b"VP8L"):
            chunk = content[begin - 8 : end + end % 2].ljust(end + end % 2 - begin + 8, b"\0")
            return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
    raise ValueError("no pixels")


def upright(image: Image.Image, content: bytes) -> Image.Image:
    """Turn a loaded image as its EXIF orientation says."""
    if image_format.name(content) not in _BY_OWN_RULE:
        try:
            return ImageOps.exif_transpose(image)
        except StoppedEarly:
            raise
        except Exception:  # A damaged EXIF block does not make the picture bad.
            return image
    turn = _TURNS.get(orientation.of(content))
    return image if turn is None else image.transpose(turn)


def rgb(image: Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB: alpha is dropped, and the upper 8 of 16 bits are kept."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


_limit_lock = threading.Lock()
_users = 0
_pillows_limit: int | None = None


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Lift Pillow's own limit, one for the process, while any thread opens an image; ours is checked instead."""
    global _users, _pillows_limit
    with _limit_lock:
        if not _users:
            _pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _users -= 1
            if not _users:
                Image.MAX_IMAGE_PIXELS = _pillows_limit
