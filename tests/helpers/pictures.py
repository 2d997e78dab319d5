"""Single pictures in any format."""

import io

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 37, 51


def smooth(height=HEIGHT, width=WIDTH, channels=3):
    """Return a gradient with some texture, so that JPEG and resizing are close to lossless."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [127 + 90 * np.sin(x / (7 + channel) + channel) * np.cos(y / (9 + channel)) for channel in range(channels)]
    return np.stack(waves, axis=-1).clip(0, 255).astype(np.uint8)


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format=format, **options)
    return buffer.getvalue()
