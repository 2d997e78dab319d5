"""Measure what --prune=median saves: run the same sweep over drawn faces with and without it.

  python scripts/benchmark_sweep.py
  python scripts/benchmark_sweep.py --max_trials=20 --epochs=10 --image_size=96 --images=400

Random search draws the same trials in both, so that they differ only in what is pruned.  Prints epochs, CPU seconds
(which other jobs on the machine disturb least), wall-clock seconds, and the best score of both.  Seconds include the
start of TensorFlow and of each trial, which pruning does not save; the shorter the epochs, the more these count.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run both sweeps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--max_trials", type=int, default=12, help="(default 12)")
    add("--epochs", type=int, default=8, help="of a trial that is not pruned (default 8)")
    add("--warmup", type=int, default=2, help="epochs that every trial trains (default 2)")
    add("--image_size", type=int, default=64, help="pixels (default 64)")
    add("--images", type=int, default=150, help="of each class in Train; a third in Validation (default 150)")
    add("--seed", type=int, default=0, help="of the trials (default 0)")
    arguments = parser.parse_args()
    print(f"command: {' '.join(['python', *sys.argv])}\n")
    with tempfile.TemporaryDirectory() as folder:
        words = command(Path(folder), arguments)
        plain = measure("none", words, Path(folder) / "plain")
        pruned = measure("median", [*words, f"--prune_warmup_epochs={arguments.warmup}"], Path(folder) / "pruned")
    print("| --prune | trials | of them pruned | epochs | core seconds | seconds | best | trial |\n" + "|---" * 8 + "|")
    for row in (plain, pruned):
        print("| " + " | ".join(row) + " |")
    ratios = [float(pruned[column]) / float(plain[column]) for column in (3, 4)]
    print(f"\npruned / not: {ratios[0]:.2f} of the epochs, {ratios[1]:.2f} of the core seconds")
    return 0


def command(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Draw the faces and return the flags of the sweep, without job_dir."""
    draw = [sys.executable, str(ROOT / "scripts" / "make_demo_data.py"), f"--out={folder / 'data'}",
            f"--train_per_class={arguments.images}", f"--validation_per_class={arguments.images // 3}",
            "--test_per_class=0", "--size=96", "--difficulty=0"]  # fmt: skip
    subprocess.run(draw, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [
        f"--data_dir={folder / 'data'}", "--tuner=random", f"--max_trials={arguments.max_trials}",
        f"--epochs={arguments.epochs}", f"--image_size={arguments.image_size}", f"--seed={arguments.seed}",
        "--batch_size=20", "--precision=float32", "--export=none",
    ]  # fmt: skip


def measure(prune: str, words: Sequence[str], job_dir: Path) -> list[str]:
    """Run a sweep and return its row of the table."""
    began, busy = time.monotonic(), _core_seconds()
    argv = [sys.executable, "-m", "trainer.tune", *words, f"--prune={prune}", f"--job_dir={job_dir}"]
    with open(f"{job_dir}.log", "w", encoding="utf-8") as log:
        code = subprocess.run(argv, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise RuntimeError(f"expected exit code 0, received {code}:\n{Path(f'{job_dir}.log').read_text()[-5000:]}")
    seconds, busy = time.monotonic() - began, _core_seconds() - busy
    with (job_dir / "trials.csv").open() as table:
        rows = list(csv.DictReader(table))
    outcome = json.loads((job_dir / "sweep_result.json").read_text())
    epochs = sum(int(row["epochs"] or 0) for row in rows)
    return [prune, str(len(rows)), str(outcome["pruned"]), str(epochs), f"{busy:.0f}", f"{seconds:.0f}",
            f"{outcome['objective']} {outcome['best_score']:.4f}", outcome["best_trial"]]  # fmt: skip


def _core_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
