"""What the cluster reports about a run: events of its objects, its pods, its Workload and their nodes, newest first."""

import dataclasses
import re
from collections.abc import Collection, Sequence

from trainer.submit.kube import workloads
from trainer.submit.kube.api import KubeClient, Object, Refused
from trainer.submit.states import Run

_OF_NODES = "default"  # The namespace of their events.


@dataclasses.dataclass(frozen=True)
class Events:
    """Events, newest first, and what could not be read of them."""

    items: list[Object]
    notes: list[str]

    def newest_warning(self) -> str:
        """Return the newest warning as one line; empty if there is none."""
        return next((line(item) for item in self.items if item.get("type") == "Warning"), "")


def of_run(client: KubeClient, run: Run, pods: Sequence[Object]) -> Events:
    """Return the events of a run."""
    notes: list[str] = []
    names = {run.name, *(pod["metadata"]["name"] for pod in pods)}
    workload = workloads.of_owner(_list(client, "Workload", notes), run.uid) if run.queue else None
    if workload:
        names.add(workload["metadata"]["name"])
    pattern = re.compile(rf"{re.escape(run.name)}-(workers|chief)-\d+(-.*)?")
    items = [item for item in _list(client, "Event", notes) if _is_about(item, names, pattern)]
    nodes = {pod.get("spec", {}).get("nodeName") for pod in pods} - {None, ""}
    if nodes:
        # Not everybody may read that namespace, and what happens to nodes is rarely the reason: no note.
        about = _list(client, "Event", [], "involvedObject.kind=Node", _OF_NODES)
        items += [item for item in about if item.get("involvedObject", {}).get("name") in nodes]
    return Events(sorted(items, key=_time, reverse=True), notes)


def line(event: Object) -> str:
    """Return an event as one line."""
    about = event.get("involvedObject", {})
    count = (event.get("series") or {}).get("count") or event.get("count") or 1
    times = f" ({count} times)" if count > 1 else ""
    words = f"{event.get('type', '')}: {event.get('reason', '')}: {event.get('message', '')}"
    place = f"{_time(event)[:19]} {about.get('kind', '')} {about.get('name', '')}"
    return f"{place} {' '.join(words.split())}{times}".strip()


def _is_about(event: Object, names: Collection[str], pattern: re.Pattern[str]) -> bool:
    name = event.get("involvedObject", {}).get("name", "")
    return name in names or bool(pattern.fullmatch(name))


def _time(event: Object) -> str:
    """Return the time of an event's last occurrence; times of UTC compare as text."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"),
             event.get("firstTimestamp"), event["metadata"].get("creationTimestamp"))  # fmt: skip
    return next((str(time) for time in times if time), "")


def _list(client: KubeClient, kind: str, notes: list[str], fields: str = "", namespace: str = "") -> list[Object]:
    try:
        return client.list(kind, fields=fields, namespace=namespace).items
    except Refused as error:
        notes.append(str(error))
        return []
