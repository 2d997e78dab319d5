"""Data-sheet figures of the GPUs that people train on, for shares of a card's peak.

Imports no TensorFlow.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One kind of GPU; rates are dense, without sparsity.

    Attributes:
        name: of the card.
        pattern: of TensorFlow's ``device_name``, a regular expression.
        half_tflops: 10^12 operations a second on tensor cores in bfloat16 (T4, V100: float16).
        tf32_tflops: the same in TF32; of cards without it, in float32.
        float32_tflops: outside the tensor cores.
        memory_gb_per_s: memory bandwidth, 10^9 bytes a second.
        memory_gib: size of its memory.
    """

    name: str
    pattern: str
    half_tflops: float
    tf32_tflops: float
    float32_tflops: float
    memory_gb_per_s: float
    memory_gib: float


# NVIDIA's data sheets.  More specific patterns come first.
ACCELERATORS = (
    Accelerator("T4", r"\bT4\b", 65.0, 8.1, 8.1, 320.0, 16.0),
    Accelerator("V100", r"\bV100\b", 125.0, 15.7, 15.7, 900.0, 16.0),
    Accelerator("L4", r"\bL4\b", 121.0, 60.0, 30.3, 300.0, 24.0),
    Accelerator("A100 40 GB", r"\bA100.*40GB", 312.0, 156.0, 19.5, 1555.0, 40.0),
    Accelerator("A100 80 GB", r"\bA100", 312.0, 156.0, 19.5, 2039.0, 80.0),
    Accelerator("H100 PCIe", r"\bH100 PCIe", 756.0, 378.0, 51.0, 2000.0, 80.0),
    Accelerator("H100", r"\bH100\b", 989.0, 494.0, 67.0, 3350.0, 80.0),
    Accelerator("H200", r"\bH200\b", 989.0, 494.0, 67.0, 4800.0, 141.0),
)


def find(device_name: str) -> Accelerator | None:
    """Return the card that TensorFlow calls so (``get_device_details(...)["device_name"]``); None if unknown."""
    return next((each for each in ACCELERATORS if re.search(each.pattern, device_name)), None)
