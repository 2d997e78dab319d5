"""The command ``python -m trainer.tune``: search for good settings.

What can be refused without TensorFlow is refused before it is loaded.
"""

import dataclasses
import os
from collections.abc import Sequence

from trainer.core import cli
from trainer.core.errors import EXIT_DONE
from trainer.core.notify import job as notify_job
from trainer.core.notify import targets as notify_targets
from trainer.sweep import request as request_lib
from trainer.sweep import run as sweep_run


def main(argv: Sequence[str]) -> int:
    """Run the command on the words after the program's name; returns the exit code."""
    request = request_lib.parse(argv)
    targets = notify_targets.parse(request.base.runtime.notify)
    request = dataclasses.replace(request, base=request.base.replace(notify=""))
    role = sweep_run.role_of(os.environ)
    with notify_job.telling(() if role == "worker" else targets, request.base.loop.job_dir):
        sweep_run.run(request, role)
    return EXIT_DONE


def console() -> None:
    """Entry point of ``deepdetect-tune``."""
    cli.console(main, watched=True)


if __name__ == "__main__":
    console()
