"""Show that this tree computes the same as an earlier commit.

  python scripts/compare_versions.py --base=HEAD~1
  python scripts/compare_versions.py --base=2d667ad --only=flags,train-float32-1 --keep=/tmp/compared

Checks the earlier commit out into a temporary folder (git worktree), draws one small data set, and runs the same
commands in both trees, side by side.  Compares weights, metrics.jsonl, every JSON and CSV file, predictions, packed
shards, file names, exit codes and the flags of all commands; what may differ is in ``version_differences.py``.  Prints
a Markdown table; exits with 1 if anything differs.  Nothing is stored, because digests differ between kinds of CPU.
Changes that are not committed count: this tree is compared as it is on the disk.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from version_data import Data, draw_data
from version_differences import flag_differences, flag_surface, folder_differences

ROOT = Path(__file__).resolve().parents[1]
SMALL = "--image_size=46 --batch_size=16 --epochs=2 --max_bad_fraction=0.1 --dropout=0.3 --data_dir={data}"
# Each value of --num_devices with each of --precision; the other flags take turns.
TRAININGS = {
    "train-float32-1": "--model=cnn --augment=notebook --export=all --calibrate --threshold_by=eer",
    "train-float32-2": "--model=cnn_bn --optimizer=sgd --lr_schedule=cosine --log_every_steps=3 --export=none",
    "train-mixed_float16-1": "--model=cnn_bn --optimizer=adamw --augment=forensic --plateau_patience=0 --export=none",
    "train-mixed_float16-2": "--optimizer=rmsprop --lr_schedule=constant --augment=none --data_dir={train_only} "
    "--export=none",
    "train-mixed_bfloat16-1": "--lr_schedule=cosine --augment=forensic --monitor=val_auc --steps_per_epoch=3 "
    "--export=none",
    "train-mixed_bfloat16-2": "--model=cnn_bn --tensorboard=all --checkpoint_every_steps=3 --keep_checkpoints=2",
}
INTERRUPTED = "--model=cnn_bn --epochs=6 --checkpoint_every_steps=3 --precision=float32 --num_devices=2 --export=none"
SPACE = (
    "[{name: learning_rate, kind: float, range: [1.0e-4, 1.0e-2], log: true}, "
    "{name: optimizer, kind: choice, values: [adam, sgd]}]"
)
# Commands that print their flags.
HELP = (
    "-m trainer.train", "-m trainer.evaluate", "-m trainer.predict", "-m trainer.tune", "-m trainer.export",
    "-m trainer.data_service", "scripts/prepare_data.py audit", "scripts/prepare_data.py pack",
    *(f"scripts/submit.py {name}" for name in ("run", "list", "status", "logs", "cancel", "resume", "tensorboard")),
)  # fmt: skip


class CommandFailed(Exception):
    """Say which command did not end as expected, and in which tree."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two trees.

    Attributes:
        name: ``base`` or ``current``.
        tree: its checkout.
        work: folder for what its commands write, one folder a job.
        data: what they read.
    """

    name: str
    tree: Path
    work: Path
    data: Data

    def run(self, command: str, *, expected: int = 0) -> str:
        """Run Python on words with ``{placeholders}`` and return its stdout.

        Raises:
            CommandFailed: if the exit code is another one.
        """
        done = subprocess.run(self._words(command), cwd=self.tree, env=self._environment(), capture_output=True,
                              text=True, check=False)  # fmt: skip
        if done.returncode != expected:
            last = (done.stderr.strip() or "nothing on stderr").splitlines()[-1]
            raise CommandFailed(f"{self.name}: exit code {done.returncode} instead of {expected}: {command} ({last})")
        return done.stdout

    def kill(self, command: str, metrics: Path) -> None:
        """Run Python on words and kill it once its first validation is in ``metrics``.

        Raises:
            CommandFailed: if it ended before.
        """
        process = subprocess.Popen(
            self._words(command), cwd=self.tree, env=self._environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None:
            if metrics.exists() and '"validation"' in metrics.read_text():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return
            time.sleep(0.005)
        raise CommandFailed(f"{self.name}: ended with {process.returncode} before it could be killed: {command}")

    def _words(self, command: str) -> list[str]:
        places = {field.name: str(getattr(self.data, field.name)) for field in dataclasses.fields(self.data)}
        pattern = re.compile("{(" + "|".join([*places, "work"]) + ")}")
        places["work"] = str(self.work)
        split = (word.replace("~", " ") for word in command.split())
        return [sys.executable, *(pattern.sub(lambda found: places[found[1]], word) for word in split)]

    def _environment(self) -> dict[str, str]:
        # The tree stands first on the path, before a package that is installed from elsewhere.
        caches = self.work / "pycache"
        return {
            **os.environ, "PYTHONPATH": str(self.tree), "PYTHONPYCACHEPREFIX": str(caches), "TF_CPP_MIN_LOG_LEVEL": "3",
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Job:
    """Commands whose files are compared.

    Attributes:
        run: runs them for one side; what they write lies in ``side.work / <name of the job>``.
        begin: runs once before that, with the base side.
        needs: jobs whose files ``run`` or ``begin`` reads.
        kinds: lines of metrics.jsonl to compare; empty: all.
        only: names of the files to compare; empty: all.
    """

    run: Callable[[Side], None]
    begin: Callable[[Side], None] | None = None
    needs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run all jobs in both trees and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, metavar="REV", help="commit to compare with")
    parser.add_argument("--only", default="", metavar="NAME,...", help=f"of {', '.join(JOBS)} (default: all)")
    parser.add_argument("--keep", default="", metavar="DIR", help="new folder for the data and all files written")
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",") if arguments.only else list(JOBS)
    if set(names) - set(JOBS):
        parser.error(f"--only: expected names of {', '.join(JOBS)}, received {arguments.only!r}")
    if arguments.keep and Path(arguments.keep).exists():
        parser.error(f"--keep: expected a new folder, received {arguments.keep!r}, which exists")
    with tempfile.TemporaryDirectory() as temporary, base_tree(arguments.base, Path(temporary) / "base") as tree:
        work = Path(arguments.keep or Path(temporary) / "work").absolute()
        data = draw_data(work / "data")
        base, current = (Side(name, root, work / name, data) for name, root in (("base", tree), ("current", ROOT)))
        require_own_package(base)
        require_own_package(current)
        return 1 if compare(with_needs(names), base, current) else 0


@contextlib.contextmanager
def base_tree(revision: str, folder: Path) -> Iterator[Path]:
    """Check a commit out for the block."""
    git = ["git", "-C", str(ROOT), "worktree"]
    done = subprocess.run([*git, "add", "--detach", str(folder), revision], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "git gives no reason").splitlines()[-1]
        print(f"error: --base: expected a commit in this clone, received {revision!r} ({reason})", file=sys.stderr)
        sys.exit(2)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def require_own_package(side: Side) -> None:
    """Make sure that a side runs its own code and not an installed package.

    Raises:
        CommandFailed: if it does not.
    """
    side.work.mkdir(parents=True)
    probe = side.work / "probe.py"
    probe.write_text("import trainer\nprint(trainer.__file__)\n")
    for command in ("{work}/probe.py", "-c import~trainer;print(trainer.__file__)"):
        file = Path(side.run(command).strip())
        if not file.is_relative_to(side.tree):
            raise CommandFailed(f"{side.name}: expected the package in {side.tree}, received {file}")


def with_needs(names: Sequence[str]) -> list[str]:
    """Return the jobs in the order of the table, with those whose files they need."""
    chosen = {*names, *(need for name in names for need in JOBS[name].needs)}
    return [name for name in JOBS if name in chosen]


def compare(names: Sequence[str], base: Side, current: Side) -> bool:
    """Run jobs one after another, each in both trees at once; print a row a job; return whether any differs."""
    print("| job | result | seconds | first difference |\n" + "|---" * 4 + "|", flush=True)
    began, differing = time.monotonic(), 0
    for name in names:
        started = time.monotonic()
        lines = differences(name, base, current)
        differing += bool(lines)
        more = f" (and {len(lines) - 1} more)" if lines[1:] else ""
        print(f"| {name} | {'DIFFERENT' if lines else 'same'} | {time.monotonic() - started:.0f} | "
              f"{''.join(lines[:1])}{more} |", flush=True)  # fmt: skip
    print(f"\n{len(names)} jobs, {differing} different, {time.monotonic() - began:.0f} seconds")
    return differing > 0


def differences(name: str, base: Side, current: Side) -> list[str]:
    """Run one job in both trees; return what differs, or which command failed."""
    job = JOBS[name]
    try:
        if job.begin is not None:
            job.begin(base)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for each in [pool.submit(job.run, side) for side in (base, current)]:
                each.result()
    except CommandFailed as failure:
        return [str(failure)]
    if name == "flags":
        return help_differences(base.work / name, current.work / name)
    folders = base.work / name, current.work / name
    assert all(any(folder.iterdir()) for folder in folders), name
    roots = str(base.work), str(current.work)
    return list(folder_differences(folders[0], folders[1], roots=roots, kinds=job.kinds, only=job.only))


def help_differences(base: Path, current: Path) -> list[str]:
    """Compare the pages that ``print_help`` has kept."""
    lines: list[str] = []
    for command in HELP:
        before = flag_surface((base / _page(command)).read_text())
        after = flag_surface((current / _page(command)).read_text())
        assert before, command
        lines += flag_differences(before, after, command)
    return lines


def training(name: str) -> Job:
    """Return a job of ``TRAININGS``; its name tells precision and devices."""
    _, precision, devices = name.split("-")
    words = f"{SMALL} --precision={precision} --num_devices={devices} {TRAININGS[name]}"
    return Job(lambda side: _discard(side.run(f"-m trainer.train {words} --job_dir={{work}}/{name}")))


def _discard(_: str) -> None:
    """Take what a command printed: words may change."""


def kill_and_continue(side: Side) -> None:
    """Train, killed after the first validation, then continued."""
    command = f"-m trainer.train {SMALL} {INTERRUPTED} --job_dir={{work}}/killed"
    side.kill(command, side.work / "killed" / "metrics.jsonl")
    side.run(command)


def begin_handover(base: Side) -> None:
    """Train with the base's code, killed after the first validation; both sides continue a copy."""
    folder = base.work / "begun"
    base.kill(f"-m trainer.train {SMALL} {INTERRUPTED} --job_dir={folder}", folder / "metrics.jsonl")
    for name in ("base", "current"):
        shutil.copytree(folder, base.work.parent / name / "handover")


def continue_handover(side: Side) -> None:
    """Continue the copied job; --resume=required refuses to start over."""
    side.run(f"-m trainer.train {SMALL} {INTERRUPTED} --job_dir={{work}}/handover --resume=required")


def sweep(side: Side) -> None:
    """Search with two trials."""
    space = SPACE.replace(" ", "~")
    side.run(f"-m trainer.tune {SMALL} --tuner=random --max_trials=2 --job_dir={{work}}/sweep --space={space}")


def pack(side: Side) -> None:
    """Pack the data set, and train on it with decoded images kept in memory."""
    side.run("scripts/prepare_data.py pack --data_dir={data} --out={work}/pack/set --images_per_shard=20 --workers=1")
    side.run(f"-m trainer.train {SMALL} --data_dir={{work}}/pack/set --cache=memory --job_dir={{work}}/pack/job "
             "--export=none")  # fmt: skip


def cache(side: Side) -> None:
    """Train with decoded images kept in a folder, stopped by the time limit and continued from that folder."""
    words = f"{SMALL} --cache={{work}}/cache/images --job_dir={{work}}/cache/job --export=none"
    side.run(f"-m trainer.train {words} --max_seconds=0.001", expected=75)
    side.run(f"-m trainer.train {words}")


def audit(side: Side) -> None:
    """Audit the data set, which holds a broken file and a leak: --strict fails."""
    side.run("scripts/prepare_data.py audit --data_dir={data} --out={work}/audit/a --workers=1")
    side.run("scripts/prepare_data.py audit --data_dir={data} --out={work}/audit/b --strict --workers=1", expected=1)


def evaluate(side: Side) -> None:
    """Evaluate the side's own export with everything there is, once more with less, and compare the two."""
    model = "--model_dir={work}/train-float32-1/export"
    side.run(f"-m trainer.evaluate {model}/best --data_dir={{data}} --out={{work}}/evaluate/best --bootstrap=100 "
             "--robustness --groups={groups} --audit={work}/audit/a")  # fmt: skip
    side.run(f"-m trainer.evaluate {model}/last --data_dir={{data}} --out={{work}}/evaluate/last --bootstrap=0 "
             "--threshold=0.4 --update_card")  # fmt: skip
    both = "{work}/evaluate/best,{work}/evaluate/last"
    side.run(f"-m trainer.evaluate --compare={both} --out={{work}}/evaluate/compared --bootstrap=50")


def predict(side: Side) -> None:
    """Predict images into CSV, JSON Lines and heat maps, and videos."""
    model = "--model_dir={work}/train-float32-1/export/best"
    side.run(
        f"-m trainer.predict {model} {{data}}/Test --out={{work}}/predict/rows.csv --explain={{work}}/predict/maps"
    )
    side.run(f"-m trainer.predict {model} {{data}}/Train --out={{work}}/predict/rows.jsonl", expected=1)
    side.run(f"-m trainer.predict {model} {{video}} --video --out={{work}}/predict/videos.csv "
             "--frames_out={work}/predict/frames.csv")  # fmt: skip


def use_old_export(side: Side) -> None:
    """Evaluate and predict with the export that the base's code wrote."""
    model = f"--model_dir={side.work.parent}/base/train-float32-1/export/best"
    side.run(f"-m trainer.evaluate {model} --data_dir={{data}} --out={{work}}/old_export --bootstrap=0")
    side.run(f"-m trainer.predict {model} {{data}}/Test --out={{work}}/old_export/rows.csv")


def export(side: Side) -> None:
    """Export a checkpoint again, as SavedModel and TFLite."""
    side.run("-m trainer.export --job_dir={work}/train-float32-1 --out={work}/export --formats=savedmodel,tflite "
             "--num_samples=8")  # fmt: skip


def print_help(side: Side) -> None:
    """Keep the help page of every command."""
    for command in HELP:
        page = side.work / "flags" / _page(command)
        page.parent.mkdir(exist_ok=True)
        page.write_text(side.run(f"{command} --help"))


def _page(command: str) -> str:
    return command.replace("/", "_").replace(" ", "_") + ".txt"


def refuse(side: Side) -> None:
    """Send wrong requests, which end with 2, and a finished job again, which ends with 0."""
    (side.work / "codes").mkdir()
    job = "--job_dir={work}/train-float32-2 --precision=float32 --num_devices=2 " + TRAININGS["train-float32-2"]
    for words in ("--epochs=0", "--no_such_flag", "--data_dir={work}/codes", "--dropout=0.4", "--image_size=45"):
        side.run(f"-m trainer.train {SMALL} {job} {words}", expected=2)
    for words in ("-m trainer.evaluate", "-m trainer.predict --model_dir={work}/codes {data}", "-m trainer.tune",
                  "-m trainer.export --job_dir={work}/codes --out={work}/codes/out", "scripts/prepare_data.py",
                  "scripts/submit.py run"):  # fmt: skip
        side.run(words, expected=2)
    side.run(f"-m trainer.train {SMALL} {job}")
    shutil.copy(side.work / "train-float32-2" / "result.json", side.work / "codes")


# In this order: jobs come after those that they need.
JOBS = {
    "flags": Job(print_help),
    **{name: training(name) for name in TRAININGS},
    "codes": Job(refuse, needs=("train-float32-2",)),
    # When a kill comes is chance, so that starts and checkpoints differ; steps and the result must not.
    "killed": Job(kill_and_continue, kinds=("train", "validation"), only=("metrics.jsonl", "result.json")),
    "handover": Job(continue_handover, begin=begin_handover),
    "sweep": Job(sweep),
    "pack": Job(pack),
    "cache": Job(cache),
    "audit": Job(audit),
    "evaluate": Job(evaluate, needs=("train-float32-1", "audit")),
    "predict": Job(predict, needs=("train-float32-1",)),
    "old_export": Job(use_old_export, needs=("train-float32-1",)),
    "export": Job(export, needs=("train-float32-1",)),
}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # So that nothing is left behind.
    sys.exit(main())
