"""The camera: optics, exposure, sensor noise and JPEG, the same for genuine and forged pictures."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from trainer.commands.demo.faces.canvas import Colour, Image, blur, colour, noise_field

JPEG_QUALITIES = (78, 96)
"""Lowest and highest JPEG quality, drawn alike for both classes."""


@dataclass(frozen=True)
class Camera:
    """One camera and its settings.

    `blur` is the lens's Gaussian blur in pixels, `gain` the exposure and white balance of each channel. The
    noise's variance is `read_noise**2 + shot_noise * value`, the Poisson-Gaussian sensor model (Foi et al.
    2008, IEEE TIP 17:1737).
    """

    blur: float
    gain: Colour
    read_noise: float
    shot_noise: float
    jpeg_quality: int


def draw_camera(rng: np.random.Generator, size: int) -> Camera:
    """Draw a camera for a picture of `size` pixels."""
    warmth, exposure = rng.normal(0, 0.03), rng.uniform(0.85, 1.08)
    return Camera(
        blur=rng.uniform(0.3, 0.9) * size / 256,
        gain=colour(exposure * (1 + warmth), exposure, exposure * (1 - warmth)),
        read_noise=rng.uniform(0.003, 0.012),
        shot_noise=rng.uniform(0.00002, 0.0003),
        jpeg_quality=int(rng.integers(JPEG_QUALITIES[0], JPEG_QUALITIES[1] + 1)),
    )


def expose(scene: Image, camera: Camera) -> Image:
    """Blur and expose a painted scene, which is what a forger then has at hand."""
    planes = [np.clip(blur(plane, camera.blur) * gain, 0, 1) for plane, gain in zip(scene, camera.gain, strict=True)]
    return np.stack(planes)


def record(image: Image, camera: Camera, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Add sensor noise and quantise to `[H, W, 3]` uint8 RGB in [0, 255].

    Noise comes after any forgery, so that smoothing or sharpening a region does not show in the noise, and
    hardly in the file's size.
    """
    planes = []
    for plane in image:
        deviation = np.sqrt(camera.read_noise**2 + camera.shot_noise * plane)
        noisy = plane + deviation * noise_field(rng, plane.shape[0], 0.0)
        planes.append(np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8))
    return np.asarray(cv2.merge(planes), dtype=np.uint8)


def encode_jpeg(image: npt.NDArray[np.uint8], quality: int) -> bytes:
    """Compress `[H, W, 3]` uint8 RGB once, without metadata."""
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"expected an 8-bit RGB image, received {image.shape} {image.dtype}")
    return data.tobytes()
