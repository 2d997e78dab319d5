"""Compare our step and our job with Keras, PyTorch and the machine's limits in one run.

  python scripts/benchmark.py gpu --out=measured      everything; 10 to 20 minutes
  python scripts/benchmark.py job --out=measured      whole jobs alone
  python scripts/benchmark.py gpu --fast              seconds a row, to try the script itself
  python scripts/benchmark.py gpu --ways="our step" --ways=PyTorch

Ways take turns, round after round, and the median counts.  TensorFlow and PyTorch have a process each; so does every
job.  A way that fails is a row with its error.  With --out, <what>.md and <what>.json are written anew after each
measurement, so that a time limit costs only what is behind it.  PyTorch is compared where it is installed.
Without a GPU sizes are small; the same ways run on the CPU.
"""

import argparse
import dataclasses
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import benchmark_job
import benchmark_ways as ways
from benchmark_table import Table
from benchmark_ways import Sizes, Way
from benchmark_worker import Measured, Worker

ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str], what: str = "gpu") -> int:
    """Measure everything; return 0; 1 if no way could be measured, 2 if there is none of a name."""
    arguments = parser().parse_args(argv)
    import tensorflow as tf  # Late: --help needs none of it.

    tf.config.set_visible_devices([], "GPU")  # Of this process, which only counts FLOPs: the others need the memory.
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(arguments.out or scratch)
        out.mkdir(parents=True, exist_ok=True)
        return Run(what, argv, arguments, out).all()


def job(argv: Sequence[str]) -> int:
    """Measure whole jobs alone."""
    return main(argv, "job")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--out", default="", help="folder for <what>.md, <what>.json and logs (default: printed only)")
    add("--data_dir", default="", help="images of the jobs: Train, Validation (default: drawn faces)")
    add(
        "--ways",
        action="append",
        default=[],
        metavar="TEXT",
        help="only the way of this name, or those whose names contain it; repeatable",
    )
    add("--rounds", type=int, default=0, help="of steps (default 3; 1 with --fast)")
    add("--job_rounds", type=int, default=0, help="of jobs (default 2; 1 with --fast)")
    add("--image_size", type=int, default=0, help="pixels (default 224 on a GPU, 128 on a CPU)")
    add("--batch_size", type=int, default=0, help="images (default 256 on a GPU, 32 on a CPU)")
    add("--seconds", type=float, default=0.0, help="of a measurement of a step (default 3 on a GPU, 2 on a CPU)")
    add("--limit", type=float, default=180.0, help="seconds after which a way counts as failed (default 180)")
    add("--fast", action="store_true", help="tiny sizes and one round")
    return made


class Run:
    """One run of the command."""

    def __init__(self, what: str, argv: Sequence[str], arguments: argparse.Namespace, out: Path) -> None:
        self._what, self._argv, self._arguments, self._out = what, argv, arguments, out
        self._workers = {name: Worker(name, out / f"{name}.log") for name in (ways.TENSORFLOW, ways.TORCH)}
        self._hello = self._workers[ways.TENSORFLOW].hello(arguments.limit)
        gpus = self._hello.get("gpus", [])
        self._sizes = self._chosen_sizes(bool(gpus))
        self._precisions = ways.precisions_of(bool(gpus), bool(self._hello.get("bfloat16")))
        self.table = Table(what, self._facts(), self._sizes.image_size, self._sizes.batch_size, gpus[0] if gpus else "")

    def _chosen_sizes(self, gpu: bool) -> Sizes:
        own = {name: getattr(self._arguments, name) for name in ("image_size", "batch_size", "seconds")}
        base = ways.FAST if self._arguments.fast else ways.ON_GPU if gpu else ways.ON_CPU
        return dataclasses.replace(base, **{name: value for name, value in own.items() if value})

    def _facts(self) -> dict[str, str]:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        versions = ", ".join(f"{name} {version}" for name, version in self._hello.get("versions", {}).items())
        sizes = self._sizes
        return {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{', '.join(self._hello.get('gpus', [])) or 'no GPU'}; {len(models)} cores "
                       f"{models[0] if models else platform.processor()}",
            "versions": f"{versions}, commit {commit.stdout.strip() or 'unknown'}",
            "command": f"`python scripts/benchmark.py {shlex.join([self._what, *self._argv])}`",
            "sizes": f"the notebook's network at {sizes.image_size} pixels, batch {sizes.batch_size}; jobs read "
                     f"{self._arguments.data_dir or 'drawn faces'}",
        }  # fmt: skip

    def all(self) -> int:
        """Measure all ways of all rounds; print and write after each."""
        limits = list(ways.limits(self._precisions))
        steps = list(ways.steps(self._precisions)) if self._what == "gpu" else []
        jobs = list(ways.jobs(self._precisions, bool(self.table.device)))
        try:
            if unknown := [part for part in self._arguments.ways if not ways.chosen(limits + steps + jobs, [part])]:
                names = "; ".join(way.name for way in limits + steps + jobs)
                print(f"error: expected --ways of: {names}; received {'; '.join(unknown)}", file=sys.stderr)
                return 2
            print("\n".join(f"{name}: {value}" for name, value in self.table.facts.items()))
            self._in_workers(ways.chosen(limits + steps, self._arguments.ways))
        finally:
            for worker in self._workers.values():
                worker.close()
        self._jobs(ways.chosen(jobs, self._arguments.ways))
        print("\n" + "\n".join(self.table.markdown()))
        return 0 if any(self.table.rate(way) for way in self.table.rows) else 1

    def _in_workers(self, remaining: list[Way]) -> None:
        """Measure ways of TensorFlow and PyTorch in turn; those that failed once are not tried again."""
        for number in range(self._rounds("rounds", 3)):
            for way in list(remaining):
                measured = self._workers[way.runner].measure(way, self._sizes, self._arguments.limit)
                self._record(number, way, measured)
                if measured.error:
                    remaining.remove(way)

    def _jobs(self, remaining: list[Way]) -> None:
        """Run jobs in turn; those that failed once are not tried again."""
        if not remaining:
            return
        data = Path(self._arguments.data_dir or self._out / "data")
        if not self._arguments.data_dir:
            benchmark_job.draw(data, self._sizes)
        for number in range(self._rounds("job_rounds", 2)):
            for way in list(remaining):
                measured = self._job(way, data)
                self._record(number, way, measured)
                if measured.error:
                    remaining.remove(way)

    def _job(self, way: Way, data: Path) -> Measured:
        """Run one job; keep the log if it fails."""
        with tempfile.TemporaryDirectory(dir=self._out, prefix="job-") as folder:
            job_dir = Path(folder) / "job"
            measured = benchmark_job.measure(way, self._sizes, data, job_dir, self._arguments.limit)
            if not measured.error:
                return measured
            log, kept = Path(f"{job_dir}.log"), self._out / f"{way.name.replace(', ', '-').replace(' ', '_')}.log"
            kept.write_bytes(log.read_bytes())
            return dataclasses.replace(measured, error=measured.error.replace(str(log), str(kept)))

    def _rounds(self, name: str, usual: int) -> int:
        return getattr(self._arguments, name) or (1 if self._arguments.fast else usual)

    def _record(self, number: int, way: Way, measured: Measured) -> None:
        self.table.add(way, measured)
        per = {ways.PRODUCT: "FLOP/s", ways.COPY: "bytes/s"}.get(way.kind, "images/s")
        print(f"round {number + 1}: {way.name:<58} {measured.error or f'{measured.rate:.4g} {per}'}", flush=True)
        if self._arguments.out:
            self.table.write(self._out / self._what)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
