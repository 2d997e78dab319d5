"""The start of a job, up to the end of its first step, against a bare script's: import, build, one compiled step."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent

# What anyone would write: no files, no resume, no validation.
BARE = """
import sys
import keras
import numpy as np
sys.path.insert(0, {scripts!r})
from benchmark_notebook import notebook_model
keras.config.set_dtype_policy({precision!r})
model = notebook_model({size})
images = np.random.default_rng(0).random(({batch}, {size}, {size}, 3), np.float32)
model.train_on_batch(images, np.eye(2, dtype=np.float32)[np.arange({batch}) % 2])
print("start: done", flush=True)
"""


def start_ways(
    folder: Path, data: Path, image_size: int, batch_size: int, precision: str
) -> dict[str, Callable[[], object]]:
    """Return the bare script, and the job in a new folder and from a checkpoint of one step."""
    bare = BARE.format(scripts=str(SCRIPTS), precision=precision, size=image_size, batch=batch_size)
    job, template = folder / "job", folder / "template"
    command = [
        sys.executable, "-m", "trainer.train", f"--data_dir={data}", f"--job_dir={job}", f"--image_size={image_size}",
        f"--batch_size={batch_size}", f"--precision={precision}", "--epochs=1000", "--steps_per_epoch=1000",
        "--max_restarts_without_progress=0",
    ]  # fmt: skip
    done = subprocess.run([*command, "--max_seconds=0.001"], cwd=SCRIPTS.parent, capture_output=True, check=False)
    assert done.returncode == 75, done.stderr
    shutil.copytree(job, template)

    def start(*, resume: bool) -> None:
        shutil.rmtree(job, ignore_errors=True)
        if resume:
            shutil.copytree(template, job)
        _until_first_step(command)

    return {
        "a bare script: import, build, one compiled step": functools.partial(
            _until_first_step, [sys.executable, "-c", bare]
        ),
        "the job, new": functools.partial(start, resume=False),
        "the job, from a checkpoint": functools.partial(start, resume=True),
    }


def _until_first_step(command: Sequence[str]) -> None:
    """Run a command until it says that its first step is done, and end it."""
    with subprocess.Popen(
        command, cwd=SCRIPTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("start:"):
                process.kill()
                return
        raise AssertionError("".join(lines))
