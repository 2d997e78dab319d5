"""Who am I among the processes of this job: TF_CONFIG, Kubernetes or Slurm -> Cluster.  Imports no TensorFlow.

Kubernetes (an Indexed Job, or a JobSet of one) sets JOB_COMPLETION_INDEX; the manifest adds

  DEEPDETECT_NUM_WORKERS    number of pods
  DEEPDETECT_WORKER_HOSTS   their names, with {index}: "train-{index}.train" (Indexed Job "train", headless service
                            "train") or "train-workers-0-{index}.train" (JobSet "train", replicated job "workers");
                            or a list with commas, in order
  DEEPDETECT_SUBDOMAIN      instead of the names: the headless service; the rest is this pod's own HOSTNAME
  DEEPDETECT_PORT           TensorFlow's port on every pod (default 2222)

Slurm's variables are those that ``tf.distribute.cluster_resolver.SlurmClusterResolver`` reads; several tasks of a node
take consecutive ports from DEEPDETECT_PORT (there 8888).  The first process is the chief; the others meet it on one
more port, 1000 above its own or DEEPDETECT_PEER_PORT.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from trainer.core.errors import RequestError
from trainer.distributed import slurm

_KUBERNETES_PORT, _SLURM_PORT = 2222, 8888
_PEER_PORT_OFFSET, _LAST_PORT = 1000, 65535
_MAX_WORKERS = 10_000

Environment = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes that train together, and this one's place among them.

    Attributes:
        addresses: ``host:port`` of each process's TensorFlow server, the chief's first; empty for one process alone.
        worker_index: this process's place among them.
        peer_port: port of the chief's host where the processes meet; 0 for one alone.
        source: what described the cluster, for messages.
    """

    addresses: tuple[str, ...] = ()
    worker_index: int = 0
    peer_port: int = 0
    source: str = ""

    @property
    def num_workers(self) -> int:
        """Processes that train together."""
        return max(len(self.addresses), 1)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the shared files."""
        return self.worker_index == 0

    @property
    def meeting_place(self) -> tuple[str, int]:
        """Host and port where the chief waits for the others."""
        return split_address(self.addresses[0])[0], self.peer_port

    def name(self, index: int) -> str:
        """Return a process's name for messages, such as "worker 2 (host:2222)"."""
        return f"{'worker' if index else 'chief, worker'} {index} ({self.addresses[index]})"


def from_environment(environment: Environment = os.environ, strategy: str = "auto") -> Cluster:
    """Return the cluster that the environment describes; without a description, or with one of one, a process alone.

    Args:
        environment: variables of the process.
        strategy: ``--strategy``.  With ``multi_worker`` a description must be there; ``single`` and ``mirrored`` refuse
            one of several processes, which must not train side by side into one job_dir.

    Raises:
        RequestError: if the description is wrong or does not fit the strategy.
    """
    cluster = _described(environment, explicit=strategy == "multi_worker")
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


def _described(environment: Environment, *, explicit: bool) -> Cluster:
    if environment.get("TF_CONFIG"):
        addresses, index, source = *_tf_config(environment["TF_CONFIG"]), "TF_CONFIG"
    elif environment.get("DEEPDETECT_NUM_WORKERS"):
        addresses, index, source = *_kubernetes(environment), "DEEPDETECT_NUM_WORKERS"
    # Outside srun, in a batch script, Slurm's variables speak of tasks that nobody has started.
    elif environment.get("SLURM_STEP_NUM_TASKS", "1") != "1" or (explicit and "SLURM_PROCID" in environment):
        addresses, index, source = *_slurm(environment), "SLURM_STEP_NUM_TASKS"
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
        RequestError: naming the source, if it is something else.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
        raise RequestError(f"{source}: expected addresses as host:port with a port in 1..65535, received {address!r}")
    return host.strip("[]"), int(port)


def _peer_port(environment: Environment, chief: str) -> int:
    port = split_address(chief)[1]
    offset = _PEER_PORT_OFFSET if port + _PEER_PORT_OFFSET <= _LAST_PORT else -_PEER_PORT_OFFSET
    found = _whole_number(environment, "DEEPDETECT_PEER_PORT", port + offset)
    if not 0 < found <= _LAST_PORT or found == port:
        raise RequestError(
            f"DEEPDETECT_PEER_PORT: expected a port in 1..65535 that is not TensorFlow's ({port}), received {found}"
        )
    return found


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
    strange = sorted(job for job, hosts in cluster.items() if job not in ("chief", "worker") and hosts)
    if strange:
        raise RequestError(
            f"TF_CONFIG: expected only the jobs chief and worker, received {', '.join(strange)}; this program needs "
            "no parameter server and validates on the workers"
        )
    chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
    if len(chiefs) > 1:
        raise RequestError(f"TF_CONFIG: expected one chief at most, received {len(chiefs)}; list the others as workers")
    addresses = (*chiefs, *workers)
    if not addresses:
        return (), 0
    if kind not in ("chief", "worker") or not cluster.get(kind):
        known = " or ".join(job for job in ("chief", "worker") if cluster.get(job))
        raise RequestError(f"TF_CONFIG: expected a task of type {known}, received {kind!r}")
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
    count = _count(environment, "DEEPDETECT_NUM_WORKERS")
    index = _whole_number(environment, "JOB_COMPLETION_INDEX")
    port = _whole_number(environment, "DEEPDETECT_PORT", _KUBERNETES_PORT)
    hosts = _kubernetes_hosts(environment, count, index)
    return tuple(host if ":" in host else f"{host}:{port}" for host in hosts), index


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
    """Return the pods' names from this one's: of an Indexed Job and of a JobSet both end in -<index>."""
    subdomain, own = environment.get("DEEPDETECT_SUBDOMAIN", ""), environment.get("HOSTNAME", "").split(".")[0]
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


def _slurm(environment: Environment) -> tuple[tuple[str, ...], int]:
    """Read what srun sets; the first task of a node has the first port."""

    def first_of(*names: str) -> str:
        return next((name for name in names if environment.get(name)), names[0])

    count = _count(environment, first_of("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"))
    index = _whole_number(environment, "SLURM_PROCID")
    port = _whole_number(environment, "DEEPDETECT_PORT", _SLURM_PORT)
    nodes_from = first_of("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
    nodes = list(slurm.expand_nodes(environment.get(nodes_from, ""), nodes_from))
    tasks_from = first_of("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    if environment.get(tasks_from):
        tasks = list(slurm.expand_tasks(environment[tasks_from], tasks_from))
    elif nodes and count % len(nodes) == 0:
        tasks = [count // len(nodes)] * len(nodes)
    else:
        tasks = []
    if len(tasks) != len(nodes) or sum(tasks) != count:
        raise RequestError(
            f"Slurm: expected {count} tasks on the nodes {environment.get(nodes_from, '')!r}, received "
            f"{environment.get(tasks_from, '')!r} tasks a node ({tasks_from}); start with srun"
        )
    if environment.get("SLURM_DISTRIBUTION", "").startswith("cyclic"):
        places = [(node, turn) for turn in range(max(tasks)) for node, n in zip(nodes, tasks, strict=True) if turn < n]
    else:
        places = [(node, turn) for node, n in zip(nodes, tasks, strict=True) for turn in range(n)]
    return tuple(f"{node}:{port + turn}" for node, turn in places), index
