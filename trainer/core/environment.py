"""Numbers in environment variables.  Imports no TensorFlow."""

import math
import os

from trainer.core.errors import RequestError


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
