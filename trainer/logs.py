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


def formatter() -> logging.Formatter:
    """Return JSON if DEEPDETECT_LOG=json, or in a Kubernetes pod without a terminal; else plain."""
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not sys.stderr.isatty()
    kind = os.environ.get("DEEPDETECT_LOG", "json" if in_pod else "plain")
    return JsonFormatter() if kind == "json" else logging.Formatter("%(message)s")
