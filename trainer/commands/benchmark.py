"""``deepdetect benchmark``: runs ``scripts/benchmark.py`` of the checkout.  Imports no TensorFlow."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from trainer.core import installed
from trainer.core.errors import RequestError


def main(argv: Sequence[str]) -> NoReturn:
    """Become the process of the script.

    Raises:
        RequestError: if there is no checkout.
    """
    script = installed.CHECKOUT / "scripts" / "benchmark.py"
    if not script.is_file():
        raise RequestError(
            "benchmark: expected a checkout of the project, whose scripts measure, received an installed package; "
            "clone it and use python scripts/benchmark.py"
        )
    os.execv(sys.executable, [sys.executable, str(script), *argv])
