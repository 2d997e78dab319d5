"""Make JSON of log lines that are none: TensorFlow's, and tracebacks, each of which becomes one.

Imports no TensorFlow.
"""

import datetime
import json
import re

_OWN = b'{"severity"'  # How ``cli.JsonFormatter`` begins.
_HEAD = re.compile(r"(?:(?P<absl>[IWEF])\d{4} |\d{4}-\d\d-\d\d [\d:.]+: (?P<old>[IWEF]) )")
_SEVERITIES = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
_WORDS = {"error:": "ERROR", "failed:": "ERROR", "stopped:": "WARNING", "Fatal": "CRITICAL"}
_TRACEBACK = "Traceback (most recent call last):"
_BETWEEN = ("During handling of the above", "The above exception was the direct cause")


class JsonLines:
    """Turns the lines of one stream into JSON."""

    def __init__(self, stream: str) -> None:
        """Name the stream, for the field ``logger``."""
        self._stream = stream
        self._traceback: list[str] = []
        self._is_closing = False  # The traceback has its last line, unless another one follows.

    def add(self, line: bytes) -> bytes:
        """Return what to write for a line, which ends with a line feed; empty while a traceback goes on."""
        text = line.decode(errors="replace").rstrip("\r\n")
        is_own = line.startswith(_OWN)
        before = b""
        if self._traceback and (is_own or (self._is_closing and not self._belongs(text))):
            before = self.end()
        if is_own:
            return before + line
        if self._traceback or text == _TRACEBACK:
            self._traceback.append(text)
            self._is_closing = bool(text) and not text.startswith((" ", _TRACEBACK, *_BETWEEN))
            return before
        return before + (self._json(text, _severity(text)) if text.strip() else b"")

    def end(self) -> bytes:
        """Return what is left of a traceback."""
        text, self._traceback, self._is_closing = "\n".join(self._traceback).rstrip(), [], False
        return self._json(text, "ERROR") if text else b""

    def _belongs(self, text: str) -> bool:
        return not text or text.startswith((" ", _TRACEBACK, *_BETWEEN))

    def _json(self, message: str, severity: str) -> bytes:
        time = datetime.datetime.now(datetime.UTC).isoformat()
        fields = {"severity": severity, "time": time, "message": message, "logger": self._stream}
        return json.dumps(fields).encode() + b"\n"


def _severity(text: str) -> str:
    head = _HEAD.match(text)
    if head:
        return _SEVERITIES[head["absl"] or head["old"]]
    return _WORDS.get(text.split(" ", 1)[0], "INFO")
