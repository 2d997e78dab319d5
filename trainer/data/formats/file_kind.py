"""Whether a file that lies in a folder is meant as an image: by its name, else by its first bytes.

Does not own: whether it can be decoded.  Imports no TensorFlow.
"""

import os

from trainer.core.storage import files
from trainer.data import image_files
from trainer.data.formats import image_format

_FIRST_BYTES = 64


def is_image(path: str) -> bool:
    """Return whether to read a file as an image.

    One that cannot be opened counts, so that reading it says why.  Of remote files the names alone are known; those
    without an ending count, as content-addressed images have none.
    """
    if path.lower().endswith(image_format.ENDINGS):
        return True
    if files.is_remote(path):
        return "." not in path.rpartition("/")[2]
    try:
        descriptor = image_files.open_regular(path)
        try:
            return image_format.name(os.read(descriptor, _FIRST_BYTES)) in image_format.PICTURES
        finally:
            os.close(descriptor)
    except OSError:
        return True
