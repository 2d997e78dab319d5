"""Run three training steps in one call on the second of two CPUs; TensorFlow writes the graphs that it divides.

``python -m tests.helpers.partitions`` with TF_DUMP_GRAPH_PREFIX and TF_DUMP_GRAPH_NAME_FILTER.
"""

from unittest import mock

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from tests.training import test_train_step  # noqa: E402  (after the devices)
from trainer.training.execution import Execution  # noqa: E402
from trainer.training.frozen.phase import PhasedStep  # noqa: E402

if __name__ == "__main__":
    strategy = tf.distribute.OneDeviceStrategy("CPU:1")
    with mock.patch.object(test_train_step, "strategy_of", return_value=strategy):
        made = test_train_step.trainer_of(1, batch_size=8)
    execution = Execution(made.strategy, made.optimizer, PhasedStep(made.steps), 3)
    values = test_train_step.random_batch(8, seed=1)
    values["label"] = values["label"].astype("int64")  # As ``DistributedInput`` has them.
    with tf.device("CPU:1"):
        batch = {name: tf.constant(value) for name, value in values.items()}
    execution.train([batch] * 3, 0, [0.1, 0.2, 0.3])
