"""How a command begins and ends: its log on stderr, and errors as one line and an exit code.  Imports no TensorFlow."""

import logging
import os
import select
import sys
from collections.abc import Callable, Sequence

from trainer import errors, flags, logs


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command on the words after the program's name and return its exit code.

    A wrong request becomes one line on stderr and code 2, never a traceback; any other exception stays loud.
    """
    _show_log()
    try:
        code = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except flags.HelpRequested as page:
        print(page)
        return errors.EXIT_DONE
    except errors.RequestError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return errors.EXIT_REQUEST
    except errors.JobFailed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return errors.EXIT_FAILED
    except errors.StoppedEarly as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        return errors.EXIT_STOPPED
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return errors.EXIT_FAILED


def _nobody_reads() -> bool:
    """Tell whether standard output is a pipe that its reader, perhaps ``head``, has closed, and close it if so."""
    try:
        watch = select.poll()
        watch.register(sys.stdout, 0)
    except (OSError, ValueError):  # Not a stream of the operating system.
        return False
    if not any(events & select.POLLERR for _, events in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # What is still buffered goes there at the end.
    return True


def _show_log() -> None:
    """Show this package's log on stderr, one plain line a message, and quiet TensorFlow's.

    Without an NVIDIA device TensorFlow reports the missing driver as an error at every start, which nobody needs.
    """
    has_nvidia = os.path.exists("/dev/nvidiactl")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if has_nvidia else "3")
    package_log = logging.getLogger("trainer")
    if not package_log.handlers:
        handler = logs.StderrHandler()
        handler.setFormatter(logs.formatter())
        package_log.addHandler(handler)
        package_log.setLevel(logging.INFO)
        package_log.propagate = False
