"""States of a run, and how a Job or JobSet shows them."""

from trainer.submit.api import Object

QUEUED, PENDING, RUNNING, STOPPING = "queued", "pending", "running", "stopping"
DONE, FAILED = "done", "failed"
# Of a run whose objects are no longer in the cluster: by cancel, by age, or for a reason that nobody noted.
CANCELLED, EXPIRED, GONE = "cancelled", "expired", "gone"
OVER = (DONE, FAILED, CANCELLED, EXPIRED, GONE)


def state_of(item: Object) -> tuple[str, str]:
    """Return a Job's or JobSet's state, and the reason in the cluster's words."""
    status = item.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", []) if entry.get("status") == "True"}
    for kind, state in (("Complete", DONE), ("Completed", DONE), ("Failed", FAILED)):
        if kind in conditions:
            message = conditions[kind].get("message", "")
            return state, "" if state == DONE else " ".join(f"{conditions[kind].get('reason', '')}: {message}".split())
    if item["metadata"].get("deletionTimestamp"):
        return STOPPING, "its pods are saving"
    if "Suspended" in conditions or item["spec"].get("suspend"):
        return QUEUED, conditions.get("Suspended", {}).get("message", "")
    if "FailureTarget" in conditions:
        return STOPPING, conditions["FailureTarget"].get("message", "")
    parts = status.get("replicatedJobsStatus") or [status]
    return (RUNNING if any(part.get("ready") for part in parts) else PENDING), ""
