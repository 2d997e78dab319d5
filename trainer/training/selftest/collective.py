"""Sums over all devices as training makes them: NCCL between GPUs."""

import time
from typing import Any

import tensorflow as tf

from trainer.distributed import shared_card
from trainer.training.selftest import devices
from trainer.training.selftest.outcome import Failed

_REPETITIONS = 4
_PATTERN = 1009  # Different integers in the vector; a prime, so that no part of it equals the next one.
_LENGTH_GPU = _PATTERN * 2**15  # Elements of float32: a message of 126 MiB.
_LENGTH_CPU = _PATTERN * 2**10


def all_reduce() -> str:
    """Add up a vector of integers over all devices, and time it for a large message."""
    names = devices.names()
    if len(names) == 1:
        return "one device: nothing to add up"
    strategy = tf.distribute.MirroredStrategy(names, cross_device_ops=shared_card.cross_device_ops())
    return over(strategy, f"{len(names)} {devices.kind()}{_by()}", uses_gpus=devices.are_gpus())


def over(strategy: tf.distribute.Strategy, title: str, *, uses_gpus: bool) -> str:
    """Add up over all devices of a strategy, in all its processes at once.

    Args:
        strategy: of all devices.
        title: what they are called.
        uses_gpus: whether they are GPUs, which get larger messages.
    """
    length = _LENGTH_GPU if uses_gpus else _LENGTH_CPU
    _check(strategy, length)
    rate = _bytes_per_second(strategy, length)
    return f"correct over {title}, {rate / 1e9:.1f} GB/s a device in messages of {length * 4 // 2**20} MiB"


def _by() -> str:
    if not devices.are_gpus():
        return ""
    return ", by copies to one device" if shared_card.logical_gpus() > 1 else ", by NCCL"


def _check(strategy: tf.distribute.Strategy, length: int) -> None:
    """Compare sums of integers, each exact in float32, with what they must be."""

    @tf.function
    def wrong() -> Any:
        def one() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            count = strategy.num_replicas_in_sync
            integers = tf.tile(tf.range(float(_PATTERN)), [length // _PATTERN])
            mine = integers * tf.cast(context.replica_id_in_sync_group + 1, tf.float32)
            total = integers * float(count * (count + 1) // 2)
            return tf.reduce_max(tf.abs(context.all_reduce("SUM", mine) - total))

        return strategy.experimental_local_results(strategy.run(one))

    if max(float(each) for each in wrong()) != 0:
        raise Failed(
            f"the sum over {strategy.num_replicas_in_sync} devices is wrong; set NCCL_DEBUG=INFO and check /dev/shm"
        )


def _bytes_per_second(strategy: tf.distribute.Strategy, length: int) -> float:
    """Return the bytes that each device sends a second: a ring sends 2 (n - 1) / n times the message."""

    @tf.function
    def reduce() -> Any:
        def one() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            value = tf.ones([length])
            for _ in range(_REPETITIONS):  # Each waits for the one before.
                value = context.all_reduce("MEAN", value)
            return value[0]

        return strategy.experimental_local_results(strategy.run(one))

    seconds = 0.0
    for _ in range(2):  # The first one compiles.
        started = time.perf_counter()
        _ = [float(each) for each in reduce()]
        seconds = time.perf_counter() - started
    count = int(strategy.num_replicas_in_sync)
    return 2 * (count - 1) / count * length * 4 * _REPETITIONS / seconds
