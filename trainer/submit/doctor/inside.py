"""Checks from inside two pods, which are deleted whatever happens."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.core.errors import JobFailed, RequestError
from trainer.submit import states
from trainer.submit.doctor import manifests, results
from trainer.submit.doctor.findings import MISSING, UNKNOWN, Finding
from trainer.submit.doctor.flags import DoctorFlags
from trainer.submit.kube import conditions, follow, pods, runs
from trainer.submit.kube.api import Interrupted, KubeClient, Object, Refused

_POLL_SECONDS = 2.0
_MACHINES = 2
_NEEDED = ("API server", "JobSet", "namespace", "account")  # Without them no pod starts.


def findings(own: DoctorFlags, objects: Sequence[Object], before: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Yield what two pods see.

    Args:
        own: the flags.
        objects: of a run that needs what they name.
        before: subject and state of what was seen from outside.
    """
    absent = [subject for subject, state in before if state == MISSING and subject in _NEEDED]
    if absent or not objects:
        yield Finding("pods", UNKNOWN, f"not started: {', '.join(absent) or 'kubectl'} is missing")
        return
    yield from _run(KubeClient(own.namespace, own.context), manifests.of_test(own, objects), own.wait_minutes * 60)


def _run(client: KubeClient, objects: list[Object], seconds: float) -> list[Finding]:
    """Start the pods, wait for their results, and delete them, also if this is interrupted."""
    name = objects[0]["metadata"]["name"]
    try:
        _create(client, objects)
        own_pods = _wait(client, name, seconds)
        if not own_pods:
            run = runs.find(client, name)  # Explains what it waits for in a queue.
            remedy = "kubectl get events; free the queue, or raise --wait_minutes"
            return [Finding("pods", MISSING, f"none was made: {run.state} {run.detail}".strip(), remedy)]
        return list(results.of_pods(own_pods, [_log(client, pod) for pod in own_pods]))
    except (RequestError, JobFailed) as error:
        return [Finding("pods", MISSING, str(error))]
    finally:
        _delete(client, name)


def _create(client: KubeClient, objects: list[Object]) -> None:
    owner: dict[str, Any] = {}
    for item in objects:
        if owner:  # So that the cluster deletes it with the JobSet.
            item["metadata"]["ownerReferences"] = [owner]
        made = client.create(item)
        owner = owner or {"apiVersion": item["apiVersion"], "kind": item["kind"], "name": item["metadata"]["name"],
                          "uid": made["metadata"]["uid"]}  # fmt: skip


def _delete(client: KubeClient, name: str) -> None:
    try:
        client.delete("JobSet", name)
        _say(f"deleted {name}")
    except (Refused, JobFailed) as error:
        _say(f"{error}; delete it: kubectl -n {client.namespace} delete jobset {name}")


def _wait(client: KubeClient, name: str, seconds: float) -> list[Object]:
    """Return the pods once they ended, or cannot start, or the time is over; show what changes."""
    _say(f"started {name} on {_MACHINES} nodes; waits for at most {seconds / 60:g} minutes, Ctrl-C deletes it")
    end, shown = time.monotonic() + seconds, ""
    while True:
        own_pods = pods.of_run(client, name)
        text = "\n".join(pods.describe(own_pods))
        if text != shown:
            _say(text)
            shown = text
        is_over = len(own_pods) >= _MACHINES and all(map(results.is_over, own_pods))
        if is_over or any(map(results.has_no_image, own_pods)) or time.monotonic() > end or _has_ended(client, name):
            return own_pods
        time.sleep(_POLL_SECONDS)


def _has_ended(client: KubeClient, name: str) -> bool:
    """Return whether the JobSet is over or gone, so that no pod is to come."""
    item = client.get("JobSet", name)
    return item is None or conditions.state_of({"kind": "JobSet", **item})[0] in (states.DONE, states.FAILED)


def _log(client: KubeClient, pod: Object) -> list[str]:
    """Return the lines of a pod's self-tests."""
    lines: list[str] = []
    for container in (follow.SELF_TEST, follow.CONTAINER):
        try:
            lines += [line.partition(" ")[2] for line in client.log(pod["metadata"]["name"], container, follow=False)]
        except (Interrupted, Refused, JobFailed):  # There is no such container, or it never started.
            continue
    return lines


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
