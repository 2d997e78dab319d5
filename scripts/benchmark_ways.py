"""The ways that ``benchmark.py gpu`` compares, by name; imports neither TensorFlow nor PyTorch.

Owns: which ways there are.  Does not own: how they compute (``benchmark_worker.py``, ``benchmark_torch.py``) or which
job they are (``benchmark_job.py``).
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

FLOAT32, FLOAT16, BFLOAT16 = "float32", "mixed_float16", "mixed_bfloat16"
TENSORFLOW, TORCH, JOB = "tensorflow", "torch", "job"  # Who runs a way.
PRODUCT, COPY, STEP, TRAIN_ON_BATCH, FIT, MODULE, TRAIN, NOTEBOOK = (
    "product", "copy", "step", "train_on_batch", "fit", "module", "train", "notebook",
)  # fmt: skip
LIMITS = (PRODUCT, COPY)
FILES, MEMORY = "files", "memory"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        image_size: side that training sees, pixels.
        batch_size: images of a step.
        product: side of the square matrices of the bare product.
        copy_bytes: of the bare copy.
        seconds: of a measurement.
        train_images: of a job, in each class.
        steps: of an epoch of a job; there are two.
        fit_steps: of a call of ``fit``.
    """

    image_size: int
    batch_size: int
    product: int
    copy_bytes: int
    seconds: float
    train_images: int
    steps: int
    fit_steps: int = 20


ON_GPU = Sizes(224, 256, 8192, 2**30, 3.0, 1500, 150)
ON_CPU = Sizes(128, 32, 2048, 2**28, 2.0, 300, 15)
FAST = Sizes(48, 8, 256, 2**22, 0.05, 12, 3, fit_steps=3)


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to spend time.

    Attributes:
        kind: product, copy, step, train_on_batch, fit, module (of PyTorch), train (our command), notebook (its job).
        precision: Keras's name of it.
        xla: whether it is compiled as a whole: by XLA, or by ``torch.compile``.
        source: of a job's images: files or memory.
        augment: of our step.
    """

    kind: str
    precision: str = ""
    xla: bool = False
    source: str = ""
    augment: str = "none"

    @property
    def runner(self) -> str:
        """Return whose process it is."""
        return {MODULE: TORCH, TRAIN: JOB, NOTEBOOK: JOB}.get(self.kind, TENSORFLOW)

    @property
    def name(self) -> str:
        """Return the name in tables, which ``--ways`` is compared with."""
        dtype = self.precision.removeprefix("mixed_")
        if self.kind == MODULE:
            return f"PyTorch, {dtype}, channels_last, {'torch.compile' if self.xla else 'eager'}"
        keras = f"{dtype}, jit_compile {'on' if self.xla else 'off'}"
        xla = ", XLA" if self.xla else ""
        return {
            PRODUCT: f"bare matrix product, {dtype}",
            COPY: "bare copy",
            STEP: f"our step, {dtype}{xla}" + ("" if self.augment == "none" else f", augment {self.augment}"),
            TRAIN_ON_BATCH: f"Keras train_on_batch, {keras}",
            FIT: f"Keras fit, {keras}",
            TRAIN: f"our job from {self.source}, {dtype}{xla}",
            NOTEBOOK: f"the notebook's job, {dtype}",
        }[self.kind]


def limits(precisions: Sequence[str]) -> Iterator[Way]:
    """Yield what the machine reaches in each precision."""
    yield from (Way(PRODUCT, precision) for precision in precisions)
    yield Way(COPY)


def steps(precisions: Sequence[str]) -> Iterator[Way]:
    """Yield train steps of one batch that is on the device: ours, PyTorch's, Keras's."""
    for precision in precisions:
        yield from (Way(STEP, precision, xla) for xla in (False, True))
    yield from (Way(STEP, precisions[0], xla, augment="notebook") for xla in (False, True))
    yield from (Way(MODULE, BFLOAT16, compiled) for compiled in (False, True))
    for kind in (TRAIN_ON_BATCH, FIT):
        for precision in dict.fromkeys((precisions[0], FLOAT32)):
            yield from (Way(kind, precision, xla) for xla in (False, True))


def jobs(precisions: Sequence[str], gpu: bool) -> Iterator[Way]:
    """Yield whole jobs: ours from files, ours from the memory cache, the notebook's own.

    On a CPU none has XLA, which takes minutes there; the steps show how slow it is.
    """
    compiled = (False, True) if gpu else (False,)
    yield from (Way(TRAIN, precisions[0], xla, FILES) for xla in compiled)
    for precision in precisions:
        yield from (Way(TRAIN, precision, xla, MEMORY) for xla in compiled)
    yield Way(NOTEBOOK, FLOAT32)


def precisions_of(gpu: bool, has_bfloat16: bool) -> tuple[str, ...]:
    """Return the precisions that are worth measuring, the fastest first; float16 on a CPU is not."""
    halves = [*([BFLOAT16] if has_bfloat16 else []), *([FLOAT16] if gpu else [])]
    return (*halves, FLOAT32)


def chosen(ways: Iterable[Way], parts: Sequence[str]) -> list[Way]:
    """Return the ways that one of the parts names, or whose names contain one that is no whole name; of none, all."""
    every = list(ways)
    names = {way.name for way in every}
    return [
        way for way in every
        if not parts or any(part == way.name or (part not in names and part in way.name) for part in parts)
    ]  # fmt: skip


def environment() -> dict[str, str]:
    """Return the environment of all processes: several share one card, so none may take all its memory."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    return {**quiet, **os.environ, "PYTHONPATH": paths, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
