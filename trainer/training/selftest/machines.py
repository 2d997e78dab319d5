"""Whether the processes of a job find each other, and add up over all their devices."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

from trainer.core.config import Config, flags
from trainer.distributed import cluster as cluster_lib
from trainer.distributed import process_group
from trainer.distributed.cluster import Cluster
from trainer.training.selftest.outcome import Failed

_PAUSE_SECONDS = 1.0  # Between two questions for a name: a service's names appear when its pods do.
_SUM_SECONDS = 180.0  # For TensorFlow's servers to connect, and for the sums.

Checks = dict[str, Callable[[], str]]


@contextlib.contextmanager
def checks(seconds: float) -> Iterator[Checks]:
    """Yield the checks of the other processes, in order; they stay connected until the block ends.

    Args:
        seconds: to wait for the others.
    """
    cluster = cluster_lib.from_environment()
    with contextlib.ExitStack() as stack:
        met: list[process_group.SingleProcess] = []

        def meet() -> str:
            met.append(stack.enter_context(process_group.join(cluster, _config(seconds))))
            return f"{cluster.num_workers} processes, this is number {cluster.worker_index}"

        yield {
            "names": lambda: _names(cluster, seconds),
            "peers": meet,
            "machines": lambda: _machines(cluster, met, _config(seconds)),
        }


def _config(seconds: float) -> Config:
    places = ("--data_dir=selftest/data", "--job_dir=selftest/job")  # Nothing is read or written there.
    return flags.train_config([*places, "--batch_size=auto", f"--startup_timeout_seconds={seconds:g}"])


def _names(cluster: Cluster, seconds: float) -> str:
    """Require that all names resolve; those of pods that start later do so late."""
    if cluster.num_workers == 1:
        raise Failed(
            "expected variables that describe several processes (DEEPDETECT_NUM_WORKERS, TF_CONFIG), found none"
        )
    hosts = [cluster_lib.split_address(address)[0] for address in cluster.addresses]
    end = time.monotonic() + seconds
    while absent := [host for host in hosts if not _resolves(host)]:
        if time.monotonic() > end:
            raise Failed(f"no address for {', '.join(absent)}; look at the headless service and the cluster's DNS")
        time.sleep(_PAUSE_SECONDS)
    return f"{len(hosts)} resolve, such as {hosts[-1]}"


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _machines(cluster: Cluster, met: list[process_group.SingleProcess], config: Config) -> str:
    """Add up over all devices of all machines, as training does."""
    if not met:
        raise Failed("not tried: the processes did not meet")
    from trainer.distributed import strategy
    from trainer.training.selftest import collective

    (group,) = met
    line = (
        f"no sum over the machines within {_SUM_SECONDS:g} s; look at NetworkPolicies and, with GPUs, NCCL_DEBUG=INFO"
    )
    with group.time_limit(_SUM_SECONDS, line):
        runtime = strategy.setup(config.runtime, config.data, cluster, group)
        text = collective.over(
            runtime.strategy, f"{cluster.num_workers} machines", uses_gpus=runtime.device_kind == "GPU"
        )
        group.gather(None)  # Nobody leaves while another one still adds.
    return text
