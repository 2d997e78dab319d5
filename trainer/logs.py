"""How log lines look: plain for a person, JSON objects with a severity for Cloud Logging."""

import datetime
import json
import logging
import os
import sys


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the fields of https://cloud.google.com/logging/docs/structured-logging."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat()
        severity = record.levelname  # Python's five names are among Cloud Logging's.
        return json.dumps({"severity": severity, "time": time, "message": message, "logger": record.name})


class StderrHandler(logging.Handler):
    """Writes to what ``sys.stderr`` is at that moment.

    ``logging.StreamHandler`` keeps the stream that it found when it was made, which others may replace and close since.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; what fails is told as every handler of ``logging`` tells it."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


def formatter() -> logging.Formatter:
    """Return JSON if DEEPDETECT_LOG=json, or in a Kubernetes pod without a terminal; else plain."""
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not sys.stderr.isatty()
    kind = os.environ.get("DEEPDETECT_LOG", "json" if in_pod else "plain")
    return JsonFormatter() if kind == "json" else logging.Formatter("%(message)s")
