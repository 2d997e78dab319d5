"""The factor of a loss whose gradients are float16, which moves with the overflows."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Keras's LossScaleOptimizer starts here and doubles as often (the values of Micikevicius et al. 2018,
# "Mixed Precision Training", arXiv:1710.03740, and NVIDIA's guide).
INITIAL_LOSS_SCALE = 2.0**15
GROWTH_INTERVAL = 2000
MIN_LOSS_SCALE = 1.0


class LossScale:
    """Dynamic loss scale for float16: halved on an overflow anywhere, doubled after a run of good steps."""

    def __init__(self) -> None:
        """Create the two variables; call inside the strategy's scope."""
        only_one: dict[str, Any] = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.scale = tf.Variable(INITIAL_LOSS_SCALE, dtype=tf.float32, name="loss_scale", **only_one)
        self.good_steps = tf.Variable(0, dtype=tf.int64, name="good_steps", **only_one)

    def reset(self) -> None:
        """Start again from the initial scale."""
        self.scale.assign(INITIAL_LOSS_SCALE)
        self.good_steps.assign(0)

    def update(self, finite: tf.Tensor, copy_of: Callable[[tf.Variable], tf.Variable] = lambda only: only) -> None:
        """Adjust a replica's copy of the scale after a step.

        Args:
            finite: of the reduced gradients, so that all replicas do the same.
            copy_of: returns the replica's copy of a variable.
        """
        scale, good_steps = copy_of(self.scale), copy_of(self.good_steps)
        good = tf.where(finite, good_steps + 1, 0)
        grow = good >= GROWTH_INTERVAL
        lowered = tf.maximum(scale * 0.5, MIN_LOSS_SCALE)
        doubled = tf.where(tf.math.is_finite(scale * 2.0), scale * 2.0, scale)
        scale.assign(tf.where(finite, tf.where(grow, doubled, scale), lowered))
        good_steps.assign(tf.where(grow, tf.zeros_like(good), good))
