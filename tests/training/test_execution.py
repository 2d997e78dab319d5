"""Several steps in one call of the graph: the same training as one by one, with batches that are there before it."""

import contextlib
import os
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework import kernels

from tests.helpers.jobs import (
    checkpoints_of,
    finished_job,
    float32_policy,  # noqa: F401  (a fixture)
    result_of,
    run_job,
    sigterm_after,
    values_of,
)
from tests.training.test_train_step import random_batch, strategy_of, trainer_of
from trainer.core.config import DataConfig
from trainer.distributed import strategy as strategy_lib
from trainer.training import transfers
from trainer.training.device_rows import DeviceRows
from trainer.training.distributed_input import DistributedInput
from trainer.training.execution import Execution
from trainer.training.frozen.phase import PhasedStep

JOB = {"model": "tests.helpers.networks:tiny", "image_size": 46, "lr_schedule": "cosine", "epochs": 2}


def inputs_of(strategy, *, ahead=1):
    """Return the input of a job on a strategy, without splits."""
    devices = strategy.num_replicas_in_sync
    runtime = strategy_lib.Runtime(strategy, "float32", "CPU", devices, devices, 0, 1, tf.float32)
    config = DataConfig(batch_size=4)
    return DistributedInput(
        runtime, config, 0, None, None, train=None, validation=None, augmentation=None, ahead=ahead
    )  # fmt: skip


def on_devices(strategy, elements, *, ahead=1):
    """Return batches of elements, one for each replica, as a job gets them."""
    return inputs_of(strategy, ahead=ahead).on_devices(elements)


def dataset_of(batches):
    columns = {name: [batch[name] for batch in batches] for name in batches[0]}
    return tf.data.Dataset.from_tensor_slices(columns)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "most"), [(1, 4), (2, 4)])
def test_rows_and_weights_are_those_of_single_steps(devices, most):
    batches = [random_batch(8 // devices, seed=seed) for seed in range(5 * devices)]
    single, several = (trainer_of(devices, batch_size=8) for _ in range(2))
    ones = Execution(single.strategy, single.optimizer, PhasedStep(single.steps))
    all_at_once = Execution(several.strategy, several.optimizer, PhasedStep(several.steps), most)
    rates = [0.1, 0.2, 0.3, 0.4, 0.5]
    expected = [
        ones.train([batch], step, [rates[step]]).numpy()[0].tolist()
        for step, batch in enumerate(on_devices(single.strategy, dataset_of(batches)))
    ]
    ready = list(on_devices(several.strategy, dataset_of(batches)))
    rows = []
    for start in range(0, 5, most):  # The last call has only one step.
        part = ready[start : start + most]
        rows += all_at_once.train(part, start, rates[start : start + most]).numpy()[: len(part)].tolist()
    np.testing.assert_array_equal(rows, expected)  # The gradient's norm is NaN in all but the first.
    assert len({row[0] for row in rows}) == 5
    for name, parts in single.state().items():
        for one, other in zip(parts, several.state()[name], strict=True):
            assert (one == other).all(), name


@contextlib.contextmanager
def fetches():
    """Yield a list that gets the number of rows of each transfer of outputs."""

    def fetch(self):
        rows.append(len(self))
        return real(self)

    rows, real = [], DeviceRows.fetch
    with mock.patch.object(DeviceRows, "fetch", fetch):
        yield rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "settings"),
    [
        (1, {"ema_decay": 0.5, "augment": "flip,cutout"}),
        (2, {"precision": "mixed_float16"}),
    ],
    ids=["one-device", "two-devices-float16"],
)  # fmt: skip
def test_a_job_is_the_same_to_the_last_bit_also_when_it_is_stopped(image_set, tmp_path, devices, settings):
    """Epochs of 7 steps; calls of 4 are cut by checkpoints every 5, by the epoch's end, and by a stop in between."""
    settings = {**JOB, **settings, "num_devices": devices, "checkpoint_every_steps": 5, "steps_per_epoch": 7}
    with fetches() as fetched:
        one = finished_job(image_set, tmp_path / "one", **settings, steps_per_execution=1)
    assert fetched == [40, 40]  # One for each validation of two batches.
    four = tmp_path / "four"
    with sigterm_after(6):
        assert run_job(image_set, four, **settings, steps_per_execution=4) == 75
    assert checkpoints_of(four)[-1] == 7  # The request waits for the call that it came in.
    assert run_job(image_set, four, **settings, steps_per_execution=4) == 0
    assert result_of(four)["weights_sha256"] == result_of(one)["weights_sha256"]
    assert values_of(four) == values_of(one)
    assert len({line["learning_rate"] for line in values_of(four, "train")}) == 14


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_is_on_its_device_before_the_step_that_needs_it(devices):
    """The number of elements that were made shows what waits on the devices when a step begins."""
    made = []
    numbers = tf.data.Dataset.range(100)
    elements = numbers.map(
        lambda number: {
            "image": tf.cast(tf.numpy_function(lambda n: made.append(n) or n, [number], tf.int64), tf.uint8),
            "label": tf.cast(number, tf.int32),
        }
    )
    strategy = strategy_of(devices)
    batches = iter(on_devices(strategy, elements, ahead=3))
    first = next(batches)
    local = strategy.experimental_local_results
    places = [[part.backing_device[-5:] for part in local(value)] for value in first.values()]
    assert places == [["CPU:0", "CPU:1"][:devices]] * 2
    for _ in range(500):  # Nobody asks for another one.
        if len(made) >= 4 * devices:
            break
        time.sleep(0.01)
    assert len(made) >= 4 * devices
    values = [int(part) for part in strategy.experimental_local_results(next(batches)["image"])]
    assert values == list(range(devices, 2 * devices))


def test_copies_are_traced_once_for_all_passes():
    """Validation is a pass of its own in each epoch, and TensorFlow keeps what it has traced."""
    inputs, batches = inputs_of(strategy_of(1), ahead=2), dataset_of([random_batch(4, seed=seed) for seed in range(4)])
    with mock.patch.object(transfers, "_on_this_device", wraps=transfers._on_this_device) as traced:
        for _ in range(3):
            assert len(list(inputs.on_devices(batches))) == 4
    assert traced.call_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_a_job_whose_step_cannot_be_compiled_goes_on_without(image_set, tmp_path, capsys, steps):
    """The failure comes out of the call of several steps, not of a step."""
    job = {**JOB, "model": "tests.helpers.networks:through_text", "epochs": 1}
    assert run_job(image_set, tmp_path / "plain", **job) == 0
    assert run_job(image_set, tmp_path / "xla", **job, xla=True, steps_per_execution=steps) == 0
    assert capsys.readouterr().err.count("XLA cannot compile the training step, which runs without it") == 1
    plain, compiled = (values_of(tmp_path / name) for name in ("plain", "xla"))
    assert compiled == plain


@pytest.fixture(scope="module")
def partitions(tmp_path_factory):
    """Return the nodes that TensorFlow gives to the host and to the device of a call of three steps."""
    folder = tmp_path_factory.mktemp("graphs")
    dump = {"TF_DUMP_GRAPH_PREFIX": str(folder), "TF_DUMP_GRAPH_NAME_FILTER": "*"}
    subprocess.run(
        [sys.executable, "-m", "tests.helpers.partitions"], check=True, env={**os.environ, **dump}, capture_output=True
    )
    found = []
    for device in ("CPU:0", "CPU:1"):
        (file,) = folder.glob(f"__inference__call_*_partition__*device:{device}.*after_partition_passes.pbtxt")
        found.append(text_format.Parse(file.read_text(), graph_pb2.GraphDef()).node)
    return found


@pytest.mark.slow
def test_the_loop_is_on_the_device_alone(partitions):
    """What the host does in a loop waits for all work of a GPU, in each step; so does what it receives at the end."""
    host, device = ({node.op for node in nodes} for nodes in partitions)
    assert "NextIteration" in device
    assert not host & {"NextIteration", "_Recv", "_HostRecv"}
    copied = {node.name.partition("/")[0] for node in partitions[1] if node.op == "_Recv"}
    assert copied == {"count"}  # Integers of 32 bits stay in the host's memory on a GPU.


@pytest.mark.slow
def test_a_gpu_has_every_operation_on_pixels(partitions):
    """TensorFlow puts on the host what a GPU has not, such as ``tf.stack``, and the pixels go there and back."""
    pixels = {node.op for node in partitions[1] if node.attr["T"].type == tf.uint8.as_datatype_enum}
    assert {"ConcatV2", "StridedSlice"} <= pixels
    assert not has_on_gpu("Pack", tf.uint8)
    assert [name for name in pixels - {"_Arg", "_Send", "_Recv"} if not has_on_gpu(name, tf.uint8)] == []


def has_on_gpu(name, dtype):
    """Return whether TensorFlow has the operation for GPUs, in this build as in any other."""
    for kernel in kernels.get_registered_kernels_for_op(name).kernel:
        allowed = {each.name: each.allowed_values.list.type for each in kernel.constraint}
        if kernel.device_type in ("GPU", "DEFAULT") and dtype.as_datatype_enum in allowed.get(
            "T", [dtype.as_datatype_enum]
        ):
            return True
    return False
