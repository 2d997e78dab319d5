"""Measure jobs of several processes on this machine: whether they agree, and how soon they notice a lost process.

  python scripts/multi_worker.py table --precisions=float32,mixed_bfloat16,mixed_float16
  python scripts/multi_worker.py kills --peer_timeout=10
  unshare -rn sh -c 'ip link set lo up; python scripts/multi_worker.py messages --topologies=2x1,4x1'

``table`` trains one small job (batch normalisation, dropout, augmentation, uneven last batch) in several topologies,
processes x devices, and compares final weights and all losses with the first one's.  ``kills`` ends or stops one of
three processes, some of them (``@save``) while the chief is in the middle of writing a checkpoint, prints how long
the others took to exit, with which code and message, restarts all, and compares the weights with those of an
undisturbed run.  ``messages`` counts the bytes that one more step costs on the loopback interface and compares them
with the formula of docs/scaling.md; run it in its own network namespace, as above.  All print Markdown tables and exit
with 1 if anything differs.
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from chaos import draw_images
from local_cluster import environments, start

_FEW_STEPS, _MANY_STEPS = 10, 40
JOB = (
    "--image_size=64", "--batch_size=32", "--steps_per_epoch=9", "--model=cnn_bn", "--dropout=0.3",
    "--export=none", "--plateau_patience=1", "--max_restarts_without_progress=0", "--log_every_steps=1",
)  # fmt: skip


def main() -> int:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "kills", "messages"))
    parser.add_argument("--topologies", default="1x1,1x2,2x1,2x2,4x1", help="processes x devices of each")
    parser.add_argument("--precisions", default="float32")
    parser.add_argument("--allreduce_dtype", default="auto")
    parser.add_argument("--epochs", type=int, default=6, help="of 9 steps (default 6)")
    parser.add_argument("--peer_timeout", type=float, default=10.0, help="seconds (default 10)")
    parser.add_argument("--disturb", default="SIGKILL:2,SIGKILL:0,SIGKILL:2@save,SIGKILL:0@save,SIGSTOP:1,SIGSTOP:0",
                        help="signal:worker of kills, @save: while the chief writes a checkpoint")  # fmt: skip
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = draw_images(Path(folder) / "data")
        words = [f"--data_dir={data}", *JOB, f"--epochs={arguments.epochs}"]
        words += [f"--allreduce_dtype={arguments.allreduce_dtype}", f"--peer_timeout_seconds={arguments.peer_timeout}"]
        if arguments.what == "kills":
            words += ["--precision=float32", "--checkpoint_every_steps=2"]
            return kills(Path(folder), words, arguments.disturb.split(","))
        if arguments.what == "messages":
            return messages(Path(folder), words, arguments.topologies.split(","), arguments.allreduce_dtype)
        good = True
        print(
            "| precision | processes x devices | last loss | largest relative difference of a loss | weights_sha256 |"
        )
        print("|---" * 5 + "|", flush=True)
        for precision in arguments.precisions.split(","):
            good &= table(
                Path(folder), [*words, f"--precision={precision}"], precision, arguments.topologies.split(",")
            )
        return 0 if good else 1


def table(folder: Path, words: Sequence[str], precision: str, topologies: Sequence[str]) -> bool:
    """Train in every topology and print a row for each; return whether all losses agree within 1e-6."""
    first: list[float] = []
    good = True
    for topology in topologies:
        workers, devices = map(int, topology.split("x"))
        job = folder / f"{precision}-{topology}"
        codes, _ = run([*words, f"--job_dir={job}", f"--num_devices={devices}"], workers)
        if any(codes):
            raise RuntimeError(f"{topology} ended with {codes}")
        losses = losses_of(job)
        first = first or losses
        difference = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(first, losses, strict=True))
        good &= difference <= 1e-6
        digest = result_of(job)["weights_sha256"][:12]
        print(f"| {precision} | {topology} | {losses[-1]:.6f} | {difference:.1e} | `{digest}` |", flush=True)
    return good


def kills(folder: Path, words: Sequence[str], disturbances: Sequence[str]) -> int:
    """Disturb a job of three processes in several ways, print a row for each, and return the exit code."""
    run([*words, f"--job_dir={folder / 'peace'}"], 3)
    expected = result_of(folder / "peace")["weights_sha256"]
    print("| what | to | exit codes of the others | seconds until the last of them ended | message | after restart |")
    print("|---" * 6 + "|", flush=True)
    good = True
    for disturbance in disturbances:
        name, _, rest = disturbance.partition(":")
        worker, _, moment = rest.partition("@")
        number, victim = signal.Signals[name], int(worker)
        job = folder / f"{number.name}-{victim}{moment}"
        codes, text = run([*words, f"--job_dir={job}"], 3, disturb=Disturbance(number, victim, job, moment == "save"))
        seconds = codes.pop(-1)
        others = [code for index, code in enumerate(codes) if index != victim]
        message = next(line for line in text.splitlines() if line.startswith("stopped: lost")).split(";")[0]
        run([*words, f"--job_dir={job}"], 3)
        same = result_of(job)["weights_sha256"] == expected
        good &= same and others == [75, 75]
        what = number.name + (" in a save" if moment else "")
        print(f"| {what} | worker {victim} | {', '.join(map(str, others))} | {seconds:.1f} | {message} | "
              f"{'identical' if same else 'DIFFERENT'} |", flush=True)  # fmt: skip
    return 0 if good else 1


def messages(folder: Path, words: Sequence[str], topologies: Sequence[str], dtype: str) -> int:
    """Measure the bytes of one more step by topology, print a row for each, and return the exit code."""
    size = {"auto": 8, "float32": 4}.get(dtype, 2)
    good = True
    print("| processes x devices | all-reduce dtype | gradients, bytes | ring, all ranks | measured | ratio |")
    print("|---" * 6 + "|", flush=True)
    for topology in topologies:
        workers, devices = map(int, topology.split("x"))
        counted = []
        for steps in (_FEW_STEPS, _MANY_STEPS):
            job = folder / f"{topology}-{steps}"
            before = _loopback_bytes()
            run([*words, f"--job_dir={job}", f"--num_devices={devices}", "--model=cnn", "--epochs=1",
                 f"--steps_per_epoch={steps}", "--precision=float32"], workers)  # fmt: skip
            counted.append(_loopback_bytes() - before)
        gradients = size * _parameters(job)
        expected = 2 * (workers * devices - 1) * gradients * (workers > 1)
        measured = (counted[1] - counted[0]) / (_MANY_STEPS - _FEW_STEPS)
        good &= 0.9 < measured / expected < 1.2
        print(f"| {topology} | {dtype} | {gradients:,} | {expected:,} | {measured:,.0f} | {measured / expected:.2f} |",
              flush=True)  # fmt: skip
    return 0 if good else 1


def _loopback_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split(":")[1].split()[0]) for line in lines if line.split(":")[0].strip() == "lo")


def _parameters(job: Path) -> int:
    newest = max(job.glob("checkpoints/*/arrays.npz"))
    with np.load(newest) as arrays:
        return sum(arrays[name].size for name in arrays.files if name.startswith("model/"))


@dataclasses.dataclass(frozen=True)
class Disturbance:
    """Which signal goes to which worker: once job_dir has two checkpoints, or in the middle of the next one."""

    number: signal.Signals
    worker: int
    job_dir: Path
    in_save: bool = False

    def strike(self, processes: "Sequence[subprocess.Popen[str]]") -> None:
        """Wait for the moment and send the signal."""
        while len(list(self.job_dir.glob("checkpoints/*/COMMIT.json"))) < 2:
            if any(process.poll() is not None for process in processes):
                raise RuntimeError("expected a job that saves twice, received its end before that")
            time.sleep(0.05)
        if self.in_save:
            pause_in_save(processes[0], self.job_dir)
        os.kill(processes[self.worker].pid, self.number)
        if self.in_save and self.worker:
            os.kill(processes[0].pid, signal.SIGCONT)


def pause_in_save(chief: "subprocess.Popen[str]", job_dir: Path) -> int:
    """Stop the chief (SIGSTOP) while it writes a checkpoint, so that a kill surely hits it; return the step.

    Raises:
        RuntimeError: if the chief ends first.
    """
    while chief.poll() is None:
        newest = max(job_dir.glob("checkpoints/*"), default=None)
        if newest is not None and not (newest / "COMMIT.json").exists():
            os.kill(chief.pid, signal.SIGSTOP)
            while Path(f"/proc/{chief.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
                time.sleep(0.0005)
            if not (newest / "COMMIT.json").exists():
                return int(newest.name)
            os.kill(chief.pid, signal.SIGCONT)
        time.sleep(0.0005)
    raise RuntimeError(f"expected the chief to save again, received its end with code {chief.returncode}")


def run(words: Sequence[str], workers: int, disturb: Disturbance | None = None) -> tuple[list[Any], str]:
    """Run a job to its end.

    Args:
        words: flags.
        workers: number of processes; a single one is not a cluster.
        disturb: the signal for one of them.

    Returns:
        Exit codes (with ``disturb`` followed by the seconds from the signal to the last exit of another worker), and
        all output of the processes.
    """
    described = environments(workers) if workers > 1 else [{"TF_CONFIG": ""}]
    with tempfile.TemporaryFile("w+") as output:
        processes = [start(environment, words, output) for environment in described]
        sent = time.monotonic()
        victim = None
        if disturb is not None:
            disturb.strike(processes)
            victim = processes[disturb.worker]
            sent = time.monotonic()
        codes: list[Any] = [process.wait() for process in processes if process is not victim]
        seconds = time.monotonic() - sent
        if victim is not None and disturb is not None:
            victim.kill()
            codes.insert(disturb.worker, victim.wait())
            codes.append(seconds)
        output.seek(0)
        text = output.read()
    if disturb is None and any(codes):
        sys.stderr.write(text)
    return codes, text


def result_of(job: Path) -> dict[str, Any]:
    """Return a job's result.json."""
    return dict(json.loads((job / "result.json").read_text()))


def losses_of(job: Path) -> list[float]:
    """Return the training loss of each applied step, and the validation loss of each epoch."""
    lines = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    losses = [line.get("loss", line.get("val_loss")) for line in lines if line["kind"] in ("train", "validation")]
    return [loss for loss in losses if loss is not None]


if __name__ == "__main__":
    sys.exit(main())
