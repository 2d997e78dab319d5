"""Whole jobs, for ``benchmark.py gpu`` and ``job``: ours by its public command, and the notebook's own.

Each is a process of its own.  Its rate is that of the second of two epochs: the median of the log's windows.  So the
start, compilation and the filling of the cache do not count.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import benchmark_ways as ways
from benchmark_notebook import notebook_generator, notebook_model
from benchmark_ways import Sizes, Way
from benchmark_worker import Measured

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK_STEPS = 6  # Of an epoch of the notebook's job, whose generator would take minutes for more.


def draw(folder: Path, sizes: Sizes) -> None:
    """Draw faces as JPEG files of 256 pixels, or smaller ones if training sees much less."""
    held_out = max(4, sizes.train_images // 10)
    side = 256 if sizes.image_size > 64 else 64
    words = [
        f"--out={folder}", f"--train_per_class={sizes.train_images}", f"--validation_per_class={held_out}",
        "--test_per_class=1", f"--size={side}",
    ]  # fmt: skip
    command = [sys.executable, str(ROOT / "scripts" / "make_demo_data.py"), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(way: Way, sizes: Sizes, data: Path, job: Path, limit_seconds: float) -> Measured:
    """Run one job; an error if it fails, or takes longer."""
    notebook = way.kind == ways.NOTEBOOK
    command = _notebook_command(data, sizes) if notebook else _command(way, sizes, data, job)
    log, began = Path(f"{job}.log"), time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=ways.environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Measured(error=f"no end within {limit_seconds:.0f} s; see {log}")
    if code:
        return Measured(error=f"exit code {code}: {_last_line(log)}; see {log}")
    seconds = time.monotonic() - began
    return Measured(**json.loads(_last_line(log))) if notebook else _figures(job, log, seconds)


def _command(way: Way, sizes: Sizes, data: Path, job: Path) -> list[str]:
    cache = "memory" if way.source == ways.MEMORY else "none"
    return [
        sys.executable, "-m", "trainer.train", f"--data_dir={data}", f"--job_dir={job}", "--epochs=2",
        f"--image_size={sizes.image_size}", f"--batch_size={sizes.batch_size}", f"--steps_per_epoch={sizes.steps}",
        f"--precision={way.precision}", f"--cache={cache}", "--xla" if way.xla else "--noxla", "--export=none",
        "--threshold_by=none", "--lr_schedule=constant", "--learning_rate=3e-4",
    ]  # fmt: skip


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or [""])[-1]


def _figures(job: Path, log: Path, seconds: float) -> Measured:
    """Return the rate of the last epoch, and the whole time of the command."""
    lines = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    rates = [line["images_per_second"] for line in train if line["epoch"] == train[-1]["epoch"]]
    waits = re.findall(r"data wait (\d+%)", log.read_text(errors="replace"))
    note = f"data wait {waits[-1]}" if waits else ""
    return Measured(statistics.median(rates), seconds, note=note)


def _notebook_command(data: Path, sizes: Sizes) -> list[str]:
    request = {"data": str(data), "size": sizes.image_size, "batch": sizes.batch_size,
               "steps": min(sizes.steps, NOTEBOOK_STEPS)}  # fmt: skip
    return [sys.executable, __file__, json.dumps(request)]


def notebook_rate(data: str, size: int, batch: int, steps: int) -> Measured:
    """Train two short epochs as the notebook does; return the rate of the second."""
    import keras

    began = time.perf_counter()
    flow = notebook_generator().flow_from_directory(f"{data}/Train", target_size=(size, size), batch_size=batch, seed=0)
    model = notebook_model(size)
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    model.fit(flow, epochs=2, steps_per_epoch=steps, verbose=0, callbacks=[clock])
    return Measured(steps * batch / (ends[1] - ends[0]), ends[1] - began)


if __name__ == "__main__":
    measured = notebook_rate(**json.loads(sys.argv[1]))
    print(json.dumps({"rate": measured.rate, "first_seconds": measured.first_seconds}))
