"""Run the job on this machine's GPU in every way that matters, by its public commands, and say what came out.

  python scripts/check_gpu.py --out=check                    about 8 minutes
  python scripts/check_gpu.py --out=check --rows=files,xla
  FAST=1 python scripts/check_gpu.py --out=check             a few steps on a CPU, to try the script itself

Rows: self-test; jobs from files and from the memory cache, in three precisions, with XLA, mirrored, on a divided card,
with batch normalisation; --deterministic twice, and killed once and continued; export and evaluation.  Those whose
speed does not matter run side by side, --parallel at a time.  check.md grows row by row, so that a time limit costs
only the rows behind it; failures.txt has the ends of logs that failed.
Exit codes: 0 all rows passed, and weights that must be equal are; 1 not so; 2 there is no GPU.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from check_gpu_rows import EXACT, FAST, FULL, KILLED, TRAIN, Row, Scale, rows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

HEAD = "| row | exit | seconds | devices, precision | images/s | val_loss | weights |"


class Command:
    """A command that runs, with its output in a file.

    A process of its own, or with ``fast`` a copy of this one, which has loaded TensorFlow but not started it.
    """

    def __init__(self, row: Row, words: Sequence[str], log: Path, fast: bool) -> None:
        self._copy: Any = None
        self._process: subprocess.Popen[bytes] | None = None
        if fast:
            self._copy = multiprocessing.get_context("fork").Process(target=_run, args=(row.module, words, log))
            self._copy.start()
            return
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", row.module, *words], cwd=ROOT, env={**_environment(), **row.environment},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float) -> int | None:
        """Return the exit code; None if the command still runs after so many seconds."""
        if self._process is None:
            self._copy.join(seconds)
            code: int | None = self._copy.exitcode
            return code
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End the command and its children as a crash would."""
        if self._process is None:
            self._copy.kill()
            self._copy.join()
        else:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


def _run(module: str, words: Sequence[str], log: Path) -> None:
    """Be a command, in a copy of this process."""
    import importlib

    from trainer.core import cli

    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    code = cli.run_command(importlib.import_module(module).main, words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # At once: threads of TensorFlow may wait for others.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a row came to.

    Attributes:
        code: exit code; None: it took too long.
        seconds: of the command.
        devices: number, kind and precision.
        rate: images a second, median of the last epoch.
        loss: of the last validation.
        weights: SHA-256 of all variables.
        problem: why the row failed although its code is 0; empty if it did not.
    """

    code: int | None
    seconds: float
    devices: str = ""
    rate: float = 0.0
    loss: float | None = None
    weights: str = ""
    problem: str = ""

    @property
    def failed(self) -> bool:
        """Whether the row counts as failed."""
        return self.code != 0 or bool(self.problem)

    def line(self, name: str) -> str:
        """Return the row of the table."""
        code = "too long" if self.code is None else f"{self.code}{f': {self.problem}' if self.problem else ''}"
        loss = "" if self.loss is None else f"{self.loss:.4f}"
        rate = f"{self.rate:,.0f}" if self.rate else ""
        return f"| {name} | {code} | {self.seconds:.0f} | {self.devices} | {rate} | {loss} | {self.weights[:12]} |"


def read_job(job: Path, code: int | None, seconds: float, problem: str = "") -> Outcome:
    """Return what a job's files say."""
    metrics, result = job / "metrics.jsonl", job / "result.json"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    start: dict[str, Any] = next((line for line in lines if line["kind"] == "start"), {})
    train = [line for line in lines if line["kind"] == "train"]
    rates = [line["images_per_second"] for line in train if line["epoch"] == train[-1]["epoch"]]
    losses = [line["val_loss"] for line in lines if line["kind"] == "validation"]
    written = json.loads(result.read_text()) if result.exists() else {}
    devices = f"{start.get('num_devices')} {start.get('device_kind')}, {start.get('precision')}" if start else ""
    rate = statistics.median(rates) if rates else 0.0
    return Outcome(
        code, seconds, devices, rate, losses[-1] if losses else None, written.get("weights_sha256", ""), problem
    )


class Check:
    """One run of the script."""

    def __init__(self, out: Path, scale: Scale, *, fast: bool, limit: float) -> None:
        self._out, self._scale, self._fast, self._limit = out, scale, fast, limit
        self.outcomes: dict[str, Outcome] = {}
        self._equal: list[str] = []  # Rows whose weights must be those of ``EXACT``.
        self._lock = threading.Lock()  # Of both files.
        for folder in ("logs", "jobs"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        (out / "check.md").write_text("")
        (out / "failures.txt").unlink(missing_ok=True)

    def say(self, line: str) -> None:
        """Print a line and add it to the page."""
        with self._lock, (self._out / "check.md").open("a") as page:
            print(line, flush=True)
            page.write(f"{line}\n")

    def draw(self) -> None:
        """Draw the images, once."""
        count = self._scale.images
        words = [f"--out={self._out / 'data'}", f"--train_per_class={count}", f"--size={64 if self._fast else 256}"]
        words += [f"--{split}_per_class={max(4, count // 5)}" for split in ("validation", "test")]
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "make_demo_data.py"), *words], check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def measure_all(self, chosen: Sequence[Row], parallel: int) -> None:
        """Run the rows whose speed does not matter side by side, so many at a time, then each of the others alone."""
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            list(pool.map(self.measure, [row for row in chosen if not row.timed]))
        for row in chosen:
            if row.timed:
                self.measure(row)

    def measure(self, row: Row) -> None:
        """Run a row and write its line."""
        job, began = self._out / "jobs" / row.name, time.monotonic()
        shutil.rmtree(job, ignore_errors=True)
        trains = row.module == TRAIN and row.flags != ("--selftest",)
        words = [*self._usual(job), *row.flags] if trains else list(row.flags)
        log = self._out / "logs" / f"{row.name}.log"
        log.write_bytes(b"")
        problem = self._kill_once(row, words, job, log) if row.name == KILLED else ""
        command = Command(row, words, log, self._fast)
        code = command.wait(self._limit)
        if code is None:
            command.kill()
        seconds = time.monotonic() - began
        outcome = read_job(job, code, seconds, problem) if trains else Outcome(code, seconds)
        self.outcomes[row.name] = outcome
        self.say(outcome.line(row.name))
        if row.equal:
            self._equal.append(row.name)
        if outcome.failed:
            self._keep_failure(row.name)
        shutil.rmtree(job / "checkpoints", ignore_errors=True)  # 60 MB each.

    def _usual(self, job: Path) -> list[str]:
        scale = self._scale
        return [
            f"--data_dir={self._out / 'data'}", f"--job_dir={job}", f"--image_size={scale.image_size}",
            f"--batch_size={scale.batch_size}", "--epochs=2", f"--steps_per_epoch={scale.steps}",
            "--lr_schedule=constant", "--learning_rate=3e-4", "--threshold_by=none", "--export=none",
        ]  # fmt: skip

    def _kill_once(self, row: Row, words: Sequence[str], job: Path, log: Path) -> str:
        """Kill the job after its first checkpoint; return why that did not work, or nothing."""
        command, began = Command(row, words, log, self._fast), time.monotonic()
        while not list(job.glob("checkpoints/*/COMMIT*")):
            if command.wait(0.02) is not None:
                return "it ended before its first checkpoint"
            if time.monotonic() - began > self._limit:
                break
        command.kill()
        return "it ended before it was killed" if (job / "result.json").exists() else ""

    def _keep_failure(self, name: str) -> None:
        """Add the end of a log to failures.txt at once, so that a time limit does not cost it."""
        lines = (self._out / "logs" / f"{name}.log").read_text(errors="replace").splitlines()[-25:]
        with self._lock, (self._out / "failures.txt").open("a") as file:
            file.write("\n".join([f"== {name}", *(line[:500] for line in lines), ""]))

    def finish(self) -> int:
        """Write the ratios and the verdict; return the exit code."""
        self.say("")
        for above, below in (("files", "bfloat16"), ("bfloat16", "noxla")):
            pair = [self.outcomes[name].rate if name in self.outcomes else 0.0 for name in (above, below)]
            if all(pair):
                self.say(f"- images/s of {above} / {below}: {pair[0] / pair[1]:.2f}")
        self._compare_weights()
        failures = [name for name, outcome in self.outcomes.items() if outcome.failed]
        self.say(f"- failed: {', '.join(failures)}; see failures.txt" if failures else "- all rows passed")
        return 1 if failures else 0

    def _compare_weights(self) -> None:
        """Say which weights are those of ``EXACT``, and let rows fail whose weights should be and are not."""
        exact = self.outcomes.get(EXACT)
        if exact is None or exact.failed:
            return
        ended = [name for name in self._equal if not self.outcomes[name].failed]
        same = [name for name in ended if self.outcomes[name].weights == exact.weights]
        if same:
            self.say(f"- the weights of {', '.join([EXACT, *same])} are equal")
        for name in set(ended) - set(same):
            problem = f"weights differ from those of {EXACT}"
            self.outcomes[name] = dataclasses.replace(self.outcomes[name], problem=problem)
            self.say(f"- {name}: {problem}")
            self._keep_failure(name)


def gpus() -> list[str]:
    """Return the GPUs that TensorFlow sees, asked in another process, so that this one takes no memory of them."""
    code = "import tensorflow as tf; print(*(x.name for x in tf.config.list_physical_devices('GPU')))"
    done = subprocess.run([sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=False)
    return done.stdout.split()


def machine() -> str:
    """Return card, driver and memory, as the driver's tool says, or what it is that runs."""
    if shutil.which("nvidia-smi") is None:
        return f"no GPU; {os.cpu_count()} cores"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return f"{'; '.join(done.stdout.strip().splitlines())}; {os.cpu_count()} cores"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", required=True, help="folder for check.md, failures.txt, logs and jobs")
    made.add_argument("--rows", default="", help="only these, separated by commas")
    made.add_argument("--parallel", type=int, default=8, help="untimed rows at a time (default 8; with --fast 1)")
    made.add_argument("--limit", type=float, default=240.0, help="seconds after which a row has failed (default 240)")
    made.add_argument("--fast", action="store_true", default=bool(os.environ.get("FAST")), help="the same as FAST=1")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the rows; return the exit code."""
    arguments = parser().parse_args(argv)
    fast, out = arguments.fast, Path(arguments.out).resolve()
    scale = FAST if fast else FULL
    every = {row.name: row for row in rows(scale, out, fast)}
    names = [name for name in arguments.rows.split(",") if name] or [
        row.name for row in every.values() if not (fast and row.slow)
    ]
    if unknown := set(names) - set(every):
        return _refuse(f"expected --rows of {', '.join(every)}; received {', '.join(sorted(unknown))}")
    if not fast and not gpus():
        return _refuse("expected a GPU that TensorFlow sees, received none; run python -m trainer.train --selftest, or "
                       "set FAST=1 to try this script on a CPU")  # fmt: skip
    check = Check(out, scale, fast=fast, limit=arguments.limit)
    command = f"`{'FAST=1 ' if fast else ''}python scripts/check_gpu.py {shlex.join(argv)}`"
    for line in (f"# GPU check, {time.strftime('%Y-%m-%d')}", "", machine(), "", command, "", HEAD, f"{'|---' * 7}|"):
        check.say(line)
    check.draw()
    if fast:
        _load()
    check.measure_all([row for name, row in every.items() if name in names], 1 if fast else arguments.parallel)
    return check.finish()


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _load() -> None:
    """Load once what every row needs; TensorFlow starts in none of this."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import trainer.evaluate
    import trainer.train
    import trainer.training.job  # noqa: F401


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
