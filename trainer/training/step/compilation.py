"""Whether a step is compiled with XLA, and what happens if that fails."""

import logging
import re
from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

log = logging.getLogger(__name__)
T = TypeVar("T")

# Errors of a compiler; others, such as a lost peer, are nobody's to hide.
_KINDS = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.InternalError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,
)
_WORDS = re.compile(r"xla|compil|hlo\b|libdevice|ptxas", re.IGNORECASE)
_LONGEST = 300  # Characters of an error in a warning.


class Compilation:
    """Compiles until the first failure, and says so then.

    Attributes:
        failed: whether it has; from then on nothing is compiled.
    """

    def __init__(self, requested: bool, name: str) -> None:
        """Begin.

        Args:
            requested: whether all of it is to be compiled, not only a large update.
            name: of what is compiled, for people.
        """
        self._requested = requested
        self._name = name
        self._proven = False
        self.failed = False

    @property
    def enabled(self) -> bool:
        """Whether all of it is compiled."""
        return self._requested and not self.failed

    def attempt(self, call: Callable[[bool], T]) -> T:
        """Return the result of a call, or of the same one uncompiled if its first compilation fails.

        XLA compiles a program before it runs any of it, so a failed call has changed nothing.

        Args:
            call: gets ``failed``, and must trace anew if that changes.
        """
        if self._proven or self.failed:
            return call(self.failed)
        try:
            result = call(False)
        except _KINDS as error:
            if not _WORDS.search(error.message):
                raise
            message = " ".join(error.message.split())[:_LONGEST]
            log.warning("XLA cannot compile the %s, which runs without it: %s", self._name, message)
            self.failed = True
            return call(True)
        self._proven = True
        return result
