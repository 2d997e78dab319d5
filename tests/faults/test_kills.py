"""A kill or a full disk at the n-th file operation of a job: the next start ends as if nothing had happened.

The job here is the real loop, log, store and writer around weights of two numbers, so that every n can be tried.  At
the end some real jobs are killed in a process of their own.
"""

import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import faults
from tests.helpers.jobs import argv, finished_job, result_of, run_job, values_of
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.training import loop
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore
from trainer.training.checkpoints.writer import AsyncCheckpointWriter
from trainer.training.metrics_log import MetricsLog
from trainer.training.observers import SavedCheckpoint, Start, TrainLine, Validation, Window

PLAN = loop.Plan(total_steps=3, steps_per_epoch=1)
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class Killed(BaseException):
    """Not even cleaning up runs after this one: every further operation raises it again."""


class Kill(faults.Fault):
    """Ends a process at its n-th operation on files below a folder, and keeps it dead."""

    def __call__(self, event, args):
        # While a tree is removed, names are relative to an open folder.
        if event in EVENTS and (str(args[0]).startswith(self.path) or "/" not in str(args[0])):
            self.seen += 1
            if self.seen >= self.first:
                raise Killed


@contextlib.contextmanager
def killed_at(number, folder):
    kill = Kill(path=str(folder), first=number)
    with faults.injected(event="none"):  # Installs the hook.
        faults._active.append(kill)
        try:
            yield kill
        finally:
            faults._active.remove(kill)


class Job:
    """One start of a job with the weights ``[a, b]``; a step and a validation change them."""

    def __init__(self, job_dir, *, in_thread=False):
        self.paths = JobPaths(str(job_dir))
        for folder in (self.paths.job_dir, self.paths.report):
            files.make_dirs(folder)
            files.remove_leftovers(folder)
        self.log_file = MetricsLog(self.paths, PLAN, write=True)
        self.store = CheckpointStore(self.paths.checkpoints, keep=2, logs=[self.paths.metrics])
        self.writer = AsyncCheckpointWriter(self.store) if in_thread else None
        before = self.store.newest()
        self.store.remove_leftovers()
        self.step = before.step if before else 0
        self.weights = before.arrays["w"] if before else np.array([1, 1], np.int64)
        self.validated = before.state["validated"] if before else 0
        self.stopping = False

    def run(self, *, stop_in_validation=False):
        """Run to the end, or to a stop request in the first validation; return whether it is done."""
        self.stop_in_validation = stop_in_validation
        self.log_file.on_start(Start(self.step, PLAN.total_steps, {}))
        reason = loop.run(
            PLAN, self.step, train=self.train, log=self.log, validate=self.validate, save=self.save,
            stop_requested=lambda: self.stopping,
            validate_first=PLAN.ends_epoch(self.step) and self.validated < self.step,
        )  # fmt: skip
        if reason is loop.StopReason.STOP_REQUEST:
            return False
        self.log_file.write_line("end", self.step)
        files.write_text(self.paths.result, json.dumps(self.weights.tolist()))
        return True

    def train(self, step):
        self.step, self.weights = step + 1, self.weights * 3 + step
        return self.step

    def log(self, step):
        self.log_file.on_window(Window(step, 0.1, 0.5, 0.5, 1, 1.0, 0.0, [TrainLine(step, {"loss": 1.0 / step})]))

    def validate(self, step):
        if self.stop_in_validation:
            self.stopping = True
            return
        self.weights, self.validated = self.weights + 1, step
        self.log_file.on_validation(Validation(step, {"val_loss": int(self.weights[0])}, np.zeros(1), np.zeros(1)))

    def save(self, step, *, must):
        self.log_file.flush()
        checkpoint = Checkpoint(step, {"w": self.weights}, {"validated": self.validated})
        if self.writer is None:
            self.store.save(checkpoint)
        else:
            self.writer.save(checkpoint, best_step=0, wait=True)
            self.writer.finish()
        self.log_file.on_checkpoint(SavedCheckpoint(step, self.store.path(step), 0.0))


def run_to_the_end(job_dir, **options):
    """Start the job twice: a stop request comes in the first validation, so that step 1 is saved twice."""
    return Job(job_dir, **options).run(stop_in_validation=True) or Job(job_dir, **options).run()


def outcome(job_dir):
    """Return what must not depend on kills: the weights, and all lines but those about starts and saves."""
    lines = [json.loads(line) for line in (Path(job_dir) / "metrics.jsonl").read_text().splitlines()]
    by_the_clock = ("time", "data_wait", "memory_bytes")
    kept = [
        {name: value for name, value in line.items() if name not in by_the_clock}
        for line in lines
        if line["kind"] in ("train", "validation", "end")
    ]
    return json.loads((Path(job_dir) / "result.json").read_text()), kept


def files_of(job_dir):
    """Return the names of all files; a step that was saved again has files of other names."""
    names = files.list_below(str(job_dir), hidden=True)
    return sorted(name.replace("again-", "") for name in names)


def require_whole(job_dir):
    """Assert that every checkpoint is complete, and that nothing lies beside the complete ones."""
    store = CheckpointStore(str(job_dir / "checkpoints"), keep=9)
    for step in store.steps():
        store.read(step)
    folders = os.listdir(job_dir / "checkpoints") if (job_dir / "checkpoints").exists() else []
    assert sorted(map(int, folders)) == store.steps()
    assert not [name for name in files_of(job_dir) if ".tmp" in name]
    assert all(len(os.listdir(job_dir / "checkpoints" / name)) == 3 for name in folders)


@pytest.fixture
def root(monkeypatch):
    """Return an empty folder, in memory where that is possible; without flushes, which only a power cut would miss."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def undisturbed(root):
    assert run_to_the_end(root / "undisturbed")
    return root / "undisturbed"


def test_a_kill_at_any_file_operation_changes_nothing(undisturbed, root):
    newest = 0
    for number in itertools.count(1):
        job_dir = root / str(number)
        with killed_at(number, job_dir), contextlib.suppress(Killed):
            run_to_the_end(job_dir)
            break
        store = CheckpointStore(str(job_dir / "checkpoints"), keep=2)
        found = store.newest()
        assert (found.step if found else 0) >= newest, number  # A checkpoint once written is never lost.
        newest = found.step if found else 0
        assert run_to_the_end(job_dir), number
        require_whole(job_dir)
        assert outcome(job_dir) == outcome(undisturbed), number
        # A kill before the last pruning leaves an older checkpoint more.
        assert set(files_of(job_dir)) >= set(files_of(undisturbed)), number
        shutil.rmtree(job_dir)
    assert number > 80


def test_a_second_kill_while_the_first_is_repaired_changes_nothing(undisturbed, root):
    for first, second in itertools.product(range(15, 80, 16), range(3, 60, 17)):
        job_dir = root / f"{first}-{second}"
        for number in (first, second):
            with killed_at(number, job_dir), contextlib.suppress(Killed):
                run_to_the_end(job_dir)
        assert run_to_the_end(job_dir)
        require_whole(job_dir)
        assert outcome(job_dir) == outcome(undisturbed), (first, second)


@pytest.mark.parametrize("count", [1, 0], ids=["once", "from then on"])
def test_a_disk_that_is_full_at_any_write_gets_no_fuller(undisturbed, root, package_log, count):
    for number in itertools.count(1):
        job_dir = root / str(number)
        with faults.injected(
            path=f"{job_dir}/*", first=number, count=count, number=errno.ENOSPC, mode="w"
        ) as fault, contextlib.suppress(OSError):  # fmt: skip
            run_to_the_end(job_dir, in_thread=True)
        if fault.seen < number:
            break
        require_whole(job_dir)
        assert run_to_the_end(job_dir), number
        assert outcome(job_dir) == outcome(undisturbed), number
        require_whole(job_dir)
    assert number > 20
    assert "No space left on device" in package_log.text


def test_a_rollback_that_is_killed_leaves_an_older_course_or_the_new_one(root):
    def states(folder):
        store = CheckpointStore(str(folder), keep=9)
        return [(step, store.read(step).state["rate"]) for step in store.steps()]

    seen = []
    for number in itertools.count(1):
        folder = root / str(number)
        store = CheckpointStore(str(folder), keep=9)
        for step in (1, 2, 3):
            store.save(Checkpoint(step, {"w": np.array([step])}, {"rate": 1}))
        with killed_at(number, folder), contextlib.suppress(Killed):
            store.save(Checkpoint(1, {"w": np.array([1])}, {"rate": 0.5}))
            store.remove_after(1)
            break
        store.remove_leftovers()
        seen.append(states(folder))
    orders = [[(1, 1), (2, 1), (3, 1)], [(1, 0.5), (2, 1), (3, 1)], [(1, 0.5), (2, 1)], [(1, 0.5)]]
    assert [state for state, _ in itertools.groupby(seen)] == orders
    assert states(folder) == orders[-1]


JOB = {"epochs": 2, "dropout": 0.2, "checkpoint_every_steps": 2, "keep_checkpoints": 2}


@pytest.fixture(scope="module")
def undisturbed_job(image_set, tmp_path_factory):
    return finished_job(image_set, tmp_path_factory.mktemp("undisturbed"), **JOB)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "path", "first"),
    [
        pytest.param("os.rename", "*/checkpoints/*/COMMIT.json*", 3, id="before a marker appears"),
        pytest.param(
            "os.remove", "*/checkpoints/*/COMMIT.json", 1, id="before one is removed", marks=pytest.mark.thorough
        ),
    ],
)
def test_a_real_job_that_is_killed_there_ends_alike(image_set, undisturbed_job, tmp_path, event, path, first):
    job_dir = tmp_path / "job"
    fault = {"event": event, "path": path, "first": first, "signal": int(signal.SIGKILL)}
    child = faults.run("trainer.train", *argv(image_set, job_dir, **JOB), fault=fault)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert run_job(image_set, job_dir, **JOB) == 0
    assert result_of(job_dir)["weights_sha256"] == result_of(undisturbed_job)["weights_sha256"]
    assert values_of(job_dir) == values_of(undisturbed_job)
    require_whole(job_dir)
