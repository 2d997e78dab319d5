"""Kill processes of a sweep with SIGKILL at random moments, start them again, and compare with an undisturbed sweep.

  python scripts/chaos_sweep.py --kills=3
  python scripts/chaos_sweep.py --kills=10 --tuner=grid --max_trials=6 --seed=3

The same sweep over drawn faces (scripts/make_demo_data.py) is run twice, each time by a chief and workers: once
undisturbed and once with kills: at random moments processes in a random order are killed, and each is then restarted by
the same command.  Both must end with the same trials, each with the same settings, scores and weights, and the same
best.  Prints what was killed and when, and a table; exits with 1 if anything differs or if a sweep's folder is larger
than --max_megabytes.
"""

import argparse
import csv
import dataclasses
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import local_cluster

_BY_THE_CLOCK = ("seconds", "worker", "job_dir")
_SPACE = """
- {name: learning_rate, kind: float, range: [1e-4, 1e-2], log: true, points: 3}
- {name: dropout, kind: float, range: [0.0, 0.5], points: 2}
- {name: model, kind: choice, values: [cnn, cnn_bn]}
"""


@dataclasses.dataclass(frozen=True)
class Kill:
    """When to end which process: 0 is the chief, the others are workers."""

    after_steps: float
    delay_seconds: float
    process: int


def main() -> int:
    """Run both sweeps and print the tables."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.out or scratch)
        words = command(folder, arguments)
        peace, fire = folder / "peace", folder / "fire"
        run(peace, words, arguments.workers, [])
        print("| killed | trials ended | steps of all trials |\n|---|---|---|", flush=True)
        run(fire, words, arguments.workers, draw_kills(arguments, steps_done(peace)))
        return 0 if compare(peace, fire, arguments.max_megabytes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--kills", type=int, default=3, help="SIGKILLs (default 3)")
    add("--workers", type=int, default=2, help="besides the chief (default 2)")
    add(
        "--tuner",
        default="random",
        choices=("random", "grid"),
        help="(default random)",
    )
    add("--max_trials", type=int, default=12, help="(default 12)")
    add("--epochs", type=int, default=2, help="of each trial (default 2)")
    add("--image_size", type=int, default=64, help="pixels (default 64)")
    add("--images", type=int, default=100, help="of each class in Train; a fifth in Validation (default 100)")
    add("--max_megabytes", type=float, default=30.0, help="the sweep's folder at its end, at most (default 30)")
    add("--seed", type=int, default=0, help="of the moments of the kills (default 0)")
    add("--out", default="", help="folder to work in and keep (default: a temporary one)")
    return parser


def command(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Draw the faces, write the space, and return the flags of the sweep, without job_dir."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = [sys.executable, str(local_cluster.ROOT / "scripts" / "make_demo_data.py"), f"--out={folder / 'data'}",
            f"--train_per_class={arguments.images}", f"--validation_per_class={max(arguments.images // 5, 4)}",
            "--test_per_class=0", "--size=96"]  # fmt: skip
    subprocess.run(draw, check=True, stdout=subprocess.DEVNULL)
    (folder / "space.yaml").write_text(_SPACE)
    return [
        f"--data_dir={folder / 'data'}", f"--space={folder / 'space.yaml'}", f"--tuner={arguments.tuner}",
        f"--max_trials={arguments.max_trials}", f"--epochs={arguments.epochs}", f"--image_size={arguments.image_size}",
        "--batch_size=20", "--precision=float32", "--checkpoint_every_steps=2", "--max_restarts_without_progress=0",
    ]  # fmt: skip


def draw_kills(arguments: argparse.Namespace, steps: int) -> list[Kill]:
    """Return random kills, each in its own part of a sweep of ``steps``, and of another process than the last one."""
    moments = random.Random(arguments.seed)
    part = 0.95 * steps / max(arguments.kills, 1)
    victims = moments.sample(range(arguments.workers + 1), arguments.workers + 1)
    return [
        Kill((number + moments.random()) * part, moments.uniform(0.0, 1.0), victims[number % len(victims)])
        for number in range(arguments.kills)
    ]


def run(job_dir: Path, words: Sequence[str], workers: int, kills: Sequence[Kill]) -> None:
    """Run a sweep to its end, restarting each killed process with the same command.

    Raises:
        RuntimeError: if a process failed by itself.
    """
    described = local_cluster.sweep_environments(workers)
    names, environments = list(described), list(described.values())
    flags = [*words, f"--job_dir={job_dir}"]
    with open(f"{job_dir}.log", "w", encoding="utf-8") as log:

        def start(index: int) -> "subprocess.Popen[str]":
            return local_cluster.start(environments[index], flags, log, module="trainer.tune")

        processes = [start(index) for index in range(len(names))]
        try:
            for kill in kills:
                while steps_done(job_dir) < kill.after_steps and processes[kill.process].poll() is None:
                    time.sleep(0.05)
                time.sleep(kill.delay_seconds)
                killed = names[kill.process] if processes[kill.process].poll() is None else "none, it had ended"
                processes[kill.process].kill()
                processes[kill.process].wait()
                print(f"| {killed} | {len(ended_trials(job_dir))} | {steps_done(job_dir)} |", flush=True)
                processes[kill.process] = start(kill.process)
            codes = local_cluster.wait(processes, all_need_first=True)
        finally:
            for process in processes:
                process.kill()
    if any(codes):
        raise RuntimeError(f"expected exit codes 0, received {codes}:\n{Path(f'{job_dir}.log').read_text()[-5000:]}")


def steps_done(job_dir: Path) -> int:
    """Return the number of logged steps of all trials."""
    return sum(_last_step(path) for path in job_dir.glob("trials/*/metrics.jsonl"))


def _last_step(metrics: Path) -> int:
    whole = metrics.read_text().rpartition("\n")[0].splitlines()
    return int(json.loads(whole[-1])["step"]) if whole else 0


def ended_trials(job_dir: Path) -> list[Path]:
    """Return the records of the trials that have ended."""
    return list(job_dir.glob("trials/*/trial.json"))


def compare(peace: Path, fire: Path, limit: float) -> bool:
    """Print the results of both sweeps; return whether they are equal and small enough."""
    tables = [_rows(peace), _rows(fire)]
    weights = [
        [_digest(folder, row["trial"]) for row in rows] for folder, rows in zip((peace, fire), tables, strict=True)
    ]
    results = [json.loads((folder / "sweep_result.json").read_text()) for folder in (peace, fire)]
    best = [f"{one['best_trial']}, {one['objective']} {one['best_score']:.6f}" for one in results]
    sizes = [_megabytes(folder) for folder in (peace, fire)]
    print("\n| | undisturbed | with kills | |\n|---|---|---|---|")
    for name, (one, other) in {
        "trials": [str(len(rows)) for rows in tables],
        "best": best,
        "settings, scores and epochs of all": [_short(rows) for rows in tables],
        "weights of all": [_short(digests) for digests in weights],
    }.items():
        print(f"| {name} | {one} | {other} | {'identical' if one == other else 'DIFFERENT'} |")
    print(f"| folder, MB | {sizes[0]:.1f} | {sizes[1]:.1f} | {'under' if max(sizes) <= limit else 'OVER'} {limit:g} |")
    return tables[0] == tables[1] and weights[0] == weights[1] and best[0] == best[1] and max(sizes) <= limit


def _rows(job_dir: Path) -> list[dict[str, str]]:
    with (job_dir / "trials.csv").open() as table:
        return [{name: row[name] for name in row if name not in _BY_THE_CLOCK} for row in csv.DictReader(table)]


def _digest(job_dir: Path, trial: str) -> str:
    return str(json.loads((job_dir / "trials" / trial / "result.json").read_text())["weights_sha256"])


def _short(value: object) -> str:
    return f"`{hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]}`"


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
