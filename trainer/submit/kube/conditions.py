"""The state of a Job or JobSet, from the conditions in its status."""

from trainer.submit import states
from trainer.submit.kube.api import Object


def state_of(item: Object) -> tuple[str, str]:
    """Return a Job's or JobSet's state, and the reason in the cluster's words."""
    status = item.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", []) if entry.get("status") == "True"}
    for kind, state in (("Complete", states.DONE), ("Completed", states.DONE), ("Failed", states.FAILED)):
        if kind in conditions:
            words = f"{conditions[kind].get('reason', '')}: {conditions[kind].get('message', '')}"
            return state, "" if state == states.DONE else " ".join(words.split())
    if item["metadata"].get("deletionTimestamp"):
        return states.STOPPING, "its pods are saving"
    if "Suspended" in conditions or item["spec"].get("suspend"):
        return states.QUEUED, conditions.get("Suspended", {}).get("message", "")
    if "FailureTarget" in conditions:
        return states.STOPPING, conditions["FailureTarget"].get("message", "")
    parts = status.get("replicatedJobsStatus") or [status]
    return (states.RUNNING if any(part.get("ready") for part in parts) else states.PENDING), ""
