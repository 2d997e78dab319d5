"""Who holds a lease, and what another process knows about that one's life without waiting.

On the same machine the operating system knows.  In Kubernetes a container begins after the pod's earlier one has ended,
and no two pods of a node have the same name, which is their host name.
Does not own: the lease (``lease.py``).  Imports no TensorFlow.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.core import environment

_POD_UID = "DEEPDETECT_POD_UID"  # A manifest may set it from metadata.uid.


def describe() -> dict[str, Any]:
    """Return what a lease's record says of this process."""
    return {
        "process": os.getpid(),
        "started": started(os.getpid()),
        "namespace": _link("/proc/self/ns/pid"),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "host": socket.gethostname(),
        "pod": environment.is_pod(),
        "pod_uid": os.environ.get(_POD_UID, ""),
    }


def is_dead(holder: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether a holder has certainly ended; False if that cannot be known from here.

    Args:
        holder: from ``describe`` in its process; empty for one of another version.
        own: from ``describe`` in this one.
    """

    def same(*names: str) -> bool:
        return all(own[name] and holder.get(name) == own[name] for name in names)

    if same("boot", "namespace"):
        return started(holder.get("process")) != holder.get("started")
    return same("pod_uid") or same("pod", "boot", "host")


def is_predecessor(holder: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether a holder was in a pod of the same host name, elsewhere: the pod that this one replaces."""
    is_here = all(holder.get(name) == own[name] for name in ("boot", "namespace"))
    return bool(own["pod"] and holder.get("pod") and holder.get("host") == own["host"] and not is_here)


def started(process: object) -> int:
    """Return when a process began, in clock ticks since the machine did; 0 if there is none."""
    fields = _text(f"/proc/{process}/stat").rpartition(")")[2].split()
    is_gone = len(fields) < 20 or fields[0] in "ZX"
    return 0 if is_gone else int(fields[19])  # Number 22 of proc(5), of which two are before the bracket.


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
