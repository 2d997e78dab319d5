"""The runs of this user, from their records and what Slurm says of their jobs."""

import dataclasses
import getpass
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trainer.submit import states
from trainer.submit.slurm import records, tools
from trainer.submit.slurm.records import Record
from trainer.submit.states import Run

_STATES = {
    "PENDING": states.QUEUED,
    "REQUEUED": states.QUEUED,
    "CONFIGURING": states.PENDING,
    "SUSPENDED": states.PENDING,
    "RUNNING": states.RUNNING,
    "COMPLETING": states.STOPPING,
    "COMPLETED": states.DONE,
    "CANCELLED": states.CANCELLED,
}  # Any other, such as TIMEOUT or NODE_FAIL, is a failure.
_LIVELIEST_FIRST = (states.RUNNING, states.STOPPING, states.PENDING, states.QUEUED)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of a run's array, or its only one.

    Attributes:
        index: in the array; empty: no array.
        state: one of ``states``.
        word: the state as Slurm writes it; empty: Slurm has forgotten it.
        where: its nodes, or why it waits.
    """

    index: str
    state: str
    word: str
    where: str = ""


def find_all() -> list[tuple[Run, list[Task]]]:
    """Return all runs by name with their tasks."""
    every = records.read_all()
    names = {record.job: record.name for record in every}
    queued: dict[str, list[Task]] = {}
    for job, name, index, word, where in tools.queue() if every else ():
        if names.get(job) == name:  # Else a cluster that was set up anew counts from 1 again.
            queued.setdefault(job, []).append(Task(index, _state_of(word), word, where))
    absent = [record.job for record in every if record.job and record.job not in queued]
    accounted = {
        job: [Task(index, _state_of(word), word) for index, word in tasks]
        for job, tasks in tools.accounted(absent).items()
    }
    return [_with_tasks(record, queued, accounted) for record in every]


def find(name: str) -> tuple[Run, list[Task]]:
    """Return one run and its tasks.

    Raises:
        RequestError: if there is no such run.
    """
    records.read(name)
    return next(entry for entry in find_all() if entry[0].name == name)


def note_end(run: Run) -> None:
    """Keep in the record how a run ended, as Slurm forgets it."""
    if not run.is_live and not run.is_noted:
        records.update(dataclasses.replace(records.read(run.name), end=run.state))


def exit_codes(record: Record) -> dict[str, int]:
    """Return the exit codes that the run's batch scripts wrote at their ends, by task of the array."""
    codes = {}
    for path in Path(record.log_dir).glob(f"{record.name}-{record.job}*.end"):
        task = path.stem.removeprefix(f"{record.name}-{record.job}").removeprefix("_")
        text = path.read_text(encoding="utf-8").strip()
        if text.isdigit():
            codes[task] = int(text)
    return codes


def logs(record: Record) -> list[Path]:
    """Return the logs of a run, that of each task of the array."""
    folder = Path(record.log_dir)
    one, several = f"{record.name}-{record.job}.log", f"{record.name}-{record.job}_*.log"
    return sorted((*folder.glob(one), *folder.glob(several)), key=lambda path: (len(path.name), path.name))


def _with_tasks(
    record: Record, queued: Mapping[str, list[Task]], accounted: Mapping[str, list[Task]]
) -> tuple[Run, list[Task]]:
    tasks = queued.get(record.job) or accounted.get(record.job) or []
    codes = exit_codes(record) if record.job else {}
    known = {task.index for task in tasks}
    ended = [Task(i, states.FAILED if code else states.DONE, "") for i, code in codes.items() if i not in known]
    if not any(task.word for task in tasks) and not codes:
        return _run_of(record, record.end or states.GONE, ""), []
    tasks = sorted([*tasks, *ended], key=lambda task: (len(task.index), task.index))
    state = _together(tasks)
    state = state if state in _LIVELIEST_FIRST else record.end or state
    return _run_of(record, state, _detail(state, tasks, codes)), tasks


def _together(tasks: Sequence[Task]) -> str:
    """Return the state of all tasks: the liveliest, or else that of the first, which holds a sweep's chief."""
    for state in _LIVELIEST_FIRST:
        if any(task.state == state for task in tasks):
            return state
    return tasks[0].state


def _detail(state: str, tasks: Iterable[Task], codes: Mapping[str, int]) -> str:
    if state == states.FAILED:
        failed = [task for task in tasks if task.state == states.FAILED]
        return "; ".join(
            f"exit code {codes[task.index]}" if task.index in codes else task.word for task in failed
        )  # fmt: skip
    if state in (states.QUEUED, states.PENDING):
        return ", ".join(dict.fromkeys(task.where for task in tasks if task.state == state and task.where))
    return ""


def _state_of(word: str) -> str:
    return _STATES.get(word, states.FAILED)


def _run_of(record: Record, state: str, detail: str) -> Run:
    flags = record.run
    machines = flags.get("sweep_workers") or flags.get("workers", 1)
    trials = [word.partition("=")[2] for word in record.trainer if word.startswith("--max_trials=")]
    return Run(
        name=record.name,
        kind="array" if record.tasks > 1 else "job",
        state=state,
        detail=detail,
        job_dir=flags.get("job_dir", ""),
        image=flags.get("container", ""),
        created=record.submitted,
        gpus=machines * flags.get("gpus", 1),
        queue=flags.get("queue", ""),
        owner=getpass.getuser(),
        is_sweep=bool(flags.get("sweep_workers")),
        max_trials=int(trials[-1]) if trials else 0,
        uid=record.job,
        is_noted=bool(record.end),
    )
