"""Storage that is mounted into the pods: a claim, an NFS server's folder, or a folder of the nodes."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from trainer.core.errors import RequestError

CLAIM, NFS, HOST = "persistentVolumeClaim", "nfs", "hostPath"

_FORM = "CLAIM:/mnt, nfs://SERVER/PATH:/mnt or /PATH:/mnt"
_CLAIM = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
_TAKEN = ("/tmp", "/dev", "/proc", "/sys", "/etc", "/usr", "/var", "/bin", "/lib", "/opt", "/root", "/data")


@dataclasses.dataclass(frozen=True)
class Volume:
    """One mounted folder.

    Attributes:
        path: in the pods.
        kind: of the volume's source in Kubernetes.
        source: the claim's name, or the folder of the server or node.
        server: of NFS.
    """

    path: str
    kind: str
    source: str
    server: str = ""

    def holds(self, path: str) -> bool:
        """Return whether a path lies below this volume."""
        return f"{path.rstrip('/')}/".startswith(f"{self.path}/")

    def as_source(self) -> dict[str, Any]:
        """Return the volume's source as Kubernetes writes it."""
        if self.kind == CLAIM:
            return {CLAIM: {"claimName": self.source}}
        if self.kind == NFS:
            return {NFS: {"server": self.server, "path": self.source}}
        return {HOST: {"path": self.source, "type": "Directory"}}


def parse(text: str) -> tuple[Volume, ...]:
    """Return the volumes of ``CLAIM:/mnt,nfs://SERVER/PATH:/other``.

    Raises:
        RequestError: if the text has another form, or two lie at one place.
    """
    volumes = tuple(_parse_one(part) for part in filter(None, text.split(",")))
    for one in volumes:
        if any(other.holds(one.path) for other in volumes if other is not one):
            raise RequestError(f"--volume: expected a place of its own for each volume, received {text!r}")
    return volumes


def _parse_one(text: str) -> Volume:
    source, sign, path = text.rpartition(":")
    path = path.rstrip("/")
    if not sign or not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", path) or ".." in path.split("/"):
        raise RequestError(f"--volume: expected {_FORM}, received {text!r}")
    if any(f"{path}/".startswith(f"{taken}/") for taken in _TAKEN):
        raise RequestError(f"--volume: expected a place that the image does not use, such as /mnt, received {path!r}")
    if match := re.fullmatch(r"nfs://([^/\s:]+)(/\S*)", source):
        return Volume(path, NFS, match[2], match[1])
    if re.fullmatch(r"/\S*", source):
        return Volume(path, HOST, source)
    if re.fullmatch(_CLAIM, source):
        return Volume(path, CLAIM, source)
    raise RequestError(f"--volume: expected {_FORM}, received {text!r}")


def mount(pod: dict[str, Any], volumes: Sequence[Volume]) -> None:
    """Mount volumes into the first container of a pod."""
    for number, volume in enumerate(volumes):
        name = f"volume-{number}"
        pod["volumes"].append({"name": name, **volume.as_source()})
        pod["containers"][0]["volumeMounts"].append({"name": name, "mountPath": volume.path})
