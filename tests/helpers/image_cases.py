"""Small image files that cameras, editors and attackers make, with what every decoder must answer.  Drawn here."""

import dataclasses
import functools
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pillow_heif
from PIL import Image, ImageOps


@dataclasses.dataclass(frozen=True)
class Case:
    """A file; ``refusal`` is a part of the message if it cannot be read at all.

    Attributes:
        name: of the file.
        content: of it.
        refusal: "": it is read.
        graph: whether the graph of an export takes it too.
        drawn: whether the pixels are those of ``picture``, because Pillow alone refuses the file.
    """

    name: str
    content: bytes
    refusal: str = ""
    graph: bool = True
    drawn: bool = False

    def expected(self) -> np.ndarray:
        """Return the pixels: Pillow's, upright."""
        if self.drawn:
            return np.asarray(picture())
        with Image.open(io.BytesIO(self.content)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))

    @property
    def tolerance(self) -> int:
        """Grey levels between decoders: none where nothing is lost."""
        return 3 if self.name.endswith((".jpg", "lossy.webp")) else 0


def picture(height: int = 32, width: int = 48) -> Image.Image:
    """Return a picture whose corners differ, so that every turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x // 8 + y // 8) % 2 * 200], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, form, **options)
    return buffer.getvalue()


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def entry(order: str, tag: int, kind: int, value: int, count: int = 1) -> bytes:
    packed = {3: order + "HH", 8: order + "hH"}.get(kind)
    value_bytes = struct.pack(packed, value, 0) if packed else struct.pack(order + "I", value)
    return struct.pack(order + "HHI", tag, kind, count) + value_bytes


def tiff(order: str, first: list[bytes], second: list[bytes] | None = None) -> bytes:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    after = 8 + 2 + 12 * len(first) + 4
    body = struct.pack(order + "H", len(first)) + b"".join(first) + struct.pack(order + "I", after if second else 0)
    if second:
        body += struct.pack(order + "H", len(second)) + b"".join(second) + struct.pack(order + "I", 0)
    return head + body


def exif(order: str, turn: int, kind: int = 3) -> bytes:
    """Return an APP1 segment with an orientation."""
    return segment(0xE1, b"Exif\0\0" + tiff(order, [entry(order, 0x10F, 3, 1), entry(order, 0x112, kind, turn)]))


def xmp(turn: int) -> bytes:
    """Return an APP1 segment with an orientation in XMP."""
    return segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="%d"/>' % turn)


def _parts() -> tuple[bytes, bytes]:
    """Return the JFIF segment of a JPEG and all that follows it."""
    plain = encoded("JPEG", quality=92)
    length = struct.unpack(">H", plain[4:6])[0]
    return plain[2 : 4 + length], plain[4 + length :]


def jpegs() -> Iterator[Case]:
    jfif, rest = _parts()
    icc = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(500))
    before = {
        "first": b"", "after_jfif": jfif, "after_comment": segment(0xFE, b"drawn"), "after_icc": icc,
        "after_jfif_and_icc": jfif + icc, "after_xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
        "after_photoshop": segment(0xED, b"Photoshop 3.0\0" + bytes(3000)), "after_fill_bytes": b"\xff\xff",
        "after_long_icc": segment(0xE2, b"ICC_PROFILE\0\1\5" + bytes(65_000)) * 5, "after_tables": rest[:138],
    }  # fmt: skip
    for name, leading in before.items():
        for turn in (3, 6, 8):
            yield Case(f"exif_{name}_{turn}.jpg", b"\xff\xd8" + leading + exif("<" if turn == 6 else ">", turn) + rest)
    for turn in range(10):
        yield Case(f"exif_{turn}.jpg", b"\xff\xd8" + exif("><"[turn % 2], turn) + rest)
    for kind in (1, 4, 8, 9, 13, 99):
        yield Case(f"exif_type_{kind}.jpg", b"\xff\xd8" + exif("<", 6, kind) + rest)
    two = b"Exif\0\0" + tiff("<", [entry("<", 0x112, 3, 6, count=2)])
    yield Case("exif_of_two_values.jpg", b"\xff\xd8" + segment(0xE1, two) + rest)
    thumb = segment(0xE1, b"Exif\0\0" + tiff(">", [entry(">", 0x10F, 3, 1)], [entry(">", 0x112, 3, 8)]))
    yield Case("exif_of_thumbnail.jpg", b"\xff\xd8" + thumb + rest)
    yield Case("exif_broken.jpg", b"\xff\xd8" + segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f") + rest)
    words = segment(0xFE, b"Exif\0\0" + tiff("<", [entry("<", 0x112, 3, 6)]))
    yield Case("word_exif_in_comment.jpg", b"\xff\xd8" + words + jfif + rest)
    turned = tiff(">", [entry(">", 0x112, 3, 6)])
    far = tiff("<", [entry("<", 0x10F, 2, 9999, count=20), entry("<", 0x112, 3, 6)])
    long = tiff("<", [entry("<", 0x10F, 2, 9999, count=20_000), entry("<", 0x112, 3, 6)])
    pieces = {
        "twice": b"Exif\0\0" + turned, "cut_in_the_entry": turned[:-8], "cut_behind_the_entry": turned[:-4],
        "cut_in_the_head": turned[:6], "empty": b"", "behind_a_value_beyond_the_end": far,
        "behind_a_value_longer_than_all": long,
    }  # fmt: skip
    for name, data in pieces.items():
        yield Case(f"exif_{name}.jpg", b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + data) + rest)
    halves = segment(0xE1, b"Exif\0\0" + turned[:9]) + segment(0xE1, b"Exif\0\0" + turned[9:])
    yield Case("exif_in_two_segments.jpg", b"\xff\xd8" + halves + rest)
    yield Case("xmp.jpg", b"\xff\xd8" + xmp(6) + rest)
    yield Case("xmp_and_exif.jpg", b"\xff\xd8" + xmp(6) + exif("<", 3) + rest)
    yield Case("xmp_and_wrong_exif.jpg", b"\xff\xd8" + xmp(6) + exif("<", 77) + rest)
    cmyk = encoded("JPEG", picture().convert("CMYK"), quality=92)
    yield Case("cmyk_turned.jpg", cmyk[:2] + exif("<", 6) + cmyk[2:])
    progressive = encoded("JPEG", quality=92, progressive=True)
    yield Case("progressive_turned.jpg", progressive[:2] + icc + exif(">", 8) + progressive[2:])
    broken = segment(0xE2, b"MPF\0" + bytes(3)) + segment(0xED, b"Photoshop 3.0\x008BIM\xff")
    yield Case("broken_metadata.jpg", b"\xff\xd8" + broken + rest)
    yield Case("cut.jpg", (jfif + rest)[:400].join([b"\xff\xd8", b""]), "damaged or unusual JPEG", graph=False)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(side: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))


def pngs() -> Iterator[Case]:
    signature, plain = b"\x89PNG\r\n\x1a\n", encoded("PNG")
    at, end = 8 + 25, -12  # Behind IHDR, and before IEND.

    def with_chunk(data: bytes) -> bytes:
        return plain[:at] + data + plain[at:]

    turned = tiff(">", [entry(">", 0x112, 3, 6)])
    yield Case("plain.png", plain)
    yield Case("exif_6.png", with_chunk(chunk(b"eXIf", turned)))
    yield Case("exif_with_prefix.png", with_chunk(chunk(b"eXIf", b"Exif\0\0" + turned)))
    yield Case("exif_behind_the_pixels.png", plain[:end] + chunk(b"eXIf", turned) + plain[end:])
    yield Case("exif_broken.png", with_chunk(chunk(b"eXIf", turned[:12])))
    text = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="8"/>'
    yield Case("xmp_8.png", with_chunk(chunk(b"iTXt", text)))
    large = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"a" * 2_000_000))
    yield Case("large_text.png", with_chunk(large), drawn=True)
    yield Case("wrong_checksum_of_text.png", with_chunk(chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0"), drawn=True)
    yield Case("truncated_chunk.png", with_chunk(chunk(b"pHYs", b"\0\0")), drawn=True)
    yield Case("without_end.png", plain[:end], graph=False)
    rows = zlib.compress((b"\0" + bytes(20_000 // 8)) * 20_000, 9)
    huge = signature + png_header(20_000) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    limit = "received 400000000 in a PNG"
    yield Case("huge.png", huge, limit, graph=False)
    yield Case("huge_hidden.png", signature + chunk(b"prVt", bytes(40)) + huge[8:], limit, graph=False)
    yield Case("hidden.png", signature + chunk(b"prVt", bytes(40)) + plain[8:], graph=False)
    frames = [picture(), picture().transpose(Image.Transpose.ROTATE_180)]
    yield Case("animated.png", encoded("PNG", frames[0], save_all=True, append_images=frames[1:]))
    yield Case("alpha.png", encoded("PNG", _transparent()))
    yield Case("cut.png", plain[:120], "damaged or unusual PNG", graph=False)


def _transparent() -> Image.Image:
    alpha = picture().convert("RGBA")
    alpha.putalpha(128)
    return alpha


def gifs() -> Iterator[Case]:
    buffer = encoded("GIF", Image.fromarray(np.zeros((12_000, 12_000), np.uint8), "P"))
    small_screen = b"GIF89a" + struct.pack("<HH", 16, 16) + b"\x80\0\0" + bytes(6) + buffer[buffer.index(b"\x2c", 13) :]
    yield Case("huge_frame_small_screen.gif", small_screen, "received 144000000 in a GIF", graph=False)
    yield Case("huge_screen.gif", _screen(encoded("GIF"), 40_000, 40_000), "received 1600000000 in a GIF", graph=False)
    frames = [picture(300, 300).convert("P") for _ in range(40)]
    for number, frame in enumerate(frames):
        frame.putpixel((number, 0), 1)
    yield Case("many_frames.gif", encoded("GIF", frames[0], save_all=True, append_images=frames[1:]))
    yield Case("plain.gif", encoded("GIF"))
    yield Case("interlaced.gif", encoded("GIF", interlace=1))
    yield Case("comment.gif", encoded("GIF", comment=b"Exif\0\0" * 100))
    yield Case("frame_smaller_than_screen.gif", _screen(encoded("GIF"), 64, 40), graph=False)
    yield Case("frame_larger_than_screen.gif", _screen(encoded("GIF"), 24, 16), graph=False)
    palette = picture().convert("P")
    yield Case("transparent.gif", encoded("GIF", palette, transparency=palette.getpixel((5, 5))), graph=False)
    yield Case("cut.gif", encoded("GIF")[:900], "damaged or unusual GIF", graph=False)


def _screen(content: bytes, width: int, height: int) -> bytes:
    return content[:6] + struct.pack("<HH", width, height) + content[10:]


def webps() -> Iterator[Case]:
    tags = Image.Exif()
    tags[0x112] = 6
    yield Case("exif_6.webp", encoded("WEBP", lossless=True, exif=tags.tobytes()))
    yield Case("exif_6_lossy.webp", encoded("WEBP", quality=95, exif=tags.tobytes()))
    yield Case("plain_lossy.webp", encoded("WEBP", quality=95))
    yield Case("xmp_3.webp", encoded("WEBP", lossless=True, xmp=b"<tiff:Orientation>3</tiff:Orientation>"))
    yield Case("alpha.webp", encoded("WEBP", _transparent(), lossless=True, exif=tags.tobytes()), graph=False)
    yield Case("alpha_alone.webp", encoded("WEBP", _transparent(), lossless=True), graph=False)
    frames = [picture(), picture().transpose(Image.Transpose.ROTATE_180)]
    moving = encoded("WEBP", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    yield Case("animated.webp", moving, graph=False)


def bmps() -> Iterator[Case]:
    pixels = np.asarray(picture())[::-1].astype(np.uint32)

    def masked(*shifts: int) -> bytes:
        data = sum(pixels[..., channel] << shift for channel, shift in enumerate(shifts)).astype("<u4").tobytes()
        masks = [0xFF << shift for shift in shifts]
        head = struct.pack("<IiiHHIIiiII", 56, 48, 32, 1, 32, 3, len(data), 2835, 2835, 0, 0)
        return b"BM" + struct.pack("<IHHI", 70 + len(data), 0, 0, 70) + head + struct.pack("<IIII", *masks, 0) + data

    plain = encoded("BMP")
    top_down = plain[:22] + struct.pack("<i", -32) + plain[26:54] + np.asarray(picture())[..., ::-1].tobytes()
    yield Case("plain.bmp", plain)
    yield Case("top_down.bmp", top_down)
    yield Case("alpha.bmp", encoded("BMP", _transparent()))
    yield Case("palette.bmp", encoded("BMP", picture().convert("P")), graph=False)
    yield Case("one_bit.bmp", encoded("BMP", picture().convert("1")), graph=False)
    yield Case("usual_masks.bmp", masked(16, 8, 0))
    yield Case("bit_masks.bmp", masked(8, 16, 24), graph=False, drawn=True)
    os2 = b"BM" + struct.pack("<IHHI", 26 + len(plain) - 54, 0, 0, 26) + struct.pack("<IHHHH", 12, 48, 32, 1, 24)
    yield Case("os2.bmp", os2 + plain[54:], graph=False)


_LOSSLESS_HEIC = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}


def others() -> Iterator[Case]:
    pillow_heif.register_heif_opener()  # To write them.
    tags = Image.Exif()
    tags[0x112] = 8
    for name, form, options in (
        ("plain.tiff", "TIFF", {}),
        ("turned.tiff", "TIFF", {"exif": tags}),
        ("lzw.tiff", "TIFF", {"compression": "tiff_lzw"}),
        ("plain.ppm", "PPM", {}),
        ("plain.jp2", "JPEG2000", {}),
        ("plain.avif", "AVIF", {}),
        ("turned.avif", "AVIF", {"exif": tags}),
        ("plain.heic", "HEIF", _LOSSLESS_HEIC),
        ("turned.heic", "HEIF", {"exif": tags, **_LOSSLESS_HEIC}),
    ):
        yield Case(name, encoded(form, **options), graph=False)
    yield Case("alpha.tiff", encoded("TIFF", _transparent()), graph=False)
    yield Case("large.tiff", _large_tiff(), "received 400000000 in a TIFF", graph=False)
    box = b"\0\0\0\x0cJXL \r\n\x87\n"
    yield Case("container.jxl", box + bytes(100), "JPEG XL cannot be read; save the image as PNG", graph=False)
    yield Case("bare.jxl", b"\xff\x0a" + bytes(100), "JPEG XL cannot be read; save the image as PNG", graph=False)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    yield Case("cut.heic", heic, "damaged or unusual HEIC", graph=False)
    yield Case("layers.psd", b"8BPS" + bytes(100), "PSD cannot be read; save the image as PNG", graph=False)
    yield Case("empty.jpg", b"", "the file is empty", graph=False)
    yield Case("text.jpg", b"no image\n" * 20, "Unknown image file format; expected JPEG, PNG, WebP", graph=False)


def _large_tiff() -> bytes:
    """Return a TIFF of one strip that announces 20,000 x 20,000 pixels."""
    fields = [(256, 4, 20_000), (257, 4, 20_000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
              (278, 4, 20_000), (279, 4, 400_000_000)]  # fmt: skip
    return tiff("<", [entry("<", tag, kind, value) for tag, kind, value in fields])


@functools.cache
def cases() -> tuple[Case, ...]:
    """Return all cases."""
    return tuple(case for make in (jpegs, pngs, gifs, webps, bmps, others) for case in make())
