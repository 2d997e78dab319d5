"""How a command starts and ends: its log on stderr, and errors as one line and an exit code.

Owns: exit codes of exceptions, closed pipes, log formats.  Does not own: flags (``config/flags.py``).
Imports no TensorFlow.
"""

import datetime
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Sequence

from trainer.core import errors, terminal
from trainer.core.config import flags
from trainer.core.storage import transient


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command on the words after the program's name and return its exit code.

    A wrong request becomes one line on stderr and code 2, never a traceback; any other exception stays loud.
    """
    _show_log()
    code = errors.EXIT_DONE
    try:
        code = _exit_code(command, sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # Not at the end of the process, where Python reports a closed pipe with a traceback.
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return code or errors.EXIT_FAILED
    return code


def _exit_code(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command, print its help or error, and return its exit code."""
    try:
        return command(argv)
    except flags.HelpRequested as page:
        print(page)
        return errors.EXIT_DONE
    except errors.RequestError as error:
        print(terminal.visible(f"error: {' '.join(str(error).split())}"), file=sys.stderr)
        return errors.EXIT_REQUEST
    except errors.JobFailed as failure:
        print(terminal.visible(f"failed: {failure}"), file=sys.stderr)
        return errors.EXIT_FAILED
    except errors.StoppedEarly as stop:
        print(terminal.visible(f"stopped: {stop}"), file=sys.stderr)
        return errors.EXIT_STOPPED
    except OSError as error:
        if isinstance(error, BrokenPipeError) or not transient.is_transient(error):
            raise
        print(terminal.visible(f"stopped: {error}; this may pass: rerun the same command"), file=sys.stderr)
        return errors.EXIT_STOPPED


def _reader_is_gone() -> bool:
    """Return whether the reader of standard output, perhaps ``head``, has closed the pipe.

    If so, what is still buffered is sent nowhere, so that the end of the process stays quiet.
    """
    try:
        watch = select.poll()
        watch.register(sys.stdout, 0)
    except (OSError, ValueError):  # Not a stream of the operating system.
        return False
    if not any(events & select.POLLERR for _, events in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _show_log() -> None:
    """Show this package's log on stderr and silence TensorFlow's.

    Without an NVIDIA device TensorFlow reports the missing driver as an error at every start.
    """
    has_nvidia = os.path.exists("/dev/nvidiactl")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if has_nvidia else "3")
    package_log = logging.getLogger("trainer")
    if not package_log.handlers:
        handler = StderrHandler()
        handler.setFormatter(formatter())
        package_log.addHandler(handler)
        package_log.setLevel(logging.INFO)
        package_log.propagate = False


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the fields of https://cloud.google.com/logging/docs/structured-logging."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback if there is one."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat()
        severity = record.levelname  # Cloud Logging knows Python's five names.
        return json.dumps({"severity": severity, "time": time, "message": message, "logger": record.name})


class StderrHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at that moment.

    ``logging.StreamHandler`` keeps the stream of its construction, which may be replaced and closed later.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; failures are reported as by every handler of ``logging``."""
        try:
            sys.stderr.write(terminal.visible(self.format(record)) + "\n")
            sys.stderr.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


def formatter() -> logging.Formatter:
    """Return the formatter: JSON if DEEPDETECT_LOG=json or in a Kubernetes pod without a terminal, else plain text."""
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not sys.stderr.isatty()
    kind = os.environ.get("DEEPDETECT_LOG", "json" if in_pod else "plain")
    return JsonFormatter() if kind == "json" else logging.Formatter("%(message)s")
