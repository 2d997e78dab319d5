"""The runs of a namespace, as the cluster's objects and the runs' records tell of them."""

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.core.errors import RequestError
from trainer.submit import states
from trainer.submit.kube import conditions, workloads
from trainer.submit.kube.api import KubeClient, Object, Refused
from trainer.submit.kube.render import INSTANCE, QUEUE, gpus_of, pod_templates
from trainer.submit.request import RunFlags
from trainer.submit.states import Run, Runs

SELECTOR = "app.kubernetes.io/name=deepdetect"
RECORD = "app.kubernetes.io/name=deepdetect-run"
OWNER = "deepdetect/owner"  # Annotation of the record: who submitted the run.
END = "deepdetect/end"  # Annotation of the record: how the run ended, in one of the words of ``states.OVER``.
REASON = "deepdetect/end-reason"
_OF_GKE, _SPOT = "cloud.google.com/gke-accelerator", "cloud.google.com/gke-spot"  # Labels of nodes.
_KINDS = ("Job", "JobSet")  # Older versions ran one machine as a Job.
_KEPT = datetime.timedelta(seconds=604_800)  # ttlSecondsAfterFinished of k8s/base.


def record_name(name: str) -> str:
    """Return the name of the ConfigMap that keeps a run's request."""
    return f"{name}-run"


def find_all(client: KubeClient) -> Runs:
    """Return all runs of the namespace, those of which only a record is left included.

    A kind of object that this user may not list is left out, with a note.
    """
    notes: list[str] = []
    records = {item["metadata"]["labels"].get(INSTANCE, ""): item for item in _list(client, "ConfigMap", RECORD, notes)}
    objects = [item for kind in _KINDS for item in _list(client, kind, SELECTOR, notes) if not _is_part(item)]
    all_runs = [run_of(item, records.get(item["metadata"]["name"])) for item in objects]
    if any(run.state == states.QUEUED for run in all_runs):
        reasons = workloads.reasons(_list(client, "Workload", "", notes))
        all_runs = [
            dataclasses.replace(run, detail=reasons.get(run.uid, run.detail)) if run.state == states.QUEUED else run
            for run in all_runs
        ]
    names = {run.name for run in all_runs}
    if not notes:  # Else a run may be hidden, and not gone.
        all_runs += [_gone(name, record) for name, record in records.items() if name not in names]
    return Runs(sorted(all_runs, key=lambda run: run.name), notes, frozenset(names | records.keys()))


def find(client: KubeClient, name: str) -> Run:
    """Return one run.

    Raises:
        RequestError: if there is no such run.
    """
    notes: list[str] = []
    record = next(iter(_get(client, "ConfigMap", record_name(name), notes)), None)
    for kind in reversed(_KINDS):
        for item in _get(client, kind, name, notes):
            return explained(client, run_of({"kind": kind, **item}, record))
    if record is not None and not notes:
        return _gone(name, record)
    words = "".join(f"; {note}" for note in notes)
    raise RequestError(f"expected a run in namespace {client.namespace}, found none named {name!r}; see list{words}")


def explained(client: KubeClient, run: Run) -> Run:
    """Return a run with a better reason: what it lacks in its queue, or which exit code ended it."""
    detail = ""
    with contextlib.suppress(Refused):
        if run.state == states.QUEUED:
            detail = workloads.explain(client, run.uid, run.queue)
        elif run.state == states.FAILED and run.kind == "JobSet":
            jobs = client.list("Job", f"jobset.sigs.k8s.io/jobset-name={run.name}").items
            failures = [conditions.state_of({"kind": "Job", **job}) for job in jobs]
            detail = "; ".join(words for state, words in failures if state == states.FAILED)
    return dataclasses.replace(run, detail=detail) if detail else run


def note_end(client: KubeClient, run: Run, state: str) -> None:
    """Keep in a run's record how it ended, as the cluster removes its objects; without permission it does not."""
    if not run.is_noted:
        with contextlib.suppress(Refused):
            client.annotate("ConfigMap", record_name(run.name), {END: state, REASON: run.detail[:500]})


def read_record(item: Object) -> dict[str, Any]:
    """Return a run's request from its ConfigMap; empty if that holds something else."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return dict(json.loads(item["data"]["request.json"]))
    return {}


def require_free(client: KubeClient, job_dir: str) -> list[str]:
    """Refuse a job_dir that a live run of the namespace writes into; return what could not be looked at.

    Raises:
        RequestError: naming the run.
    """
    all_runs = find_all(client)
    for run in all_runs.items:
        if run.is_live and run.job_dir.rstrip("/") == job_dir.rstrip("/"):
            raise RequestError(
                f"--job_dir: expected one that no live run uses, received {job_dir!r} of run {run.name} ({run.state}); "
                "cancel that one, or give another --job_dir"
            )
    return all_runs.notes


def run_of(item: Object, record: Object | None = None) -> Run:
    """Return a Job or JobSet, and its record if there is one, as a run."""
    template = list(pod_templates(item))[-1]  # Of a sweep the workers'.
    container = template["spec"]["containers"][0]
    metadata, words = item["metadata"], container.get("args", [])
    state, detail = conditions.state_of(item)
    if state == states.FAILED:
        detail = _annotation(record, REASON) or detail
    accelerator, is_spot = _machines(template["spec"], record)
    return Run(
        name=metadata["name"],
        kind=item["kind"],
        state=state,
        detail=detail,
        job_dir=_flag(words, "job_dir"),
        image=container["image"],
        created=metadata.get("creationTimestamp", ""),
        gpus=gpus_of(item),
        queue=metadata.get("labels", {}).get(QUEUE, ""),
        owner=_annotation(record, OWNER),
        is_sweep="trainer.tune" in container.get("command", []),
        max_trials=int(_flag(words, "max_trials") or 0),
        accelerator=accelerator,
        is_spot=is_spot,
        uid=metadata.get("uid", ""),
        is_noted=record is None or bool(_annotation(record, END)),
    )


def _machines(pod: Object, record: Object | None) -> tuple[str, bool]:
    """Return the kind of GPU of a run's pods, and whether they are on spot machines; the first is empty if unknown.

    Kueue adds the labels of its choice to the selector; until then a run that leaves it the choice has none of them.
    """
    selector, flags = pod.get("nodeSelector", {}), read_record(record or {}).get("run", {})
    if _OF_GKE in selector:
        return str(selector[_OF_GKE]), _SPOT in selector
    may_be_any = "nodeAffinity" in pod.get("affinity", {})
    if may_be_any or record is None:
        return "", False
    return flags.get("accelerator", RunFlags.accelerator), bool(flags.get("spot"))


def _gone(name: str, record: Object) -> Run:
    """Return a run of which only the record is left."""
    request = read_record(record)
    flags, words = request.get("run", {}), request.get("trainer", [])
    end, reason = _annotation(record, END), _annotation(record, REASON)
    machines = flags.get("sweep_workers") or flags.get("workers", 1)
    created = record["metadata"].get("creationTimestamp", "")
    return Run(
        name=name,
        kind="",
        state=end if end in states.OVER else states.EXPIRED if _is_old(created) else states.GONE,
        detail=reason,
        job_dir=flags.get("job_dir", ""),
        image=flags.get("image", ""),
        created=created,
        gpus=machines * flags.get("gpus", 1),
        queue=flags.get("queue", ""),
        owner=_annotation(record, OWNER),
        accelerator="" if flags.get("gpu") and flags.get("queue") else flags.get("accelerator", RunFlags.accelerator),
        is_spot=bool(flags.get("spot")),
        is_sweep=bool(flags.get("sweep_workers")),
        max_trials=int(_flag(words, "max_trials") or 0),
        is_noted=True,
    )


def _is_old(created: str) -> bool:
    """Return whether the cluster may have removed an object of this time because it had ended long ago."""
    if not created:
        return False
    return datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(created) > _KEPT


def _flag(words: Sequence[str], name: str) -> str:
    values = [word.partition("=")[2] for word in words if word.startswith(f"--{name}=")]
    return values[-1] if values else ""


def _annotation(record: Object | None, name: str) -> str:
    return str((record or {}).get("metadata", {}).get("annotations", {}).get(name, ""))


def _list(client: KubeClient, kind: str, selector: str, notes: list[str]) -> list[Object]:
    """Return the objects of a kind; if that is forbidden, none and a note."""
    try:
        return client.list(kind, selector).items
    except Refused as error:
        notes.append(f"{kind}s are not shown: {error}")
        return []


def _get(client: KubeClient, kind: str, name: str, notes: list[str]) -> Iterator[Object]:
    """Yield an object if it exists; if that is forbidden, add a note."""
    try:
        item = client.get(kind, name)
    except Refused as error:
        notes.append(str(error))
        return
    if item is not None:
        yield item


def _is_part(item: Object) -> bool:
    """Return whether an object belongs to a JobSet."""
    return any(owner["kind"] == "JobSet" for owner in item["metadata"].get("ownerReferences", []))
