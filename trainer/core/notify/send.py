"""Send a message to its targets, in bounded time, whatever happens: the job's end is what it is.

Owns: tries, limits, and that no secret of a target reaches the log.  Does not own: the protocols (``http``, ``mail``).
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from trainer.core.notify import http, mail, message
from trainer.core.notify.message import End
from trainer.core.notify.targets import masked

log = logging.getLogger("trainer.notify")

LIMIT_SECONDS = 20.0  # For all of it; what is not done by then is left.
_TRIES = 2
_PAUSE_SECONDS = 1.0


def tell(targets: Sequence[str], end: End) -> None:
    """Tell all targets how a job ended; a failure is a warning."""
    if not targets:
        return
    limit = time.monotonic() + LIMIT_SECONDS
    unsent = dict.fromkeys(targets, f"no answer in {LIMIT_SECONDS:g} s")
    content = _read(end, LIMIT_SECONDS / 2)
    threads = [threading.Thread(target=_send, args=(target, content, unsent), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(limit - time.monotonic(), 0))
    for target, reason in list(unsent.items()):
        log.warning("not notified: %s: %s", masked(target), reason)


def _read(end: End, seconds: float) -> dict[str, Any]:
    """Return the message, without what the job's folder says if that takes too long."""
    content = message.bare(end)

    def read() -> None:
        try:
            content.update(message.of(end))
        except Exception as error:  # The storage may be why the job failed.
            log.info("notified without metrics: %s", type(error).__name__)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(seconds)
    return dict(content)


def _send(target: str, content: dict[str, Any], unsent: dict[str, str]) -> None:
    """Send to one target, and remove it from those that were not told; a second try if that may help."""
    for number in range(_TRIES):
        time.sleep(_PAUSE_SECONDS if number else 0)
        try:
            refusal = (mail.send if target.startswith("mailto:") else http.post)(target, content)
        except Exception as error:  # Its message can hold the target, so that its name has to do.
            unsent[target] = type(error).__name__
            continue
        if refusal:
            unsent[target] = refusal
        else:
            del unsent[target]
        return
