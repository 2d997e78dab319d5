"""What a run needs of the cluster, looked at before anything is created.

What does not exist refuses the run, since its pods would wait for it for ever.  What this user may not look at, and
nodes that may still be added, are notes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from trainer.core.errors import RequestError
from trainer.submit import volumes
from trainer.submit.kube.api import KubeClient, Object, Refused
from trainer.submit.kube.render import GPU, QUEUE, pod_templates
from trainer.submit.request import Request

_ENFORCE = "pod-security.kubernetes.io/enforce"
_ALLOWED = {volumes.NFS: ("privileged", "baseline"), volumes.HOST: ("privileged",)}  # Levels that admit a volume.


@dataclasses.dataclass(frozen=True)
class Need:
    """An object that a pod refers to.

    Attributes:
        kind: of the object.
        name: of the object.
        key: that a Secret must have; empty: none in particular.
    """

    kind: str
    name: str
    key: str = ""


def check(client: KubeClient, request: Request, objects: Sequence[Object]) -> list[str]:
    """Refuse a run whose pods could not start; return notes.

    Raises:
        RequestError: naming what is missing, and how to make it.
    """
    notes: list[str] = []
    _check_namespace(client, request, notes)
    for need in dict.fromkeys(need for item in objects for need in needs(item)):
        _check_need(client, request, need, notes)
    for item in objects:
        for template in pod_templates(item):
            _check_nodes(client, template["spec"], notes)
    return list(dict.fromkeys(notes))


def needs(item: Object) -> Iterator[Need]:
    """Yield the objects that an object's pods refer to."""
    if queue := item["metadata"].get("labels", {}).get(QUEUE):
        yield Need("LocalQueue", queue)
    for template in pod_templates(item):
        pod = template["spec"]
        yield Need("ServiceAccount", pod["serviceAccountName"])
        yield Need("PriorityClass", pod["priorityClassName"])
        for volume in pod["volumes"]:
            if "secret" in volume:
                yield Need("Secret", volume["secret"]["secretName"])
            if volumes.CLAIM in volume:
                yield Need("PersistentVolumeClaim", volume[volumes.CLAIM]["claimName"])
        for entry in pod["containers"][0]["env"]:
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                yield Need("Secret", reference["name"], reference["key"])
        for source in pod["containers"][0].get("envFrom", []):
            yield Need("Secret", source["secretRef"]["name"])


def _check_namespace(client: KubeClient, request: Request, notes: list[str]) -> None:
    remedy = f"kubectl apply -k k8s/overlays/{request.run.platform} makes it"
    namespace = look(client, "Namespace", client.namespace, notes)
    if namespace is False:
        return
    if namespace is None:
        raise RequestError(f"expected the namespace {client.namespace}, which does not exist; {remedy}")
    level = namespace["metadata"].get("labels", {}).get(_ENFORCE, "privileged")
    for volume in request.volumes:
        if level not in _ALLOWED.get(volume.kind, (level,)):
            raise RequestError(
                f"--volume: expected a PersistentVolumeClaim, as namespace {client.namespace} enforces Pod Security "
                f"{level}, which refuses {volume.kind}; make a claim for it, or kubectl label --overwrite namespace "
                f"{client.namespace} {_ENFORCE}={_ALLOWED[volume.kind][-1]}"
            )


def _check_need(client: KubeClient, request: Request, need: Need, notes: list[str]) -> None:
    item = look(client, need.kind, need.name, notes)
    if item is False:
        return
    if item is None:
        raise RequestError(
            f"expected the {need.kind} {need.name} in namespace {client.namespace}, which does not exist; "
            f"{remedy_of(need, request.run.platform)}"
        )
    if need.key and need.key not in item.get("data", {}):
        raise RequestError(
            f"--env_from_secret: expected the key {need.key} in Secret {need.name}, which has "
            f"{', '.join(sorted(item.get('data', {}))) or 'none'}; see kubectl describe secret {need.name}"
        )
    if need.kind == "PersistentVolumeClaim" and request.run.machines > 1:
        modes = item.get("spec", {}).get("accessModes", [])
        if not {"ReadWriteMany", "ReadOnlyMany"} & set(modes):
            notes.append(
                f"--volume: claim {need.name} is {', '.join(modes)}: several machines cannot mount it unless all pods "
                "are on one node"
            )


def remedy_of(need: Need, platform: str) -> str:
    """Return how to make an object that is missing."""
    setup = f"kubectl apply -k k8s/overlays/{platform} makes it"
    remedies = {
        "LocalQueue": "see kubectl get localqueues (and whether Kueue is installed), or leave --queue out",
        "PersistentVolumeClaim": "see kubectl get persistentvolumeclaims",
        "Secret": f"kubectl create secret generic {need.name} --from-file=key.json (or --from-literal) makes it",
        "PriorityClass": f"{setup}, or see kubectl get priorityclasses",
    }
    return remedies.get(need.kind, setup)


def _check_nodes(client: KubeClient, pod: Object, notes: list[str]) -> None:
    """Note if no node has the labels and GPUs of a pod: an autoscaler may add one, or nobody does."""
    gpus = int(pod["containers"][0]["resources"]["limits"].get(GPU, 0))
    wanted = pod.get("nodeSelector", {})
    if not gpus:
        return
    try:
        nodes = client.list("Node").items
    except Refused as error:
        notes.append(f"nodes: not checked ({error})")
        return
    labels = [node["metadata"].get("labels", {}) for node in nodes]
    for name, value in wanted.items():
        if not any(each.get(name) == value for each in labels):
            others = ", ".join(sorted({each[name] for each in labels if name in each})) or "none"
            notes.append(
                f"nodes: none has {name}={value} now (other values: {others}); the run waits until one is added"
            )
            return
    fitting = [node for node in nodes if wanted.items() <= node["metadata"].get("labels", {}).items()]
    most = max((int(node.get("status", {}).get("allocatable", {}).get(GPU, 0)) for node in fitting), default=0)
    if most < gpus:
        notes.append(f"nodes: none with these labels has {gpus} GPUs now (at most {most}); the run waits for one")


def look(client: KubeClient, kind: str, name: str, notes: list[str]) -> "Object | Literal[False] | None":
    """Return an object, None if it does not exist, or False and a note if this user may not look."""
    try:
        return client.get(kind, name)
    except Refused as error:
        notes.append(f"{kind} {name}: not checked ({error})")
        return False
