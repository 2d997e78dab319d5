"""Alternatives of a run, one after the other: each may wait for its machines for a while, then the next replaces it.

Nothing is lost, as nothing had started: a run whose machines are there is never replaced.
"""

import contextlib
import time
from collections.abc import Sequence

from trainer.core.errors import JobFailed
from trainer.submit import alternatives, states
from trainer.submit.alternatives import Alternative
from trainer.submit.kube import any_machine, pods, render, runs
from trainer.submit.kube.api import KubeClient, Object, Refused

_LOOK_SECONDS = 2.0  # Between two looks at the pods.
_GONE_SECONDS = 300.0  # For pods that end: their grace period, and time for the cluster to notice.

Attempt = tuple[Alternative, list[Object]]


def attempts(every: Sequence[Alternative]) -> list[Attempt]:
    """Return what is to be created, in order: for Kueue one for all, else one for each alternative."""
    if alternatives.are_for_kueue(every):
        by_grace = sorted(every, key=lambda each: not each.run.spot)
        objects = any_machine.merge([_objects(each) for each in by_grace])
        return [(by_grace[0], objects)]
    return [(each, _objects(each)) for each in every]


def _objects(each: Alternative) -> list[Object]:
    return render.run_objects(each.request, each.accelerator)


def has_machines(client: KubeClient, attempt: Alternative, seconds: float) -> bool:
    """Wait until a run has its machines, or has ended; return False if it still waits for them after that time."""
    end = time.monotonic() + seconds
    while True:
        answer: bool | None = None
        with contextlib.suppress(JobFailed):  # The API server is away: what it would say decides, not that.
            answer = _has_machines(client, attempt)
        left = end - time.monotonic()
        if answer or (answer is False and left <= 0):
            return bool(answer)
        time.sleep(_LOOK_SECONDS if answer is None else min(_LOOK_SECONDS, left))


def _has_machines(client: KubeClient, attempt: Alternative) -> bool:
    run = attempt.run
    if runs.find(client, run.name).state in (states.STOPPING, *states.OVER):
        return True
    placed = [pod for pod in pods.of_run(client, run.name)
              if pod.get("spec", {}).get("nodeName") and pods.label_of(pod) != "chief"]  # fmt: skip
    # Each worker of a sweep tries settings by itself; machines that train one model wait for each other.
    return len(placed) >= (1 if run.sweep_workers else run.machines)


def remove(client: KubeClient, item: Object) -> None:
    """Delete a run's first object and wait until its name is free.

    Raises:
        JobFailed: if it does not go away.
    """
    kind, name = item["kind"], item["metadata"]["name"]
    client.delete(kind, name)
    end = time.monotonic() + _GONE_SECONDS
    while client.get(kind, name) is not None:
        if time.monotonic() > end:
            raise JobFailed(
                f"{kind} {name} was deleted and does not go away; see kubectl describe, then: resume {name}"
            )
        time.sleep(min(_LOOK_SECONDS, _GONE_SECONDS))


def create_again(client: KubeClient, item: Object) -> Object:
    """Create an object whose namesake the cluster removes with its owner, which was deleted.

    Raises:
        Refused: with code 409 if the other one stays.
    """
    end = time.monotonic() + _GONE_SECONDS
    while True:
        try:
            return client.create(item)
        except Refused as error:
            if error.code != 409 or time.monotonic() > end:
                raise
            time.sleep(_LOOK_SECONDS)
