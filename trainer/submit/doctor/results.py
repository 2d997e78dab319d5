"""What the pods of the doctor saw: the lines of their self-tests, and why one has none."""

import re
from collections.abc import Iterable, Iterator, Sequence

from trainer.submit.doctor.findings import MISSING, OK, UNKNOWN, Finding
from trainer.submit.kube import follow, pods
from trainer.submit.kube.api import Object

_LINE = re.compile(r"(ok|warn|FAILED)\s+(.{12}) (.*)")  # As training/selftest prints them.
_STATES = {"ok": OK, "warn": UNKNOWN, "FAILED": MISSING}
_WORST_FIRST = (MISSING, UNKNOWN, OK)
_EXPECTED = ("names", "peers", "machines")  # Of every pod.
_NO_IMAGE = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull")
_LAST_LINES = 2


def parse(lines: Iterable[str]) -> dict[str, Finding]:
    """Return the findings of a self-test's log, by the check's name."""
    matches = filter(None, map(_LINE.fullmatch, lines))
    return {match[2].strip(): Finding(match[2].strip(), _STATES[match[1]], match[3]) for match in matches}


def has_no_image(pod: Object) -> bool:
    """Return whether a pod waits for an image that cannot be pulled."""
    status = pod.get("status", {})
    entries = (*status.get("initContainerStatuses", []), *status.get("containerStatuses", []))
    return any(entry.get("state", {}).get("waiting", {}).get("reason") in _NO_IMAGE for entry in entries)


def is_over(pod: Object) -> bool:
    """Return whether a pod has ended."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def of_pods(own_pods: Sequence[Object], logs: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """Yield what two pods saw, the worst of both for each check.

    Args:
        own_pods: the pods.
        logs: of each, the lines of all its containers.
    """
    described = pods.describe(list(own_pods))
    if any(map(has_no_image, own_pods)):
        yield Finding("pods: image", MISSING, described[0],
                      "submit build makes one; see whether nodes may read the registry")  # fmt: skip
        return
    nodes = {pod.get("spec", {}).get("nodeName", "") for pod in own_pods} - {""}
    if len(nodes) < 2:
        yield Finding(
            "pods: two nodes", MISSING, "; ".join(described), "kubectl get events; add nodes, or raise --wait_minutes"
        )
    else:
        yield Finding("pods: two nodes", OK, ", ".join(sorted(nodes)))
    parsed = [parse(lines) for lines in logs]
    for name in dict.fromkeys(name for each in parsed for name in each):
        several = [each[name] for each in parsed if name in each]
        worst = min(several, key=lambda finding: _WORST_FIRST.index(finding.state))
        yield Finding(f"pods: {name}", worst.state, worst.text)
    for pod, lines, each in zip(own_pods, logs, parsed, strict=True):
        absent = [name for name in _EXPECTED if name not in each]
        if absent and nodes:
            last = " / ".join([follow.message_of(line) for line in lines][-_LAST_LINES:]) or "its log is empty"
            yield Finding(f"pods: {pods.label_of(pod)}", MISSING, f"no result of {', '.join(absent)}: {last}",
                          "the pod may have been lost, or --wait_minutes is too short")  # fmt: skip
