"""Images on pages: small pictures of whatever can be read here.

Does not own: which images are shown, how they are shown (``templates/``, ``static/lightbox.js``), links to their files
(``gallery_items.py``).
"""

from PIL import Image

from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.core.errors import AccessDenied
from trainer.core.storage.transient import is_transient
from trainer.data import image_files
from trainer.data.formats import rescue
from trainer.data.formats.image_format import Unreadable
from trainer.data.pixels import Pixels

UNREADABLE = (OSError, AccessDenied, Unreadable)
_LONGER_SIDE = 192  # Pixels.


def read(path: str, max_pixels: int = MAX_IMAGE_PIXELS) -> Pixels | None:
    """Return an image at its own size; None if the file cannot be read any more, without which a page is useful too."""
    try:
        return rescue.decode(image_files.read(path), max_pixels)
    except UNREADABLE as error:
        if is_transient(error):
            raise
        return None


def of(content: bytes) -> Image.Image | None:
    """Return a thumbnail of an encoded image; None if it cannot be decoded."""
    try:
        return small(rescue.decode(content))
    except Unreadable:
        return None


def small(image: Pixels | Image.Image) -> Image.Image:
    """Return a thumbnail of an image."""
    picture = image.copy() if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    return picture
