"""``python -m trainer.train --selftest``: check whether this machine or container can run a training job.

Prints one line for each check: ok, warn with what to look at, or FAILED with what to do.  Takes about fifteen seconds,
mostly to load TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Sequence

from trainer.core import progress
from trainer.core.config import PATH, flags, setting
from trainer.core.errors import EXIT_DONE, EXIT_FAILED, RequestError
from trainer.distributed import gpu_promise
from trainer.training.selftest import libraries, machine
from trainer.training.selftest.outcome import Doubtful, Failed

USAGE = """\
Check GPUs, driver, CUDA, cuDNN, NCCL, arithmetic, speed, memory, the bucket and write access for a training job.

  python -m trainer.train --selftest [--expect_gpus=N] [--data_dir=D] [--job_dir=J]
  python -m trainer.train --selftest --cluster_seconds=300    # in each of several processes

Exit codes: 0 no check failed; 1 a check FAILED; 2 the request is wrong."""


@dataclasses.dataclass(frozen=True)
class SelfTestFlags:
    """Settings of the self-test."""

    expect_gpus: int = setting(
        -1,
        "Number of GPUs to expect; -1: DEEPDETECT_GPUS, else as many as CUDA_VISIBLE_DEVICES names, else as many as "
        "there are visible NVIDIA devices.",
        minimum=-1,
    )
    data_dir: str = setting("", "Folder or gs:// path that must be readable; empty: not checked.", path=PATH)
    job_dir: str = setting("", "Folder or gs:// path that must be writable; empty: not checked.", path=PATH)
    cluster_seconds: float = setting(
        0.0,
        "Instead of the devices, check that the processes which the environment describes (as for training) resolve "
        "each other's names, meet within this time, and add up over all devices; 0: check the devices.",
        unit="seconds",
        minimum=0.0,
    )


def main(argv: Sequence[str]) -> int:
    """Print a line for each check and return the exit code."""
    own = flags.parse_request(argv, SelfTestFlags, usage=USAGE)
    storages = {
        "data_dir": lambda: machine.data_dir(own.data_dir),
        "job_dir": lambda: machine.job_dir(own.job_dir),
    }
    if own.cluster_seconds:
        return _meet(own.cluster_seconds, storages)
    expected = gpu_promise.expected() if own.expect_gpus < 0 else own.expect_gpus
    checks: dict[str, Callable[[], str]] = {
        "driver": libraries.driver,
        "tensorflow": libraries.tensorflow,
        "GPUs": lambda: _gpus(expected),
        "CUDA": libraries.cuda,
        "cuDNN": libraries.cudnn,
        "convolution": _convolution,
        "all-reduce": _all_reduce,
        "speed": _speed,
        "GPU memory": _gpu_memory,
        "memory": machine.memory,
        "/dev/shm": machine.shared_memory,
        "scratch": machine.scratch,
    }
    return _report_all({**checks, **storages})


def _meet(seconds: float, storages: dict[str, Callable[[], str]]) -> int:
    """Check storage, then the other processes."""
    from trainer.training.selftest import machines  # Late: the devices' checks do not need it.

    with machines.checks(seconds) as checks:
        return _report_all({**storages, **checks})


def _report_all(checks: dict[str, Callable[[], str]]) -> int:
    """Print a line for each check, even after a failure; return the exit code."""
    outcomes = [_report(name, check) for name, check in checks.items()]
    return EXIT_DONE if all(outcomes) else EXIT_FAILED


def _report(name: str, check: Callable[[], str]) -> bool:
    """Print the line of a check; return whether training is possible."""
    try:
        word, text = "ok", check()
    except Doubtful as doubt:
        word, text = "warn", str(doubt)
    except Exception as error:  # Whatever breaks here would have broken the training.
        kind = "" if isinstance(error, (Failed, RequestError)) else f"{type(error).__name__}: "
        word, text = "FAILED", kind + " ".join(str(error).split())
    progress.say(f"{word:<7} {name:<12} {text}")
    return word != "FAILED"


# These modules load TensorFlow: one that cannot be loaded is a finding.


def _gpus(expected: int) -> str:
    from trainer.training.selftest import devices

    return devices.gpus(expected)


def _convolution() -> str:
    from trainer.training.selftest import arithmetic

    return arithmetic.convolution()


def _all_reduce() -> str:
    from trainer.training.selftest import collective

    return collective.all_reduce()


def _speed() -> str:
    from trainer.training.selftest import speed

    return speed.of_devices()


def _gpu_memory() -> str:
    from trainer.training.selftest import devices

    return devices.memory()
