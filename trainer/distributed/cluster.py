"""Read the cluster and this process's rank from TF_CONFIG, Kubernetes or Slurm.  Imports no TensorFlow.

Kubernetes (an Indexed Job, or a JobSet of one) sets JOB_COMPLETION_INDEX; the manifest adds

  DEEPDETECT_NUM_WORKERS    number of pods
  DEEPDETECT_WORKER_HOSTS   their names, with {index}: "train-{index}.train" (Indexed Job "train", headless service
                            "train") or "train-workers-0-{index}.train" (JobSet "train", replicated job "workers");
                            or a list with commas, in order
  DEEPDETECT_SUBDOMAIN      instead of the names: the headless service; the names follow from this pod's HOSTNAME
  DEEPDETECT_PORT           TensorFlow's port on every pod (default 2222)

Slurm's variables are those that ``tf.distribute.cluster_resolver.SlurmClusterResolver`` reads; several tasks of a node
take consecutive ports from DEEPDETECT_PORT (default 8888 with Slurm).  The first process is the chief; the others
connect to it on one more port: DEEPDETECT_PEER_PORT, or 1000 above the chief's TensorFlow port.
Does not own: connecting (``rendezvous.py``), Slurm's compressed lists (``slurm.py``).
"""

import contextlib
import dataclasses
import ipaddress
import json
import os
from collections.abc import Mapping
from typing import Any

from trainer.core.errors import RequestError
from trainer.distributed import slurm

_KUBERNETES_PORT = 2222
_SLURM_PORT = 8888
_PEER_PORT_OFFSET = 1000
_LAST_PORT = 65535
_MAX_WORKERS = 10_000
_SLURM_TASKS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")

Environment = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes that train together, and this one's place among them.

    Attributes:
        addresses: ``host:port`` of each process's TensorFlow server, the chief's first; empty for a single process.
        worker_index: this process's rank; 0 is the chief.
        peer_port: port of the chief's host to which the others connect; 0 for a single process.
        source: the variable that described the cluster, for messages.
    """

    addresses: tuple[str, ...] = ()
    worker_index: int = 0
    peer_port: int = 0
    source: str = ""

    @property
    def num_workers(self) -> int:
        """Number of processes that train together."""
        return max(len(self.addresses), 1)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the shared files."""
        return self.worker_index == 0

    @property
    def meeting_place(self) -> tuple[str, int]:
        """Host and port on which the chief accepts the others."""
        return split_address(self.addresses[0])[0], self.peer_port

    def name(self, index: int) -> str:
        """Return a process's name for messages, such as "worker 2 (host:2222)"."""
        return f"{'worker' if index else 'chief, worker'} {index} ({self.addresses[index]})"


def from_environment(environment: Environment = os.environ, strategy: str = "auto") -> Cluster:
    """Return the cluster that the environment describes; without a description, a single process.

    Args:
        environment: the environment variables of the process.
        strategy: ``--strategy``.  ``multi_worker`` requires a description; ``single`` and ``mirrored`` refuse a
            description of several processes, which must not train independently into one job_dir.

    Raises:
        RequestError: if the description is wrong or does not fit the strategy.
    """
    cluster = _read(environment, explicit=strategy == "multi_worker")
    if strategy == "multi_worker" and not cluster.addresses:
        raise RequestError(
            "--strategy=multi_worker: expected a cluster in the environment, received none; set TF_CONFIG, or on "
            "Kubernetes DEEPDETECT_NUM_WORKERS and DEEPDETECT_WORKER_HOSTS, or start with srun"
        )
    if strategy in ("single", "mirrored") and cluster.num_workers > 1:
        raise RequestError(
            f"expected one process with --strategy={strategy}, received {cluster.source} with {cluster.num_workers}; "
            f"use --strategy=multi_worker or unset {cluster.source}"
        )
    return cluster


def _read(environment: Environment, *, explicit: bool) -> Cluster:
    """Return the cluster from the first source that is set; ``explicit`` reads Slurm's variables outside srun too."""
    if environment.get("TF_CONFIG"):
        source = "TF_CONFIG"
        addresses, index = _tf_config(environment["TF_CONFIG"])
    elif environment.get("DEEPDETECT_NUM_WORKERS"):
        source = "DEEPDETECT_NUM_WORKERS"
        addresses, index = _kubernetes(environment)
    # In a batch script, outside of srun, Slurm's variables describe tasks that have not been started.
    elif environment.get("SLURM_STEP_NUM_TASKS", "1") != "1" or (explicit and "SLURM_PROCID" in environment):
        source = _first_set(environment, *_SLURM_TASKS)
        addresses, index = _slurm(environment)
    else:
        return Cluster()
    if not addresses:
        return Cluster()
    for address in addresses:
        split_address(address, source)
    repeated = sorted({address for address in addresses if addresses.count(address) > 1})
    if repeated:
        raise RequestError(f"{source}: expected an address of its own for each process, received {repeated[0]!r} twice")
    if not 0 <= index < len(addresses):
        raise RequestError(
            f"{source}: expected the index of this process in 0..{len(addresses) - 1}, received {index}; "
            "the number of processes or the index is wrong"
        )
    return Cluster(addresses, index, _peer_port(environment, addresses[0]), source)


def split_address(address: str, source: str = "address") -> tuple[str, int]:
    """Return host and port of ``host:port`` (``[::1]:port`` for IPv6).

    Raises:
        RequestError: naming the source, if the address has another form.
    """
    host, _, port = address.rpartition(":")
    is_bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or is_bare_ipv6 or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
        raise RequestError(
            f"{source}: expected addresses as host:port or [IPv6]:port with a port in 1..65535, received {address!r}"
        )
    return host.strip("[]"), int(port)


def _peer_port(environment: Environment, chief: str) -> int:
    port = split_address(chief)[1]
    offset = _PEER_PORT_OFFSET if port + _PEER_PORT_OFFSET <= _LAST_PORT else -_PEER_PORT_OFFSET
    peer_port = _whole_number(environment, "DEEPDETECT_PEER_PORT", port + offset)
    if not 0 < peer_port <= _LAST_PORT or peer_port == port:
        raise RequestError(
            f"DEEPDETECT_PEER_PORT: expected a port in 1..65535 that is not TensorFlow's ({port}), received {peer_port}"
        )
    return peer_port


def _whole_number(environment: Environment, name: str, default: int | None = None) -> int:
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    if not text.strip().isdecimal():
        raise RequestError(f"{name}: expected a whole number, received {text!r}; set it for every process of the job")
    return int(text)


def _tf_config(text: str) -> tuple[tuple[str, ...], int]:
    """Read ``{"cluster": {"chief": [...], "worker": [...]}, "task": {"type": ..., "index": ...}}``."""
    try:
        value = json.loads(text)
        cluster = {str(job): [str(host) for host in _as_list(hosts)] for job, hosts in value.get("cluster", {}).items()}
        task: Any = value.get("task", {})
        kind, index = task.get("type"), task.get("index")
    except (ValueError, AttributeError, TypeError) as error:
        raise RequestError(f"expected TF_CONFIG to be a JSON object with a cluster, received {text!r}") from error
    unknown = sorted(job for job, hosts in cluster.items() if job not in ("chief", "worker") and hosts)
    if unknown:
        raise RequestError(
            f"TF_CONFIG: expected only the jobs chief and worker, received {', '.join(unknown)}; this program "
            "uses no parameter servers and validates on the workers"
        )
    chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
    if len(chiefs) > 1:
        raise RequestError(f"TF_CONFIG: expected one chief at most, received {len(chiefs)}; list the others as workers")
    addresses = (*chiefs, *workers)
    if not addresses:
        return (), 0
    if kind not in ("chief", "worker") or not cluster.get(kind):
        kinds = " or ".join(job for job in ("chief", "worker") if cluster.get(job))
        raise RequestError(f"TF_CONFIG: expected a task of type {kinds}, received {kind!r}")
    try:
        index = int(index)
    except (TypeError, ValueError) as error:
        raise RequestError(f"TF_CONFIG: expected the index of this task, received {index!r}") from error
    if not 0 <= index < len(cluster[kind]):
        raise RequestError(
            f"TF_CONFIG: expected a {kind} index in 0..{len(cluster[kind]) - 1}, received {index}; the task is not in "
            "the cluster"
        )
    return addresses, index + (len(chiefs) if kind == "worker" else 0)


def _as_list(hosts: Any) -> list[Any]:
    if not isinstance(hosts, list):
        raise TypeError(hosts)
    return hosts


def _count(environment: Environment, name: str) -> int:
    count = _whole_number(environment, name)
    if not 1 <= count <= _MAX_WORKERS:
        raise RequestError(f"{name}: expected a number of processes in 1..{_MAX_WORKERS}, received {count}")
    return count


def _kubernetes(environment: Environment) -> tuple[tuple[str, ...], int]:
    """Return addresses and index from the variables that a manifest sets."""
    count = _count(environment, "DEEPDETECT_NUM_WORKERS")
    index = _whole_number(environment, "JOB_COMPLETION_INDEX")
    port = _whole_number(environment, "DEEPDETECT_PORT", _KUBERNETES_PORT)
    hosts = _kubernetes_hosts(environment, count, index)
    return tuple(_with_port(host, port) for host in hosts), index


def _with_port(host: str, port: int) -> str:
    """Return host and port of a name with or without a port, or of an IPv6 address, which has colons itself."""
    with contextlib.suppress(ValueError):
        return f"[{ipaddress.IPv6Address(host)}]:{port}"
    return host if ":" in host.rpartition("]")[2] else f"{host}:{port}"


def _kubernetes_hosts(environment: Environment, count: int, index: int) -> list[str]:
    pattern = environment.get("DEEPDETECT_WORKER_HOSTS", "") or _own_pattern(environment, index)
    if "," in pattern:
        hosts = [host.strip() for host in pattern.split(",") if host.strip()]
        if len(hosts) != count:
            raise RequestError(
                f"DEEPDETECT_WORKER_HOSTS: expected {count} names (DEEPDETECT_NUM_WORKERS), received {len(hosts)}"
            )
        return hosts
    if count > 1 and "{index}" not in pattern:
        raise RequestError(
            "DEEPDETECT_WORKER_HOSTS: expected {index} in the name or a list with commas, received "
            f"{pattern!r}; such as train-workers-0-{{index}}.train"
        )
    return [pattern.replace("{index}", str(number)) for number in range(count)]


def _own_pattern(environment: Environment, index: int) -> str:
    """Return the pattern of the pods' names from this pod's: those of Indexed Jobs and JobSets end in -<index>."""
    subdomain = environment.get("DEEPDETECT_SUBDOMAIN", "")
    own = environment.get("HOSTNAME", "").split(".")[0]
    if not subdomain:
        raise RequestError(
            "DEEPDETECT_WORKER_HOSTS: expected the pods' names, received none; set it, such as "
            "train-workers-0-{index}.train, or DEEPDETECT_SUBDOMAIN to the headless service"
        )
    stem, _, number = own.rpartition("-")
    if not stem or number != str(index):
        raise RequestError(
            f"DEEPDETECT_SUBDOMAIN: expected a HOSTNAME that ends in -{index} (JOB_COMPLETION_INDEX), received "
            f"{own!r}; set DEEPDETECT_WORKER_HOSTS instead"
        )
    return f"{stem}-{{index}}.{subdomain}"


def _first_set(environment: Environment, *names: str) -> str:
    """Return the first of the variables that is set; if none is, the first one."""
    return next((name for name in names if environment.get(name)), names[0])


def _slurm(environment: Environment) -> tuple[tuple[str, ...], int]:
    """Return addresses and index from what srun sets; the first task of each node has the first port."""
    count_name = _first_set(environment, *_SLURM_TASKS)
    count = _count(environment, count_name)
    index = _whole_number(environment, "SLURM_PROCID")
    port = _whole_number(environment, "DEEPDETECT_PORT", _SLURM_PORT)
    nodes_name = _first_set(environment, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
    nodes = list(slurm.expand_nodes(environment.get(nodes_name, ""), nodes_name))
    tasks_name = _first_set(environment, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    if environment.get(tasks_name):
        tasks = list(slurm.expand_tasks(environment[tasks_name], tasks_name))
    elif nodes and count % len(nodes) == 0:
        tasks = [count // len(nodes)] * len(nodes)
    else:
        tasks = []
    if len(tasks) != len(nodes) or sum(tasks) != count:
        raise RequestError(
            f"{count_name}: expected {count} tasks on the nodes {environment.get(nodes_name, '')!r}, received "
            f"{environment.get(tasks_name, '')!r} tasks a node ({tasks_name}); start with srun, or unset {count_name} "
            "if this process is to train alone, as in srun --pty"
        )
    if environment.get("SLURM_DISTRIBUTION", "").startswith("cyclic"):
        slots = [(node, slot) for slot in range(max(tasks)) for node, n in zip(nodes, tasks, strict=True) if slot < n]
    else:
        slots = [(node, slot) for node, n in zip(nodes, tasks, strict=True) for slot in range(n)]
    return tuple(f"{node}:{port + slot}" for node, slot in slots), index
