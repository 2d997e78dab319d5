"""Devices, strategy, precision and determinism of this process.

Does not own: which process it is (``cluster.py``), patches of TensorFlow (``tf_private.py``).
"""

import dataclasses
import functools
import logging
import math
import os
from pathlib import Path

import keras
import tensorflow as tf

from trainer.core.config import DataConfig, RuntimeConfig
from trainer.core.errors import JobFailed, RequestError
from trainer.distributed import gpu_promise, malloc, page_lock, shared_card, tf_private
from trainer.distributed.cluster import Cluster
from trainer.distributed.process_group import SingleProcess

log = logging.getLogger(__name__)

_GRADIENT_PARTS = 4

# Images of a gradient part of a network with batch normalisation.  Mean and variance of fewer are mostly noise:
# Wu and He 2018, "Group Normalization", arXiv:1803.08494, figure 1.
SMALLEST_NORMALISED_PART = 8


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What the process computes on and how, as ``setup`` decided.

    Attributes:
        strategy: the tf.distribute strategy.
        precision: float32, mixed_float16 or mixed_bfloat16; ``auto`` is already resolved.
        device_kind: GPU or CPU.
        num_devices: number of replicas in all processes.
        local_devices: number of replicas in this process.
        first_device: index of this process's first replica among all.
        gradient_shards: parts of a replica's batch whose gradients are computed separately, see ``gradient_shards``
            and ``with_normalised_parts``.
        allreduce_dtype: of gradients while they are reduced over replicas.
        xla: whether the training step is compiled.
    """

    strategy: tf.distribute.Strategy
    precision: str
    device_kind: str
    num_devices: int
    local_devices: int
    first_device: int
    gradient_shards: int
    allreduce_dtype: tf.DType
    xla: bool = False

    @property
    def scales_loss(self) -> bool:
        """Whether gradients pass through float16, whose range needs a loss scale."""
        return self.precision == "mixed_float16" or self.allreduce_dtype == tf.float16


def setup(
    config: RuntimeConfig, data: DataConfig, cluster: Cluster = Cluster(), group: SingleProcess = SingleProcess(),  # noqa: B008
    *, kept_precision: str = "",
) -> Runtime:  # fmt: skip
    """Choose devices and precision, and set them for the process.

    Must be called before TensorFlow's first op, because logical devices cannot be made later, and by all processes of a
    job.  Their choices must be compared afterwards (``consistency.require_same``).

    Args:
        config: settings of devices and precision.
        data: for the batch size.
        cluster: who this process is.
        group: the processes of the job; all end if one of them lacks GPUs that it was promised.
        kept_precision: of the job's checkpoints, which ``--precision=auto`` takes; empty: there are none.

    Raises:
        RequestError: if the devices do not exist, or the global batch does not divide among them.
        MissingGpus: if promised GPUs are missing in a cluster.
        JobFailed: if this machine lacks the checkpoints' precision.
    """
    os.environ.pop("TF_CONFIG", None)  # ``cluster.py`` has read it; MirroredStrategy would read it as well.
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf_private.switch_off_iterator_autotune()
    if missing := next(filter(None, group.gather(_missing_gpus(config))), ""):
        raise gpu_promise.broken(missing, in_cluster=cluster.num_workers > 1)
    kind, devices = _prepared_devices(config)
    replicas = len(devices) * cluster.num_workers
    _require_even_shares(data.batch_size, replicas)
    precision = continued_precision(kept_precision, kind) or resolve_precision(config.precision, kind)
    keras.config.set_dtype_policy(precision)
    exact = kind == "CPU" or config.deterministic
    allreduce_dtype = {"auto": "float64" if exact else "float32"}.get(config.allreduce_dtype, config.allreduce_dtype)
    strategy = _multi_worker(cluster, tuple(devices)) if cluster.num_workers > 1 else _strategy(config, devices)
    malloc.keep_freed_blocks()
    return Runtime(
        strategy=strategy,
        precision=precision,
        device_kind=kind,
        num_devices=replicas,
        local_devices=len(devices),
        first_device=cluster.worker_index * len(devices),
        gradient_shards=gradient_shards(data.batch_size, replicas) if exact else 1,
        allreduce_dtype=tf.dtypes.as_dtype(allreduce_dtype),
        xla=config.xla if isinstance(config.xla, bool) else kind == "GPU" and not config.deterministic,
    )


def _missing_gpus(config: RuntimeConfig) -> str:
    """Return what is wrong if this process has fewer GPUs than it was promised; else an empty text.

    Raises:
        RequestError: if the environment's promise cannot be read.
    """
    gpus = len(tf.config.list_physical_devices("GPU")) * shared_card.logical_gpus()
    return gpu_promise.shortfall(config, gpus)


def _prepared_devices(config: RuntimeConfig) -> tuple[str, list[str]]:
    """Make the devices to compute on; return their kind and their names."""
    gpus = shared_card.prepare(tf.config.list_physical_devices("GPU"))
    if warning := gpu_promise.unused(gpus):
        log.warning("%s", warning)
    if gpus:
        page_lock.enable()
    kind = "GPU" if gpus else "CPU"
    return kind, _devices(config, kind, gpus)


def _require_even_shares(batch_size: int, replicas: int) -> None:
    if batch_size % replicas:
        raise RequestError(
            f"expected a batch_size that divides among {replicas} devices, received {batch_size}; use "
            f"--batch_size={-(-batch_size // replicas) * replicas} or --num_devices"
        )


def gradient_shards(batch_size: int, replicas: int) -> int:
    """Return the number of parts of each replica's batch, chosen so that the number of devices changes no result.

    A gradient's last bits depend on how its sum over examples is split, and Adam's first steps amplify them: after ten
    steps of the notebook's CNN the losses of one and of two devices differ by 1e-4.  So the global batch is split into
    the same ``gcd(batch_size, 4)`` parts on 1, 2 and 4 devices, and ``train_step.py`` adds them in float64.
    """
    parts = math.gcd(batch_size, _GRADIENT_PARTS)
    return parts // replicas if parts % replicas == 0 else 1


def with_normalised_parts(runtime: Runtime, batch_size: int, model_name: str, accumulate_steps: int = 1) -> Runtime:
    """Return the runtime of a network that normalises over each part: with fewer parts where those are too small.

    On 1, 2 and 4 devices they are the same parts of the global batch again.

    Raises:
        RequestError: if a replica's whole batch is too small.
    """
    parts, per_replica = runtime.gradient_shards, batch_size // runtime.num_devices // accumulate_steps
    while parts > 1 and per_replica // parts < SMALLEST_NORMALISED_PART:
        parts //= 2
    if per_replica < SMALLEST_NORMALISED_PART:
        pieces = runtime.num_devices * accumulate_steps
        raise RequestError(
            f"--batch_size: expected at least {SMALLEST_NORMALISED_PART} images for each device"
            f"{' and each of --accumulate_steps' if accumulate_steps > 1 else ''}, over which --model={model_name} "
            f"normalises, received {batch_size} for {pieces}; use "
            f"--batch_size={SMALLEST_NORMALISED_PART * pieces} or a network without batch normalisation"
        )
    return dataclasses.replace(runtime, gradient_shards=parts)


def _devices(config: RuntimeConfig, kind: str, gpus: int) -> list[str]:
    """Return the names of the devices to compute on; makes logical devices on a CPU."""
    count = 1 if config.strategy == "single" else config.num_devices or (gpus if kind == "GPU" else 1)
    if kind == "CPU" and count > 1:
        make_logical_cpus(count)
    return [f"{kind}:{number}" for number in range(count)]


def make_logical_cpus(count: int) -> None:
    """Divide the CPU into at least ``count`` logical devices.

    Raises:
        RequestError: if TensorFlow has already started with fewer.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = tf.config.get_logical_device_configuration(cpu)
    if devices is not None and len(devices) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise RequestError(
            f"--num_devices: expected to make {count} logical CPU devices before TensorFlow starts, but this process "
            "has started it; run the job in a process of its own"
        ) from error


def _strategy(config: RuntimeConfig, devices: list[str]) -> tf.distribute.Strategy:
    if config.strategy == "mirrored" or len(devices) > 1:
        return _mirrored(tuple(devices))
    return tf.distribute.OneDeviceStrategy(devices[0])


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Return the process's only MirroredStrategy on these devices.

    TensorFlow 2.21 numbers the collectives of every new strategy from the same start, so a second job of the process
    (a sweep's next trial) would collide with the first one's collectives and fail every time.
    """
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=shared_card.cross_device_ops())


@functools.cache
def _multi_worker(cluster: Cluster, devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Return the process's only MultiWorkerMirroredStrategy; processes are watched by ``process_group.py`` alone."""
    tf_private.switch_off_coordination_service()
    if devices[0].startswith("CPU"):
        tf_private.use_logical_cpus(devices)
    gpus = len(devices) if devices[0].startswith("GPU") else 0
    kinds = tf.distribute.experimental.CommunicationImplementation
    uses_nccl = gpus and shared_card.logical_gpus() == 1
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
            task_type="worker",
            task_id=cluster.worker_index,
            rpc_layer="grpc",
            num_accelerators={"GPU": gpus},
        ),
        tf.distribute.experimental.CommunicationOptions(implementation=kinds.NCCL if uses_nccl else kinds.RING),
    )
    # All workers have the same number of elements; checking before each batch would cost a message.
    strategy.extended.experimental_enable_get_next_as_optional = False
    return strategy


def connect(runtime: Runtime) -> None:
    """Add up a number over all replicas, for which TensorFlow's servers connect to each other.

    Without it they would do so in the middle of creating variables, where nobody can say what is taking so long.
    """

    @tf.function
    def total() -> tf.Tensor:
        return runtime.strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("sum", tf.ones([])))

    total()


def resolve_precision(requested: str, kind: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the precision to compute in; ``auto`` is the fastest that the hardware supports."""
    if requested != "auto":
        return requested
    if kind == "GPU":
        return "mixed_bfloat16" if _gpus_have_bfloat16() else "mixed_float16"
    return "mixed_bfloat16" if _cpu_has_bfloat16(cpuinfo) else "float32"


def continued_precision(kept: str, kind: str) -> str:
    """Return the precision that a job began with, whatever ``auto`` would be on this machine.

    Raises:
        JobFailed: if this machine lacks it.
    """
    if kept == "mixed_bfloat16" and kind == "GPU" and not _gpus_have_bfloat16():
        raise JobFailed(
            "the job began with mixed_bfloat16, which needs GPUs of compute capability 8.0 or later, and this machine "
            "has older ones; continue it on such a machine, or train with another --job_dir"
        )
    here = resolve_precision("auto", kind)
    if kept not in ("", here):
        log.warning("precision: %s, with which the job began; --precision=auto is %s on this machine", kept, here)
    return kept


def _gpus_have_bfloat16() -> bool:
    """Return whether every GPU has bfloat16 tensor cores: compute capability 8.0 (Ampere) or later."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)


def _cpu_has_bfloat16(cpuinfo: Path) -> bool:
    try:
        features = set(cpuinfo.read_text().split())
    except OSError:  # Not Linux.
        return False
    return bool(features & {"avx512_bf16", "amx_bf16"})
