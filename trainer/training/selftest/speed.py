"""How fast each device copies memory and multiplies matrices, against the data sheet of its card.

Only rates: ``arithmetic.py`` looks at the results.  Healthy cards reach 60 to 90% of their data sheets (an H200: 72% in
bfloat16); one below a half is hot, throttled, shared, or in a bad slot.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from trainer.distributed import accelerators, shared_card
from trainer.training.selftest import devices
from trainer.training.selftest.outcome import Doubtful

LEAST_SHARE = 0.5  # Of the data sheet.
_LEAST_CALLS, _LEAST_SECONDS = 5, 0.1  # Of a measurement.
# Elements of the copied vector (float32; beyond every cache), and rows of the square matrices.
_VECTOR_GPU, _VECTOR_CPU = 2**27, 2**22
_MATRIX_GPU, _MATRIX_CPU = 8192, 512
_BFLOAT16_SINCE = (8, 0)  # Compute capability.


@dataclasses.dataclass(frozen=True)
class Rate:
    """One measured rate.

    Attributes:
        name: of what was done.
        value: in the unit.
        unit: of the value.
        peak: the data sheet's; 0: unknown.
    """

    name: str
    value: float
    unit: str
    peak: float = 0.0

    @property
    def is_low(self) -> bool:
        """Whether something is wrong."""
        return self.value < LEAST_SHARE * self.peak

    def __str__(self) -> str:
        """Return it for people."""
        share = f" ({self.value / self.peak:.0%} of the data sheet)" if self.peak else ""
        number = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.3g}"
        return f"{self.name} {number} {self.unit}{share}"


def of_devices() -> str:
    """Measure each device.

    Raises:
        Doubtful: if one is much slower than its data sheet.
    """
    measured = {device: list(_rates(device)) for device in devices.names()}
    return report({f"{devices.short(device)} {devices.card(device)}".strip(): measured[device] for device in measured})


def report(measured: dict[str, list[Rate]]) -> str:
    """Return all rates by device.

    Raises:
        Doubtful: with the same text, if one is low.
    """
    text = "; ".join(f"{name}: {', '.join(map(str, rates))}" for name, rates in measured.items())
    slow = [name for name, rates in measured.items() if any(rate.is_low for rate in rates)]
    if slow:
        raise Doubtful(
            f"{text}; {', '.join(slow)} below {LEAST_SHARE:.0%}: look for other processes, and with nvidia-smi -q -d "
            "PERFORMANCE for limits of power and temperature"
        )
    return text


def _rates(device: str) -> Iterator[Rate]:
    name = devices.card(device)
    # A slice of a card (MIG) or one of several logical devices has no data sheet.
    whole = "MIG" not in name and shared_card.logical_gpus() == 1
    card = accelerators.find(name) if whole else None
    on_gpu = devices.are_gpus()
    rows = _MATRIX_GPU if on_gpu else _MATRIX_CPU
    has_bfloat16 = not on_gpu or _has_bfloat16()
    half = tf.bfloat16 if has_bfloat16 else tf.float16
    with tf.device(device):
        copied = _copied_bytes_per_second(_VECTOR_GPU if on_gpu else _VECTOR_CPU)
        yield Rate("copies", copied / 1e9, "GB/s", card.memory_gb_per_s if card else 0.0)
        yield Rate(half.name, _products_per_second(rows, half) / 1e12, "TFLOP/s", card.half_tflops if card else 0.0)
        tf32 = on_gpu and has_bfloat16  # Both came with the same cards.
        peak = card.tf32_tflops if card else 0.0
        yield Rate("TF32" if tf32 else "float32", _products_per_second(rows, tf.float32) / 1e12, "TFLOP/s", peak)


def _has_bfloat16() -> bool:
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return all(each.get("compute_capability", (0, 0)) >= _BFLOAT16_SINCE for each in details)


def _copied_bytes_per_second(length: int) -> float:
    """Return the bytes read and written a second by adding 1 to a vector."""
    vector = tf.ones([length])
    return 2 * 4 * length / _seconds(lambda: vector + 1.0)


def _products_per_second(rows: int, dtype: tf.DType) -> float:
    """Return the operations a second of a product of square matrices."""
    matrix = tf.cast(tf.fill([rows, rows], 1.0 / rows), dtype)
    return 2 * rows**3 / _seconds(lambda: tf.matmul(matrix, matrix))


def _seconds(work: Callable[[], tf.Tensor]) -> float:
    """Return the seconds of one call.

    The first calls, which choose an algorithm and get memory from the driver, do not count.  The others take so long
    together that the start of them and the wait for the last one do not matter: a copy on an H200 takes 0.3 ms.
    """
    _passed(work, _LEAST_CALLS)
    calls = _LEAST_CALLS
    while (seconds := _passed(work, calls)) < _LEAST_SECONDS:
        calls *= 2
    return seconds / calls


def _passed(work: Callable[[], tf.Tensor], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):  # A device works through them in order.
        result = work()
    _wait_for(result)
    return time.perf_counter() - started


def _wait_for(result: tf.Tensor) -> None:
    _ = tf.reshape(result, [-1])[-1].numpy()
