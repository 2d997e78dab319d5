"""Why Kueue does not start a run: what its Workload says, in words, and its place in the queue."""

import contextlib
from collections.abc import Iterable

from trainer.core.errors import JobFailed
from trainer.submit.kube.api import KubeClient, Object, Refused

# Beginnings of Kueue's messages, and what they mean; the first that occurs decides.
_MEANINGS = (
    ("LocalQueue", "doesn't exist", "no such queue"),
    ("ClusterQueue", "doesn't exist", "no such queue"),
    ("", "is inactive", "the queue is stopped"),
    ("", "maximum capacity", "more than the queue has"),
    ("", "insufficient quota", "more than the queue has"),
    ("", "untolerated taint", "no flavour of the queue fits"),
    ("", "doesn't match node affinity", "no flavour of the queue fits"),
    ("", "TopologyAwareScheduling", "no flavour of the queue is for this --topology"),
    ("", "does not contain the requested level", "no flavour of the queue is for this --topology"),
    ("", "insufficient unused quota", "no room"),
    ("", "preemption", "waits for another run to give way"),
)


def reasons(items: Iterable[Object]) -> dict[str, str]:
    """Return why each run waits, by the uid of its Job or JobSet."""
    return {owner["uid"]: reason(item) for item in items for owner in item["metadata"].get("ownerReferences", [])}


def explain(client: KubeClient, uid: str, queue: str) -> str:
    """Return why a run waits, and its place in the queue; empty if there is no Workload of it."""
    item = of_owner(client.list("Workload").items, uid)
    if item is None:
        return ""
    return ", ".join(filter(None, (reason(item), _place(client, item["metadata"]["name"], queue))))


def of_owner(items: Iterable[Object], uid: str) -> Object | None:
    """Return the Workload of a Job or JobSet."""
    owned = (item for item in items if uid in [owner["uid"] for owner in item["metadata"].get("ownerReferences", [])])
    return next(owned, None)


def reason(item: Object) -> str:
    """Return why a Workload waits; empty if it does not."""
    conditions = {entry["type"]: entry for entry in item.get("status", {}).get("conditions", [])}
    if conditions.get("Admitted", {}).get("status") == "True":
        return ""
    evicted = conditions.get("Evicted", {})
    entry = conditions.get("QuotaReserved", {})
    if entry.get("status") == "True":
        return "has its quota, waits for admission checks" + _checks(item)
    words = [_with_meaning(entry.get("message", ""))]
    if evicted.get("status") == "True":
        words.append(f"evicted before: {evicted.get('message', '')}")
    return "; ".join(filter(None, words)) or "not looked at by Kueue yet"


def _with_meaning(message: str) -> str:
    message = " ".join(message.split())
    for first, second, meaning in _MEANINGS:
        if first in message and second in message:
            return f"{meaning}: {message}"
    return message


def _checks(item: Object) -> str:
    checks = [check for check in item["status"].get("admissionChecks", []) if check.get("state") != "Ready"]
    return "".join(
        f"; {check['name']}: {check.get('state', '')} {check.get('message', '')}".rstrip() for check in checks
    )


def _place(client: KubeClient, name: str, queue: str) -> str:
    """Return the place in the queue, which Kueue's visibility API tells if it is on and allowed."""
    waiting: list[Object] = []
    with contextlib.suppress(Refused, JobFailed):
        waiting = client.pending_in(queue).items if queue else []
    for entry in waiting:
        if entry["metadata"]["name"] == name:
            return f"number {entry['positionInLocalQueue'] + 1} of {len(waiting)} in queue {queue}"
    return ""
