"""One JobSet for any of several kinds of machines, among which Kueue chooses by the flavours of its queue.

Kueue compares a pod's node selector and required node affinity with the labels of each flavour, and adds the labels of
the one that it takes.  Terms of an affinity are alternatives, so that they admit the requested machines and no others.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.submit.kube.placement import ZONE
from trainer.submit.kube.render import GPU, Object, has_gpu, pod_templates

_UNITS = {"": 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def merge(every: Sequence[Sequence[Object]]) -> list[Object]:
    """Return the objects of a run that may take any of the machines for which it was rendered.

    The first must be on spot machines if any is: what it then does (checkpoints, grace period) is right on all.
    """
    objects = list(every[0])
    templates = [[each for item in items for each in pod_templates(item)] for items in every]
    for same in zip(*templates, strict=True):
        if has_gpu(same[0]["spec"]):
            _merge_pods([template["spec"] for template in same])
    return objects


def _merge_pods(pods: Sequence[Object]) -> None:
    """Change the first pod into one for the machines of all."""
    first = pods[0]
    selectors = [dict(pod.get("nodeSelector", {})) for pod in pods]
    common = {key: value for key, value in selectors[0].items() if all(each.get(key) == value for each in selectors)}
    keys = sorted({key for each in selectors for key in each} - common.keys())
    first["nodeSelector"] = common
    terms = [[one for key in keys if (one := _expression(key, each.get(key)))] for each in selectors]
    if all(terms):  # A term without expressions would admit no node; what it stands for is any node.
        first.setdefault("affinity", {})["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}}  # fmt: skip
    tolerations = [one for pod in pods for one in pod.get("tolerations", [])]
    first["tolerations"] = [one for place, one in enumerate(tolerations) if one not in tolerations[:place]]
    _shrink(pods)


def _expression(key: str, value: str | None) -> Object | None:
    """Return what a node's label must be; None if all nodes will do, as without a zone."""
    if value is None and key == ZONE:
        return None
    return {"key": key, "operator": "DoesNotExist"} if value is None else {"key": key, "operator": "In",
                                                                          "values": [value]}  # fmt: skip


def _shrink(pods: Sequence[Object]) -> None:
    """Let the first pod ask for what the smallest machine has."""
    every = [list(_amounts(pod)) for pod in pods]
    for same in zip(*every, strict=True):
        amounts = same[0]
        for name in amounts:
            if name != GPU:
                amounts[name] = min((each[name] for each in same), key=_size)


def _amounts(pod: Object) -> Iterator[dict[str, Any]]:
    for container in (*pod.get("initContainers", []), *pod["containers"]):
        yield container["resources"]["requests"]
        yield container["resources"]["limits"]
    for volume in pod["volumes"]:
        if volume["name"] == "shm":
            yield volume["emptyDir"]


def _size(quantity: Any) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|Mi|Gi|Ti)?", str(quantity))
    return float(match[1]) * _UNITS[match[2] or ""] if match else 0.0
