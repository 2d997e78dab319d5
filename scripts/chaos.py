"""Kill a training job with SIGKILL at random moments, start it again, and compare with an undisturbed run.

  python scripts/chaos.py --kills=20
  python scripts/chaos.py --kills=5 --devices=2 --precisions=mixed_float16 --seed=3

For each number of devices and each precision one small job (batch normalisation, dropout, augmentation, uneven last
batch) is trained once undisturbed and once with kills.  Both must end with the same weights, and with the same train
and validation lines in metrics.jsonl, none missing and none twice.  Prints a Markdown table; exits with 1 if any
pair differs.  Every start of the job is a real process, forked from one that has imported TensorFlow, which saves the
seconds of the import.
"""

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from trainer import train
from trainer.core import cli

VARYING = ("images_per_second", "data_wait", "memory_bytes", "time", "seconds", "path")


def main() -> int:
    """Run all pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs for each job (default 20)")
    parser.add_argument("--devices", default="1,2", help="numbers of devices (default 1,2)")
    parser.add_argument("--precisions", default="float32,mixed_bfloat16,mixed_float16", help="(default: all three)")
    parser.add_argument("--epochs", type=int, default=5, help="of 9 steps (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default 0)")
    arguments = parser.parse_args()
    importlib.import_module("trainer.training.trainer")  # TensorFlow, before the forks and not for --help.
    moments = random.Random(arguments.seed)
    print(
        "| devices | precision | kills | after steps | weights_sha256 | weights | metrics lines |\n" + "|---" * 7 + "|"
    )
    good = True
    with tempfile.TemporaryDirectory() as folder:
        data = draw_images(Path(folder) / "data")
        for devices in map(int, arguments.devices.split(",")):
            for precision in arguments.precisions.split(","):
                job = Path(folder) / f"{devices}-{precision}"
                words = command(data, devices, precision, arguments.epochs)
                good &= compare(job, words, arguments.kills, moments)
    return 0 if good else 1


def draw_images(root: Path) -> Path:
    """Write a small set: 50 Train and 11 Validation images of each class, 64 pixels; Fake ones are redder."""
    generator = np.random.default_rng(0)
    for split, count in (("Train", 50), ("Validation", 11)):
        for name, red in (("Fake", 40), ("Real", 0)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 200, (64, 64, 3), np.uint8)
                pixels[16:48, 16:48, 0] += red
                Image.fromarray(pixels).save(folder / f"{number:03d}.jpg", quality=95)
    return root


def command(data: Path, devices: int, precision: str, epochs: int) -> list[str]:
    """Return the flags of the job without job_dir: 9 steps an epoch, a checkpoint every other step."""
    return [
        f"--data_dir={data}", f"--num_devices={devices}", f"--precision={precision}", f"--epochs={epochs}",
        "--image_size=64", "--batch_size=32", "--steps_per_epoch=9", "--model=cnn_bn", "--dropout=0.3",
        "--checkpoint_every_steps=2", "--plateau_patience=1", "--max_restarts_without_progress=0", "--export=none",
    ]  # fmt: skip


def compare(job: Path, words: list[str], kills: int, moments: random.Random) -> bool:
    """Train undisturbed and with kills, print a row, and return whether both ended alike."""
    peace, fire = Path(f"{job}-peace"), Path(f"{job}-fire")
    start_up, seconds = live(words, peace) or (0.0, 0.0)
    total = last_line(peace)["step"]
    # One kill in four comes while the job starts, the others a moment after a step, each in its own part of the run.
    killed_after: list[int] = []
    for number in range(kills):
        if number % 4 == 0:
            ended = live(words, fire, kill_after=moments.uniform(0.0, start_up))
        else:
            step = int((number + moments.random()) * total / kills)
            delay = moments.uniform(0.0, 3.0 * (seconds - start_up) / total)
            ended = live(words, fire, kill_after=delay, kill_at_step=step)
        if ended is not None:
            break
        killed_after.append(last_line(fire)["step"])
    live(words, fire)
    digests = [json.loads((each / "result.json").read_text())["weights_sha256"] for each in (peace, fire)]
    same_weights, same_lines = digests[0] == digests[1], lines(peace) == lines(fire)
    devices, precision = job.name.split("-", 1)
    steps = " ".join(map(str, killed_after)) or "none"
    print(f"| {devices} | {precision} | {len(killed_after)} | {steps} | `{digests[1][:12]}` | {_word(same_weights)} | "
          f"{len(lines(fire))}, {_word(same_lines)} |", flush=True)  # fmt: skip
    return same_weights and same_lines


def live(
    words: list[str], job_dir: Path, *, kill_after: float = 3600.0, kill_at_step: int = 0
) -> tuple[float, float] | None:
    """Run the job in a child; None if it was killed, else the seconds to its first step and to its end.

    ``kill_after`` seconds count from the start, or from when this start of the job has logged ``kill_at_step`` steps.

    Raises:
        RuntimeError: if the job failed by itself.
    """
    began = time.monotonic()
    started = False
    first_step = counting_from = 0.0
    child = os.fork()
    if child == 0:
        log = os.open(f"{job_dir}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os._exit(cli.run_command(train.main, [*words, f"--job_dir={job_dir}"]))
    while True:
        seconds = time.monotonic() - began
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if os.waitstatus_to_exitcode(status) != 0:
                raise RuntimeError(f"expected exit code 0 of {job_dir}:\n{Path(f'{job_dir}.log').read_text()}")
            return first_step, seconds
        line = last_line(job_dir)
        started = started or line["kind"] == "start"
        if started and line["kind"] != "start":
            first_step = first_step or seconds
            if line["step"] >= kill_at_step:
                counting_from = counting_from or seconds
        if (counting_from or not kill_at_step) and seconds - (counting_from if kill_at_step else 0.0) >= kill_after:
            break
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def last_line(job_dir: Path) -> dict[str, Any]:
    """Return the last complete line of metrics.jsonl, or a placeholder if there is none."""
    metrics = job_dir / "metrics.jsonl"
    whole = metrics.read_text().rpartition("\n")[0].splitlines() if metrics.exists() else []
    return dict(json.loads(whole[-1])) if whole else {"kind": "none", "step": 0}


def lines(job_dir: Path) -> list[dict[str, Any]]:
    """Return the train and validation lines without the values that may differ between two runs."""
    records = [json.loads(line) for line in (job_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in record.items() if name not in VARYING}
        for record in records
        if record["kind"] in ("train", "validation")
    ]


def _word(same: bool) -> str:
    return "identical" if same else "DIFFERENT"


if __name__ == "__main__":
    sys.exit(main())
