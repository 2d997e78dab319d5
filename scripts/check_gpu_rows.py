"""The rows of scripts/check_gpu.py: which commands it runs, and how large they are."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

TRAIN, EVALUATE = "trainer.train", "trainer.evaluate"
EXACT = "exact1"  # The row whose weights others must have.
KILLED = "killed"


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much work a row is.

    Attributes:
        images: of each class in Train.
        image_size: that training sees, pixels.
        batch_size: images of a step.
        steps: of an epoch; there are two.
        short: the same where the speed does not matter.
        between_saves: steps between the checkpoints of the job that is killed.
    """

    images: int
    image_size: int
    batch_size: int
    steps: int
    short: int
    between_saves: int


FULL = Scale(1500, 224, 256, 150, 60, 10)
FAST = Scale(40, 64, 16, 4, 8, 1)


@dataclasses.dataclass(frozen=True)
class Row:
    """One start of a command.

    Attributes:
        name: of the row, and of the job's folder.
        flags: of the command.
        module: of the command.
        environment: variables of the command's own.
        equal: whether the weights must be those of ``EXACT``.
        timed: whether its speed matters, or it needs all of the card: it runs alone, after those that do not.
        slow: whether ``FAST`` leaves it out: other tests train so on a CPU, or XLA would compile for a minute.
    """

    name: str
    flags: tuple[str, ...] = ()
    module: str = TRAIN
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    equal: bool = False
    timed: bool = False
    slow: bool = False


def rows(scale: Scale, out: Path, fast: bool) -> Iterator[Row]:
    """Yield all rows in their order; what fails most likely comes first."""
    cached = "--cache=memory"
    exact = ("--deterministic", "--precision=float32", cached, f"--steps_per_epoch={scale.short}")
    # On a CPU, two devices have the weights of one; on a machine with GPUs, 0 is all of them.
    mirrored = ("--strategy=mirrored", f"--num_devices={2 if fast else 0}")
    divided = {"DEEPDETECT_LOGICAL_GPUS": "2"}
    yield Row("self-test", ("--selftest",), timed=True)  # It fills the card.
    yield Row(EXACT, exact)
    yield Row("exact2", exact, equal=True, slow=True)
    yield Row(KILLED, (*exact, f"--checkpoint_every_steps={scale.between_saves}"), equal=True)
    yield Row("mirrored-exact", (*exact, *mirrored), equal=fast)
    yield Row("mirrored-xla", ("--precision=mixed_float16", cached, "--xla", *mirrored), slow=True)
    yield Row("cnn_bn", ("--model=cnn_bn", cached), slow=True)
    yield Row("exported", (cached, "--export=best", "--threshold_by=accuracy"))
    yield Row("files", timed=True, slow=True)
    yield Row("bfloat16", ("--precision=mixed_bfloat16", cached), timed=True, slow=True)
    yield Row("noxla", ("--precision=mixed_bfloat16", cached, "--noxla"), timed=True, slow=True)
    yield Row("divided", (*exact, "--strategy=mirrored", "--num_devices=2"), environment=divided, timed=True, slow=True)
    yield Row("float16", ("--precision=mixed_float16", cached), timed=True, slow=True)
    yield Row("mirrored", ("--precision=mixed_float16", cached, *mirrored), timed=True, slow=True)
    yield Row("float32", ("--precision=float32", cached), timed=True, slow=True)
    score = (f"--model_dir={out / 'jobs' / 'exported' / 'export' / 'best'}", f"--data_dir={out / 'data'}")
    yield Row("evaluate", (*score, "--split=Test", f"--out={out / 'evaluation'}"), EVALUATE, timed=True)
