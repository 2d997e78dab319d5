"""Connections within a cluster go past the proxies of the environment.  Imports no TensorFlow.

gRPC, on which TensorFlow's servers, the tf.data service and KerasTuner's oracle stand, sends every connection through
``http_proxy`` or ``https_proxy``, one to the next process of the same machine as well.  Such proxies lead to the
internet: they refuse or drop it, and gRPC tries again for ever, in silence.
"""

import os
from collections.abc import Iterable, MutableMapping

# The first is read by Python and gRPC, the second by Python and others; whoever sets one must not hide the other.
_ALL = ("no_proxy", "NO_PROXY")
# If it is set, gRPC reads it alone.
_GRPC = "no_grpc_proxy"


def go_past(hosts: Iterable[str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Add hosts to those that are reached without a proxy; entries of the user stay.

    Args:
        hosts: names or addresses without ports.  IPv6 addresses have no brackets.
        environment: is changed; of this process, which gRPC reads at each connection, and of its children.
    """
    hosts = list(hosts)
    entries = _entries(environment, *_ALL)
    for name in _ALL:
        environment[name] = ",".join(dict.fromkeys([*entries, *hosts]))
    if environment.get(_GRPC):
        environment[_GRPC] = ",".join(dict.fromkeys([*_entries(environment, _GRPC), *hosts]))


def _entries(environment: MutableMapping[str, str], *names: str) -> list[str]:
    return [entry.strip() for name in names for entry in environment.get(name, "").split(",") if entry.strip()]
