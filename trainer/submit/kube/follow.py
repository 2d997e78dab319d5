"""Follow the log of a run, from all its pods, until it ends; connections may break."""

import datetime
import json
import sys
import threading
import time
from collections.abc import Callable

from trainer.core.errors import EXIT_DONE, EXIT_FAILED, EXIT_REQUEST, JobFailed
from trainer.submit import states
from trainer.submit.kube import events, pods, runs
from trainer.submit.kube.api import Interrupted, KubeClient, Object, Outdated, Refused

CONTAINER = "trainer"
SELF_TEST = "selftest"  # Runs before it; its log matters if it failed, and then there is no other.
_WATCH_SECONDS = 5  # Between two requests for the run's state.
_PAUSE_SECONDS = 1.0  # Before reconnecting.
_ATTEMPTS = 60  # Without an answer of the API server, before giving up.
_LAST_SECONDS = 10.0  # For the last lines, after the run has ended.
_WARNING_SECONDS = 30.0  # Of waiting for machines, before the newest warning is shown, and between two.

Write = Callable[[str], None]


def to_terminal(line: str) -> None:
    """Write one whole line to stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show(client: KubeClient, name: str, *, write: Write = to_terminal) -> None:
    """Write the current log of the run's pods."""
    for pod in client.list("Pod", pods.selector(name)).items:
        if log_of(pod):
            _Tail(client, pod, write).read(follow=False)


def follow(client: KubeClient, name: str, *, write: Write = to_terminal) -> int:
    """Write the log of all pods of a run, later ones included, until it ends.

    Returns:
        An exit code: 0 done, 2 the trainer refused the request, 1 failed in another way, or was deleted.
    """
    tails: dict[str, _Tail] = {}
    version = written = ""
    failures = 0
    waiting = _Waiting(client, write)
    while True:
        try:
            version = _look_at_pods(client, name, version, tails, write)
            run, failures = runs.find(client, name), 0
            waiting.look(run)
        except Outdated:
            version = ""
            continue
        except (Interrupted, JobFailed) as error:
            failures += 1
            if failures == _ATTEMPTS:
                raise JobFailed(f"{error}; the run continues: logs {name} -f") from error
            time.sleep(_PAUSE_SECONDS)
            continue
        news = f"{name}: {run.state}{f', {run.detail}' if run.detail else ''}"
        if news != written:
            write(news)
            written = news
        if not run.is_live:
            _drain(tails)
            runs.note_end(client, run, run.state)
            return _exit_code(run)


class _Waiting:
    """Shows the cluster's newest warning while a run waits for machines, each once."""

    def __init__(self, client: KubeClient, write: Write) -> None:
        self._client = client
        self._write = write
        self._since: float | None = None
        self._shown = ""

    def look(self, run: states.Run) -> None:
        """Show the newest warning if the run has waited long enough."""
        if run.state != states.PENDING:
            self._since = None
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < _WARNING_SECONDS:
            return
        self._since = now
        warning = events.of_run(self._client, run, pods.of_run(self._client, run.name)).newest_warning()
        if warning and warning != self._shown:
            self._write(f"{run.name}: {warning}")
            self._shown = warning


def _look_at_pods(client: KubeClient, name: str, version: str, tails: dict[str, "_Tail"], write: Write) -> str:
    """List the pods (if there is no version to watch from), then watch them for a while; return the newest version."""
    if not version:
        listing = client.list("Pod", pods.selector(name))
        version = listing.version
        for pod in listing.items:
            _attend(client, pod, tails, write)
    for kind, pod in client.watch("Pod", pods.selector(name), version, _WATCH_SECONDS):
        version = pod["metadata"].get("resourceVersion", version)
        if kind in ("ADDED", "MODIFIED"):
            _attend(client, pod, tails, write)
    return version


def log_of(pod: Object) -> str:
    """Return the container of a pod whose log is to be read; empty: there is none yet."""
    status = pod.get("status", {})
    for entry in status.get("containerStatuses", []):
        if entry["name"] == CONTAINER and entry.get("state", {}).keys() & {"running", "terminated"}:
            return CONTAINER
    return SELF_TEST if SELF_TEST in pods.failed_before_start(pod) else ""


def _exit_code(run: states.Run) -> int:
    if run.state == states.DONE:
        return EXIT_DONE
    return EXIT_REQUEST if "exit code 2 " in run.detail else EXIT_FAILED


def _attend(client: KubeClient, pod: Object, tails: dict[str, "_Tail"], write: Write) -> None:
    """Start to read a pod's log, once."""
    uid = pod["metadata"]["uid"]
    if uid not in tails and log_of(pod):
        node = pod.get("spec", {}).get("nodeName", "?")
        write(f"[{pods.label_of(pod)}] pod {pod['metadata']['name']} on {node}")
        tails[uid] = _Tail(client, pod, write)
        tails[uid].start()


def _drain(tails: dict[str, "_Tail"]) -> None:
    """Wait for the last lines."""
    end = time.monotonic() + _LAST_SECONDS
    for tail in tails.values():
        tail.join(max(end - time.monotonic(), 0))


class _Tail(threading.Thread):
    """The log of one container, line by line, each once."""

    def __init__(self, client: KubeClient, pod: Object, write: Write) -> None:
        super().__init__(daemon=True, name=f"log of {pod['metadata']['name']}")
        self._client = client
        self._pod = pod["metadata"]["name"]
        self._container = log_of(pod)
        self._write = write
        self._prefix = f"[{pods.label_of(pod)}] "
        self._newest = ""  # Time of the last line written; times of equal length compare as text.

    def run(self) -> None:
        """Read the log to its end, reconnecting as needed."""
        while not self.read(follow=True) or self._is_running():
            time.sleep(_PAUSE_SECONDS)

    def read(self, *, follow: bool) -> bool:
        """Read once; return whether the stream ended normally."""
        before = self._newest
        try:
            for line in self._client.log(self._pod, self._container, follow=follow, since_seconds=self._age()):
                stamp, _, text = line.partition(" ")
                if stamp > before:  # After a reconnect the server repeats some seconds.
                    self._newest = stamp
                    self._write(self._prefix + message_of(text))
        except (Interrupted, JobFailed):
            return False
        except Refused:
            return True  # The pod is gone, and its log with it.
        return True

    def _is_running(self) -> bool:
        """Return whether the container still runs, so that the stream ended too early."""
        try:
            pod = self._client.get("Pod", self._pod)
        except (JobFailed, Refused):
            return True
        states = (pod or {}).get("status", {}).get("containerStatuses", [])
        return any("running" in entry.get("state", {}) for entry in states if entry["name"] == CONTAINER)

    def _age(self) -> int:
        """Return the seconds since the newest line, rounded up; 0 to read all."""
        if not self._newest:
            return 0
        then = datetime.datetime.fromisoformat(self._newest[:19] + "+00:00")
        return max(int((datetime.datetime.now(datetime.UTC) - then).total_seconds()) + 2, 1)


def message_of(text: str) -> str:
    """Return the message of a structured log line (``core/cli.py``), any other line unchanged."""
    if text.startswith("{"):
        try:
            entry = json.loads(text)
            severity, message = entry["severity"], entry["message"]
            return str(message) if severity == "INFO" else f"{severity}: {message}"
        except (ValueError, KeyError, TypeError):
            pass
    return text
