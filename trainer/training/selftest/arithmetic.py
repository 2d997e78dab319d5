"""Whether each device computes a convolution and its gradient correctly, in every format that training uses.

The numbers are random integers divided by 2^12, whose exact results NumPy knows.  A format with m bits of mantissa
rounds each of two factors by a share of up to 2^-m (tensor cores truncate), and sums of n products are kept in float32,
which rounds n times.  So with S, the sum of the products' magnitudes, an error of

    4 (2 * 2^-m + n * 2^-23) S

is allowed.  The 4 is for algorithms that compute with sums of the numbers (Winograd) and for the result's own rounding.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.training.selftest import devices
from trainer.training.selftest.outcome import Failed

Array = npt.NDArray[np.float64]

_SLACK = 4.0
_SUM = 2.0**-23  # Sums are kept in float32.
_IMAGES, _SIZE, _KERNEL, _INPUTS, _OUTPUTS = 2, 18, 3, 16, 32
_LARGEST = 2**12


@dataclasses.dataclass(frozen=True)
class Format:
    """One way of computing.

    Attributes:
        name: for people.
        dtype: of the numbers.
        mantissa: bits after the leading one.
        tf32: whether tensor cores may round float32 to TF32.
    """

    name: str
    dtype: tf.DType
    mantissa: int
    tf32: bool = False

    def allowed(self, magnitude: Array, products: int) -> Array:
        """Return the largest error of sums of so many products, whose magnitudes add up to this."""
        return _SLACK * (2 * 2.0**-self.mantissa + products * _SUM) * magnitude


FORMATS = (
    Format("float32", tf.float32, 23),
    Format("TF32", tf.float32, 10, tf32=True),
    Format("bfloat16", tf.bfloat16, 7),
    Format("float16", tf.float16, 10),
)


@dataclasses.dataclass(frozen=True)
class Exact:
    """The numbers, and what is to come out; every ``magnitude`` is the same of the numbers without their signs."""

    images: Array
    kernel: Array
    upstream: Array
    output: Array
    output_magnitude: Array
    gradient: Array
    gradient_magnitude: Array


def convolution() -> str:
    """Compute on each device in each format, which needs driver, CUDA, cuDNN and memory."""
    exact = exact_results()
    worst = 0.0
    for device in devices.names():
        for form in FORMATS:
            share = error(device, form, exact)
            worst = max(worst, share)
            if not share <= 1.0:  # So that NaN fails, too.
                raise Failed(
                    f"{devices.short(device)} computes wrong results in {form.name}, off by {share:.3g} times what "
                    "rounding can do; take the node out of service"
                )
    names = ", ".join(form.name for form in FORMATS)
    count = f"{len(devices.names())} {devices.kind()}"
    return f"correct, with its gradient, in {names} on {count}; rounding used {worst:.0%} of its bound at most"


def exact_results(seed: int = 0) -> Exact:
    """Return random numbers and the exact convolution and gradient of them: float64 holds every sum."""
    draw = np.random.default_rng(seed)

    def numbers(*shape: int) -> Array:
        return draw.integers(-_LARGEST + 1, _LARGEST, shape).astype(np.float64) / _LARGEST

    side = _SIZE - _KERNEL + 1
    images = numbers(_IMAGES, _SIZE, _SIZE, _INPUTS)
    kernel = numbers(_KERNEL, _KERNEL, _INPUTS, _OUTPUTS)
    upstream = numbers(_IMAGES, side, side, _OUTPUTS)
    return Exact(
        images, kernel, upstream,
        _convolve(images, kernel), _convolve(np.abs(images), np.abs(kernel)),
        _kernel_gradient(images, upstream), _kernel_gradient(np.abs(images), np.abs(upstream)),
    )  # fmt: skip


def error(device: str, form: Format, exact: Exact) -> float:
    """Return the largest error of a device in a format, as a share of what is allowed."""
    with tf.device(device), _tf32(allowed=form.tf32):
        images, kernel, upstream = (
            tf.constant(each.astype(np.float32)) for each in (exact.images, exact.kernel, exact.upstream)
        )
        images, kernel, upstream = (tf.cast(each, form.dtype) for each in (images, kernel, upstream))
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            output = tf.nn.conv2d(images, kernel, 1, "VALID")
        gradient = tape.gradient(output, kernel, output_gradients=upstream)
        results = [tf.cast(each, tf.float32).numpy().astype(np.float64) for each in (output, gradient)]
    side = _SIZE - _KERNEL + 1
    return max(
        share(results[0], exact.output, form.allowed(exact.output_magnitude, _KERNEL**2 * _INPUTS)),
        share(results[1], exact.gradient, form.allowed(exact.gradient_magnitude, _IMAGES * side**2)),
    )


def share(result: Array, exact: Array, allowed: Array) -> float:
    """Return the largest error as a share of what is allowed there."""
    return float(np.max(np.abs(result - exact) / allowed))


@contextlib.contextmanager
def _tf32(*, allowed: bool) -> Iterator[None]:
    """Let float32 be rounded to TF32 or not, for the block."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _windows(images: Array) -> Iterator[tuple[int, int, Array]]:
    """Yield what each element of the kernel sees: row, column, and ``[positions, channels]``."""
    side = _SIZE - _KERNEL + 1
    for row in range(_KERNEL):
        for column in range(_KERNEL):
            part = images[:, row : row + side, column : column + side]
            yield row, column, part.reshape(-1, part.shape[-1])


def _convolve(images: Array, kernel: Array) -> Array:
    side = _SIZE - _KERNEL + 1
    total = sum(part @ kernel[row, column] for row, column, part in _windows(images))
    return np.reshape(total, (_IMAGES, side, side, _OUTPUTS))


def _kernel_gradient(images: Array, upstream: Array) -> Array:
    gradient = np.zeros((_KERNEL, _KERNEL, _INPUTS, _OUTPUTS))
    for row, column, part in _windows(images):
        gradient[row, column] = part.T @ upstream.reshape(-1, _OUTPUTS)
    return gradient
