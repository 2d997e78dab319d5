"""The factor of a loss whose gradients are float16, which moves with the overflows."""

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

    def update(self, finite: tf.Tensor) -> None:
        """Adjust the scale after a step; ``finite`` is all-reduced, so that all replicas do the same."""
        good = tf.where(finite, self.good_steps + 1, 0)
        grow = good >= GROWTH_INTERVAL
        lowered = tf.maximum(self.scale * 0.5, MIN_LOSS_SCALE)
        doubled = tf.where(tf.math.is_finite(self.scale * 2.0), self.scale * 2.0, self.scale)
        self.scale.assign(tf.where(finite, tf.where(grow, doubled, self.scale), lowered))
        self.good_steps.assign(tf.where(grow, tf.zeros_like(good), good))
