"""The runs of a namespace: their state, from the cluster, and their progress, from their job_dir."""

import concurrent.futures
import contextlib
import dataclasses
import json
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.submit.api import KubeClient, Object
from trainer.submit.render import INSTANCE, pod_templates

SELECTOR = "app.kubernetes.io/name=deepdetect"
RECORD = "app.kubernetes.io/name=deepdetect-run"
_OVER = ("done", "failed", "gone")


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run from its metrics.jsonl; None where that has no value.

    Attributes:
        step: steps done.
        total_steps: of the whole run.
        loss: of the newest train line, nats.
        images_per_second: of the newest train line.
        batch_size: global batch, images.
        starts: number of starts of the trainer.
        ended: whether the trainer recorded its end.
        problem: why the file cannot be read, empty if it can.
    """

    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    images_per_second: float | None = None
    batch_size: int | None = None
    starts: int = 0
    ended: bool = False
    problem: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Remaining training time at the newest speed."""
        if self.step is None or not (self.total_steps and self.batch_size and self.images_per_second):
            return None
        return max(self.total_steps - self.step, 0) * self.batch_size / self.images_per_second


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: of the run.
        kind: Job or JobSet; empty if only its record is left in the cluster.
        state: queued, pending, running, stopping, done, failed or gone.
        detail: the reason in the cluster's words; may be empty.
        job_dir: of the trainer.
        image: of the container.
    """

    name: str
    kind: str
    state: str
    detail: str
    job_dir: str
    image: str

    @property
    def is_live(self) -> bool:
        """Whether its pods may still write into job_dir."""
        return self.state not in _OVER


def find_all(client: KubeClient) -> list[Run]:
    """Return all runs of the namespace by name, those of which only a record is left included."""
    all_runs = [
        run_of(item) for kind in ("Job", "JobSet") for item in client.list(kind, SELECTOR).items if not _is_part(item)
    ]
    names = {run.name for run in all_runs}
    for record in client.list("ConfigMap", RECORD).items:
        name = record["metadata"]["labels"].get(INSTANCE, "")
        if name not in names:
            flags = read_record(record).get("run", {})
            all_runs.append(Run(name, "", "gone", "", flags.get("job_dir", ""), flags.get("image", "")))
    return sorted(all_runs, key=lambda run: run.name)


def find(client: KubeClient, name: str) -> Run:
    """Return one run.

    Raises:
        RequestError: if there is no such run.
    """
    for kind in ("Job", "JobSet"):
        item = client.get(kind, name)
        if item is not None:
            return run_of({"kind": kind, **item})
    matches = [run for run in find_all(client) if run.name == name]
    if not matches:
        raise RequestError(f"expected a run in namespace {client.namespace}, found none named {name!r}; see list")
    return matches[0]


def read_record(item: Object) -> dict[str, Any]:
    """Return a run's request from its ConfigMap; empty if that holds something else."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return dict(json.loads(item["data"]["request.json"]))
    return {}


def require_free(client: KubeClient, job_dir: str) -> None:
    """Refuse a job_dir that a live run of the namespace writes into.

    Raises:
        RequestError: naming the run.
    """
    for run in find_all(client):
        if run.is_live and run.job_dir.rstrip("/") == job_dir.rstrip("/"):
            raise RequestError(
                f"--job_dir: expected one that no live run uses, received {job_dir!r} of run {run.name} ({run.state}); "
                "cancel that one, or give another --job_dir"
            )


def _is_part(item: Object) -> bool:
    """Return whether an object belongs to a JobSet."""
    return any(owner["kind"] == "JobSet" for owner in item["metadata"].get("ownerReferences", []))


def run_of(item: Object) -> Run:
    """Return a Job or JobSet as a run."""
    container = next(pod_templates(item))["spec"]["containers"][0]
    words = [word for word in container.get("args", []) if word.startswith("--job_dir=")]
    job_dir = words[-1].partition("=")[2] if words else ""
    state, detail = state_of(item)
    return Run(item["metadata"]["name"], item["kind"], state, detail, job_dir, container["image"])


def state_of(item: Object) -> tuple[str, str]:
    """Return a Job's or JobSet's state, and the reason in the cluster's words."""
    status = item.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", []) if entry.get("status") == "True"}
    for kind, state in (("Complete", "done"), ("Completed", "done"), ("Failed", "failed")):
        if kind in conditions:
            message = conditions[kind].get("message", "")
            return state, "" if state == "done" else " ".join(
                f"{conditions[kind].get('reason', '')}: {message}".split()
            )
    if item["metadata"].get("deletionTimestamp"):
        return "stopping", "its pods are saving"
    if "Suspended" in conditions or item["spec"].get("suspend"):
        return "queued", conditions.get("Suspended", {}).get("message", "")
    if "FailureTarget" in conditions:
        return "stopping", conditions["FailureTarget"].get("message", "")
    parts = status.get("replicatedJobsStatus") or [status]
    return ("running" if any(part.get("ready") for part in parts) else "pending"), ""


def progress(run: Run) -> Progress:
    """Read a run's progress from its job_dir; a missing file means that there is none yet."""
    if not run.job_dir:
        return Progress(problem="no --job_dir")
    paths = JobPaths(run.job_dir)
    try:
        if not files.exists(paths.metrics):
            return Progress()
        lines = files.read_text(paths.metrics).splitlines()
        batch = json.loads(files.read_text(paths.config)).get("batch_size") if files.exists(paths.config) else None
    except Exception as error:  # Any error of a bucket's client: the other runs must still be listed.
        return Progress(problem=" ".join(str(error).split())[:120])
    return _progress(lines, batch)


def _progress(lines: list[str], batch_size: int | None) -> Progress:
    newest: dict[str, dict[str, Any]] = {}
    starts = step = 0
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # Of a line that is being written.
        newest[entry["kind"]] = entry
        starts += entry["kind"] == "start"
        step = entry["step"]
    train = newest.get("train", {})
    return Progress(
        step=step if newest else None,
        total_steps=newest.get("start", {}).get("total_steps"),
        loss=train.get("loss"),
        images_per_second=train.get("images_per_second"),
        batch_size=batch_size,
        starts=starts,
        ended="end" in newest and newest["end"]["step"] >= step,
    )


def table(runs: list[Run]) -> str:
    """Return the runs and their progress as aligned columns."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rows = [_row(run, status) for run, status in zip(runs, pool.map(progress, runs), strict=True)]
    rows = [("NAME", "STATE", "STEP", "LOSS", "IMAGES/S", "LEFT", "RESTARTS", "JOB_DIR"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(run: Run, status: Progress) -> tuple[str, ...]:
    done = "-" if status.step is None else f"{status.step}/{status.total_steps or '?'}"
    loss = "-" if status.loss is None else f"{status.loss:.4f}"
    speed = f"{status.images_per_second:.0f}" if status.images_per_second else "-"
    left = duration(status.seconds_left) if run.is_live else "-"
    restarts = str(max(status.starts - 1, 0)) if status.starts else "-"
    state = "done" if run.state == "gone" and status.ended else run.state
    return run.name, state, done, loss, speed, left, restarts, run.job_dir


def duration(seconds: float | None) -> str:
    """Return seconds as 2h05m or 3m20s."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def describe_pods(pods: list[Object]) -> list[str]:
    """Return one line per pod: its role, name, node and state, and why it waits or ended."""
    return [f"{label_of(pod):<12} {pod['metadata']['name']}  {_pod_state(pod)}" for pod in pods]


def label_of(pod: Object) -> str:
    """Return a pod's role in its run: worker 3, chief or trainer."""
    labels = pod["metadata"].get("labels", {})
    if labels.get("deepdetect/role") == "chief":
        return "chief"
    index = pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index")
    return "trainer" if index is None else f"worker {index}"


def failed_before_start(pod: Object) -> list[str]:
    """Return the containers that run before the trainer and failed, so that it never starts."""
    entries = pod.get("status", {}).get("initContainerStatuses", [])
    return [entry["name"] for entry in entries if entry.get("state", {}).get("terminated", {}).get("exitCode")]


def _pod_state(pod: Object) -> str:
    status = pod.get("status", {})
    words = [status.get("phase", "Pending")]
    if pod.get("spec", {}).get("nodeName"):
        words.append(f"on {pod['spec']['nodeName']}")
    words += [f"{name} failed" for name in failed_before_start(pod)]
    for container in status.get("containerStatuses", []):
        state = container.get("state", {})
        if "terminated" in state:
            words.append(f"exit code {state['terminated'].get('exitCode')}")
        elif "waiting" in state:
            words.append(f"{state['waiting'].get('reason', '')} {state['waiting'].get('message', '')}".strip())
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            words.append(condition.get("message", ""))
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            words.append(f"disrupted: {condition.get('message', '')}")
    return ", ".join(filter(None, words))
