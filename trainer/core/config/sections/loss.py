"""What training minimises."""

import dataclasses
import math
from collections.abc import Mapping

from trainer.core.config.field import did_you_mean, setting
from trainer.core.errors import RequestError

_NONE, _BALANCED = "none", "balanced"


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What training minimises."""

    loss: str = setting(
        "crossentropy",
        "crossentropy, or focal: the cross-entropy times (1 - p)^--focal_gamma, where p is the probability of the "
        "right class.",
        choices=("crossentropy", "focal"),
    )
    focal_gamma: float = setting(
        2.0, "How much less the focal loss counts examples that are nearly right.", minimum=0.0, maximum=20.0
    )
    label_smoothing: float = setting(
        0.0, "Share of each label that is spread evenly over all classes.", minimum=0.0, maximum=0.999
    )
    class_weights: str = setting(
        _NONE,
        "How much an example of each class counts in training: none, balanced (the fewer images a class has in Train, "
        "the more each counts), or class=number, separated by commas; a class that is not named counts 1.",
    )

    @property
    def given_weights(self) -> dict[str, float]:
        """The weights of the classes that ``class_weights`` names.

        Raises:
            RequestError: if it is malformed.
        """
        return {} if self.class_weights in (_NONE, _BALANCED) else _parse(self.class_weights)

    def weights_of(self, counts: Mapping[str, int]) -> tuple[float, ...] | None:
        """Return how much an example of each class counts; None if all count alike.

        Args:
            counts: training images by class, in the order of the classes.

        Raises:
            RequestError: if ``class_weights`` is malformed, or names another class.
        """
        if self.class_weights == _NONE:
            return None
        if self.class_weights == _BALANCED:
            total = sum(counts.values())
            return tuple(total / (len(counts) * count) if count else 1.0 for count in counts.values())
        weights = self.given_weights
        for name in weights:
            if name not in counts:
                raise RequestError(
                    f"--class_weights: expected classes among {', '.join(counts)}, received {name!r}"
                    f"{did_you_mean(name, counts)}"
                )
        return tuple(weights.get(name, 1.0) for name in counts)


def _parse(text: str) -> dict[str, float]:
    """Read ``class=number,...``."""
    pairs = [part.rpartition("=") for part in text.split(",")]
    try:
        weights = {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        weights = {}
    is_valid = len(weights) == len(pairs) and all(name and 0.0 < value < math.inf for name, value in weights.items())
    if not is_valid:
        raise RequestError(
            "--class_weights: expected none, balanced, or class=number above 0 for some classes (Fake=2,Real=1); "
            f"received {text!r}"
        )
    return weights
