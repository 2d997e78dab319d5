"""Pods of a run, and in words: role, node, state, and why one waits or ended."""

import datetime

from trainer.submit.kube.api import KubeClient, Object
from trainer.submit.kube.render import GPU, INSTANCE


def selector(name: str) -> str:
    """Return the labels of a run's pods."""
    return f"app.kubernetes.io/name=deepdetect,{INSTANCE}={name}"


def of_run(client: KubeClient, name: str) -> list[Object]:
    """Return a run's pods."""
    return client.list("Pod", selector(name)).items


def describe(pods: list[Object]) -> list[str]:
    """Return one line per pod: its role, name, node and state, and why it waits or ended."""
    return [f"{label_of(pod):<12} {pod['metadata']['name']}  {_state(pod)}" for pod in pods]


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


def gpu_hours(pods: list[Object], now: datetime.datetime) -> float | None:
    """Return the GPU-hours of pods that have been on a node; None if none has."""
    hours = [_gpu_hours(pod, now) for pod in pods if pod.get("status", {}).get("startTime")]
    return sum(hours) if hours else None


def _gpu_hours(pod: Object, now: datetime.datetime) -> float:
    containers = pod["spec"].get("containers", [])
    gpus = sum(int(one.get("resources", {}).get("limits", {}).get(GPU, 0)) for one in containers)
    ends = [entry["state"]["terminated"].get("finishedAt") for entry in pod["status"].get("containerStatuses", [])
            if "terminated" in entry.get("state", {})]  # fmt: skip
    end = datetime.datetime.fromisoformat(max(ends)) if ends and all(ends) else now
    return (end - datetime.datetime.fromisoformat(pod["status"]["startTime"])).total_seconds() / 3600 * gpus


def _state(pod: Object) -> str:
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
