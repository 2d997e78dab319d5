"""How a command starts and ends: its log on stderr, and errors as one line and an exit code.

Owns: exit codes of exceptions, log formats, the environment that TensorFlow and Keras start in.  Does not own: flags
(``config/flags.py``), closed outputs (``streams.py``), signals (``signals.py``).  Imports no TensorFlow.
"""

import datetime
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from trainer.core import (
    environment,
    errors,
    keras_environment,
    progress,
    quiet_start,
    signals,
    starts,
    streams,
    terminal,
)
from trainer.core.config import flags
from trainer.core.starts import dirty_writer
from trainer.core.storage import transient


def console(command: Callable[[Sequence[str]], int], *, watched: bool = False) -> NoReturn:
    """Be the process of a command: run it on the process's words, and exit with its code.

    Args:
        command: to run.
        watched: whether its job_dir shall tell of this start (``starts``).
    """
    if watched:
        starts.watch(as_json=_logs_json())
    try:
        code = run_command(command)
    except Exception as error:
        starts.end(errors.EXIT_FAILED, f"{type(error).__name__}: {error}")
        raise
    finally:
        signals.end_at_once()
    starts.end(code)
    sys.exit(code)


def run_command(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command on the words after the program's name and return its exit code.

    A wrong request becomes one line on stderr and code 2, never a traceback; so does a signal, with code 75.  Any other
    exception stays loud.
    """
    with streams.unbreakable(), keras_environment.safe(), keras_environment.lean():
        _show_log()
        quiet_start.install()
        try:
            with signals.interruptible():
                return _exit_code(command, sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt as interrupt:
            _say(f"stopped: {interrupt or 'SIGINT'}; rerun the same command")
            return errors.EXIT_STOPPED


def _exit_code(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command, print its help or error, and return its exit code."""
    try:
        return command(argv)
    except flags.HelpRequested as page:
        print(page if page.is_file else progress.fitted(str(page), sys.stdout))
        return errors.EXIT_DONE
    except errors.RequestError as error:
        _say(f"error: {' '.join(str(error).split())}")
        return errors.EXIT_REQUEST
    except errors.JobFailed as failure:
        _say(f"failed: {failure}")
        return errors.EXIT_FAILED
    except errors.StoppedEarly as stop:
        _say(f"stopped: {stop}")
        return errors.of_process(stop.code, in_pod=environment.is_pod())
    except OSError as error:
        if isinstance(error, BrokenPipeError) or not transient.is_transient(error):
            raise
        _say(f"stopped: {error}; this may pass: rerun the same command")
        return errors.EXIT_STOPPED


def _say(line: str) -> None:
    starts.note_words(line)
    print(progress.fitted(terminal.visible(line), sys.stderr), file=sys.stderr)


def _show_log() -> None:
    """Show this package's log on stderr and silence TensorFlow's.

    Without an NVIDIA device TensorFlow reports the missing driver as an error at every start.  What it writes before it
    reads its level is left to ``quiet_start.py``.
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
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # It warns of every font that is not there.


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
        if record.threadName == dirty_writer.THREAD:
            return
        try:
            text = terminal.visible(self.format(record))
            if not isinstance(self.formatter, JsonFormatter):
                text = progress.fitted(text, sys.stderr)
            with progress.no_bars(sys.stderr):
                sys.stderr.write(text + "\n")
                sys.stderr.flush()
        except (RecursionError, errors.StoppedEarly):
            raise
        except Exception:
            self.handleError(record)


def formatter() -> logging.Formatter:
    """Return the formatter: JSON if DEEPDETECT_LOG=json, or in a pod or on Vertex AI without a terminal; else text."""
    return JsonFormatter() if _logs_json() else logging.Formatter("%(message)s")


def _logs_json() -> bool:
    in_pod = (environment.is_pod() or "CLOUD_ML_JOB" in os.environ) and not sys.stderr.isatty()
    return os.environ.get("DEEPDETECT_LOG", "json" if in_pod else "plain") == "json"
