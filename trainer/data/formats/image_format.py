"""The formats of images: how each is recognised by content, and which decoder reads it.  Imports no TensorFlow.

``GRAPH`` is what TensorFlow decodes, in training and inside an export; ``rescue.py`` reads the rest with Pillow.
docs/data.md has the table for people.
"""

MAGIC: tuple[tuple[str, int, bytes], ...] = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PN"),
    ("GIF", 0, b"GIF8"),
    ("BMP", 0, b"BM"),
    ("WebP", 8, b"WEBP"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("TIFF", 0, b"II+\0"),
    ("TIFF", 0, b"MM\0+"),
    *(("AVIF", 4, b"ftyp" + brand) for brand in (b"avif", b"avis")),
    *(("HEIC", 4, b"ftyp" + brand)
      for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 4, b"JXL \r\n\x87\n"),
    ("JPEG 2000", 4, b"jP  \r\n\x87\n"),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    *(("PPM", 0, b"P%d%c" % (kind, space)) for kind in range(1, 7) for space in b"\n \r\t"),
    ("PSD", 0, b"8BPS"),
    ("ICO", 0, b"\0\0\1\0"),
    ("PDF", 0, b"%PDF"),
    ("SVG", 0, b"<svg"),
)  # fmt: skip
# Of files that are meant as images, in lower case.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".heic", ".heif",
           ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".pbm")  # fmt: skip
GRAPH = ("JPEG", "PNG", "WebP", "GIF", "BMP")
# By their names in Pillow.  Its other plug-ins are left out: some start programs, others read what is no photograph.
PILLOW = {"JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "GIF": "GIF", "BMP": "BMP", "TIFF": "TIFF", "PPM": "PPM",
          "JPEG 2000": "JPEG2000", "AVIF": "AVIF", "HEIC": "HEIF"}  # fmt: skip
# Images to people; those that nothing here reads get a row that says so.
PICTURES = {*PILLOW, "JPEG XL", "PSD"}

# A BMP's compression (BITMAPINFOHEADER), and the masks that mean blue, green, red in this order of bytes.
BI_RGB, BI_BITFIELDS = 0, 3
BGR_MASKS = b"\0\0\xff\0" + b"\0\xff\0\0" + b"\xff\0\0\0"
# Of a WebP's VP8X header.
ANIMATED, XMP, EXIF, ALPHA = 0x02, 0x04, 0x08, 0x10


class Unreadable(ValueError):
    """An image cannot be decoded; the message names its format and what to do."""


def name(content: bytes) -> str:
    """Return the name of the format, or "" for an unknown one."""
    for name, at, magic in MAGIC:
        if content.startswith(magic, at):
            # "mif1" says no more than that it is an image; the brands that follow say of which kind.
            return "AVIF" if name == "HEIC" and b"avif" in content[16 : content[3]] else name
    return ""


def is_for_graph(content: bytes) -> bool:
    """Return whether TensorFlow decodes an image as Pillow does.

    Not so: GIF (TensorFlow decodes every frame), a PNG that hides its header, a BMP with a palette, a compressed one or
    one with other masks, and WebP with alpha or animation.
    """
    match name(content):
        case "JPEG":
            return True
        case "PNG":
            return content[12:16] == b"IHDR"
        case "BMP":
            return _is_plain_bmp(content)
        case "WebP":
            return _is_plain_webp(content)
    return False


def _is_plain_bmp(content: bytes) -> bool:
    header, bits, compression = content[14:18], content[28:30], int.from_bytes(content[30:34], "little")
    if int.from_bytes(header, "little") < 40:
        return False
    if compression == BI_BITFIELDS:
        return bits == b"\x20\0" and content[54:66] == BGR_MASKS
    return compression == BI_RGB and bits in (b"\x18\0", b"\x20\0")


def _is_plain_webp(content: bytes) -> bool:
    kind = content[12:16]
    if kind == b"VP8X":
        return not content[20] & (ALPHA | ANIMATED) if len(content) > 20 else False
    if kind == b"VP8L":
        return not content[24] & 0x10 if len(content) > 24 else False
    return kind == b"VP8 "


def too_large(limit: object, pixels: object, name: object) -> list[object]:
    """Return the parts of the message about an image with too many pixels; text in Python, tensors in a graph."""
    return [f"expected at most {limit} pixels (--max_image_pixels), received ", pixels, " in a ", name,
            "; shrink the image, or raise --max_image_pixels"]  # fmt: skip


UNKNOWN = "Unknown image file format; expected JPEG, PNG, WebP, GIF or BMP; save the image as one of these"


def damaged(name: str, reason: str) -> str:
    """Return the message about an image in a known format that a decoder gave up."""
    return f"damaged or unusual {name} ({' '.join(reason.split())[:150]}); replace the file, or save the image as PNG"


def unsupported(name: str) -> str:
    """Return the message about a format that is known by name alone."""
    return f"{name} cannot be read; save the image as PNG or JPEG"
