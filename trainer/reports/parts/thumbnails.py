"""Images of a data set on pages: small pictures of files that can be read here, and links to the files.

Does not own: which images are shown, how they are shown (``templates/``, ``static/lightbox.js``).
"""

import os
import pathlib

from PIL import Image

from trainer.core.errors import StoppedEarly
from trainer.core.storage import files
from trainer.core.storage.transient import is_transient
from trainer.data import image_files
from trainer.data.formats import rescue
from trainer.data.formats.image_format import Unreadable

_LONGER_SIDE = 160  # Pixels.


def read(path: str) -> Image.Image | None:
    """Return a thumbnail; None if the file cannot be read any more, without which a page is useful too."""
    try:
        small = Image.fromarray(rescue.decode(image_files.read(path)))
        small.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    except StoppedEarly:
        raise
    except Exception as error:
        if is_transient(error):
            raise
        return None
    return small


def of(content: bytes) -> Image.Image | None:
    """Return a thumbnail of an encoded image; None if it cannot be decoded."""
    try:
        small = Image.fromarray(rescue.decode(content))
    except Unreadable:
        return None
    small.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    return small


def link(path: str) -> str:
    """Return the address of a plain local file; empty for any other one, which a browser cannot open."""
    if not path or files.is_remote(path) or not os.path.isfile(path):
        return ""
    return pathlib.Path(os.path.abspath(path)).as_uri()  # Encodes whatever would end the address or the attribute.
