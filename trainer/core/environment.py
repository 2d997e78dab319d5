"""What environment variables say: numbers, and whether this is a pod.  Imports no TensorFlow."""

import math
import os
from collections.abc import Mapping

from trainer.core.errors import RequestError

POD = "KUBERNETES_SERVICE_HOST"  # Kubernetes sets it in every container.


def seconds(name: str, default: float, *, minimum: float = 0.0) -> float:
    """Return the number of seconds in a variable; ``default`` if it is not set.

    Raises:
        RequestError: naming the variable, if it holds anything else.
    """
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not minimum <= value < math.inf:
        raise RequestError(f"{name}: expected seconds, at least {minimum:g}, received {text!r}; correct or unset it")
    return value


def is_pod(variables: Mapping[str, str] = os.environ) -> bool:
    """Return whether an environment is that of a process in a Kubernetes pod."""
    return POD in variables
