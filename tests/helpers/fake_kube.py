"""A small Kubernetes API server on a real socket: the calls of scripts/submit.py, and ways to break them.

It keeps objects by kind and name, as plain dicts.  A test plays the part of the real server's controllers: it sets
a status, or provides a script for the next watch or log request.
"""

import contextlib
import itertools
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KINDS = {"jobset.x-k8s.io": ("jobsets",), "kueue.x-k8s.io": ("localqueues", "workloads")}  # By API group.
BREAK = "break"  # In a script: close the connection in the middle of the answer.


class ApiServer:
    """The state of the server, and the requests that it received."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.requests: list[tuple[str, str, dict[str, str], Object | None]] = []
        self.refuse: dict[tuple[str, str], tuple[int, str]] = {}  # By method and plural: every such request.
        self.watches: list[list[Any]] = []  # Each watch takes the first: events, functions to call, or BREAK.
        self.logs: dict[str, list[list[str]]] = {}  # By pod, or pod/container; requests take the first, the last stays.
        self.missing: set[str] = set()  # Plurals that the cluster does not know.
        self.pending: list[Object] = []  # What Kueue's visibility API lists.
        self.forbidden: set[tuple[str, str]] = set()  # Verb and resource that access reviews deny.
        self.controller: Callable[[str, Object], None] = lambda plural, item: None  # Called after each creation.
        self._versions = itertools.count(1)

    def put(self, plural: str, item: Object) -> Object:
        """Store an object as if it had been created or changed."""
        item.setdefault("metadata", {}).setdefault("uid", f"uid-{next(self._versions)}")
        item["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[plural, item["metadata"]["name"]] = item
        return item

    def prepare(self, namespace: str = "deepdetect") -> None:
        """Store what ``kubectl apply -k`` makes, and a node with eight L4."""
        self.put("namespaces", {"metadata": {"name": namespace}})
        self.put("serviceaccounts", {"metadata": {"name": "deepdetect"}})
        for name in ("low", "default", "high"):
            self.put("priorityclasses", {"metadata": {"name": f"deepdetect-{name}"}})
        self.put("persistentvolumeclaims", {"metadata": {"name": "faces"}, "spec": {"accessModes": ["ReadWriteMany"]}})
        labels = {"kubernetes.io/arch": "amd64", "cloud.google.com/gke-accelerator": "nvidia-l4",
                  "iam.gke.io/gke-metadata-server-enabled": "true", "cloud.google.com/gke-spot": "true"}  # fmt: skip
        self.put("nodes", {"metadata": {"name": "node-1", "labels": labels},
                           "status": {"allocatable": {"nvidia.com/gpu": "8"}}})  # fmt: skip

    def collect(self, uid: str) -> None:
        """Remove what a deleted object owned."""
        for key, item in list(self.objects.items()):
            if uid and uid in [owner.get("uid") for owner in item["metadata"].get("ownerReferences", [])]:
                del self.objects[key]

    def created(self) -> set[tuple[str, str]]:
        """Return plural and name of what is left of the objects that requests created."""
        posted = {(split_path(path)[1], (body or {}).get("metadata", {}).get("name", ""))
                  for method, path, _, body in self.requests if method == "POST"}  # fmt: skip
        return posted & self.objects.keys()

    def verbs(self) -> set[tuple[str, str, str]]:
        """Return API group, resource and verb of all requests."""
        seen = set()
        for method, path, query, _ in self.requests:
            group, plural, name, sub = split_path(path)
            seen.add((group, f"{plural}/{sub}" if sub else plural, verb_of(method, query, name)))
        return seen

    def set_status(self, plural: str, name: str, **status: Any) -> None:
        """Replace an object's status."""
        item = self.objects[plural, name]
        self.put(plural, {**item, "status": status})

    def asked(self, method: str, plural: str) -> list[tuple[str, dict[str, str], Object | None]]:
        """Return name, query and body of all requests of a kind."""
        return [(path.rpartition(plural)[2].strip("/"), query, body) for found, path, query, body in self.requests
                if found == method and f"/{plural}" in path]  # fmt: skip


@contextlib.contextmanager
def serve(folder: Path, monkeypatch: Any) -> Iterator[ApiServer]:
    """Run a server on a free port, and point KUBECONFIG at it while the block runs."""
    state = ApiServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    path = folder / "kubeconfig"
    path.write_text(_kubeconfig(f"http://127.0.0.1:{server.server_port}"))
    monkeypatch.setenv("KUBECONFIG", str(path))
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def split_path(path: str) -> tuple[str, str, str, str]:
    """Return API group, plural, name and subresource of a request; the core group is empty."""
    root, *parts = path.strip("/").split("/")
    group = parts.pop(0) if root == "apis" and parts else ""
    if len(parts) < 2:
        return group, "", "", ""  # A question about the server's kinds.
    parts.pop(0)  # The version.
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    plural, name, sub = (*parts, "", "")[:3]
    return group, plural, name, sub


def verb_of(method: str, query: dict[str, str], name: str) -> str:
    """Return the verb that a role must allow for a request."""
    if method == "GET":
        return "watch" if query.get("watch") == "true" else "get" if name else "list"
    return {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}[method]


def _kubeconfig(url: str) -> str:
    return yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    })  # fmt: skip


def _merged(item: Any, changes: Any) -> Any:
    """Return an object after a merge patch."""
    if not (isinstance(item, dict) and isinstance(changes, dict)):
        return changes
    return {**item, **{name: _merged(item.get(name, {}), value) for name, value in changes.items()}}


def _field(item: Object, path: str) -> Any:
    for name in path.split("."):
        item = item.get(name, {})
    return item


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # Head and body in one packet: two cost 40 ms each time (Nagle's algorithm, delayed ACK).
    state: ApiServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _route(self) -> tuple[str, str, str, dict[str, str]]:
        """Return plural, name and subresource, and the query."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        _, plural, name, sub = split_path(url.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.body = body
        self.state.requests.append((self.command, url.path, query, body))
        return plural, name, sub, query

    def _refused(self, plural: str) -> bool:
        if self.headers.get("Authorization") != "Bearer secret":
            self._status(401, "Unauthorized")
        elif not plural or plural in self.state.missing:
            self._status(404, "the server could not find the requested resource")
        elif (self.command, plural) in self.state.refuse:
            self._status(*self.state.refuse[self.command, plural])
        else:
            return False
        return True

    def do_GET(self) -> None:
        plural, name, sub, query = self._route()
        if not plural and self._discovery(urllib.parse.urlsplit(self.path).path):
            return
        if self._refused(plural):
            return
        if sub == "pendingworkloads":
            self._json(200, {"items": self.state.pending})
        elif sub == "log":
            self._log(name, query.get("container", ""))
        elif query.get("watch") == "true":
            self._watch()
        elif name:
            found = self.state.objects.get((plural, name))
            self._json(200, found) if found else self._status(404, f'{plural} "{name}" not found')
        else:
            self._list(plural, query)

    def _discovery(self, path: str) -> bool:
        """Answer a question about the server itself; return whether it was one."""
        if path == "/version":
            self._json(200, {"gitVersion": "v1.35.0"})
        elif path.startswith("/apis/") and (known := set(KINDS.get(path.split("/")[2], ())) - self.state.missing):
            self._json(200, {"resources": [{"name": name} for name in sorted(known)]})
        else:
            return False
        return True

    def _list(self, plural: str, query: dict[str, str]) -> None:
        wanted = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
        fields = dict(part.split("=") for part in query.get("fieldSelector", "").split(",") if part)
        items = [item for (kind, _), item in self.state.objects.items()
                 if kind == plural and wanted.items() <= item["metadata"].get("labels", {}).items()
                 and all(_field(item, path) == value for path, value in fields.items())]  # fmt: skip
        # As the real server: objects in a list have no kind.
        items = [{name: value for name, value in item.items() if name != "kind"} for item in items]
        self._json(200, {"items": items, "metadata": {"resourceVersion": str(next(self.state._versions))}})

    def do_POST(self) -> None:
        plural, _, _, query = self._route()
        if self._refused(plural):
            return
        if plural == "selfsubjectreviews":
            self._json(201, {**self.body, "status": {"userInfo": {"username": "jo@example.com"}}})
            return
        if plural == "selfsubjectaccessreviews":
            asks = self.body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asks["resource"], asks["subresource"])))
            allowed = (asks["verb"], resource) not in self.state.forbidden
            self._json(201, {**self.body, "status": {"allowed": allowed}})
            return
        name = self.body["metadata"]["name"]
        if (plural, name) in self.state.objects:
            self._status(409, f'{plural} "{name}" already exists')
        elif query.get("dryRun") == "All":
            self._json(201, self.body)
        else:
            item = self.state.put(plural, self.body)
            self.state.controller(plural, item)
            self._json(201, item)

    def do_PATCH(self) -> None:
        plural, name, _, _ = self._route()
        if self._refused(plural):
            return
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        item = self.state.objects.get((plural, name))
        if item is None:
            self._status(404, f'{plural} "{name}" not found')
            return
        self._json(200, self.state.put(plural, _merged(item, self.body)))

    def do_DELETE(self) -> None:
        plural, name, _, _ = self._route()
        if self._refused(plural):
            return
        item = self.state.objects.pop((plural, name), None)
        if item is None:
            self._status(404, f'{plural} "{name}" not found')
        else:
            self.state.collect(item["metadata"].get("uid"))
            self._json(200, {"kind": "Status", "status": "Success"})

    def _watch(self) -> None:
        script = self.state.watches.pop(0) if self.state.watches else []
        if script and isinstance(script[0], int):
            self._status(script[0], "too old resource version")
            return
        self._stream(script, lambda event: json.dumps(event))

    def _log(self, pod: str, container: str) -> None:
        scripts = self.state.logs.get(pod if container == "trainer" else f"{pod}/{container}")
        if not scripts:
            self._status(404, f'pods "{pod}" not found')
            return
        self._stream(scripts.pop(0) if len(scripts) > 1 else scripts[0], str)

    def _stream(self, script: list[Any], encode: Callable[[Any], str]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for entry in script:
            if callable(entry):
                entry()
            elif entry == BREAK:
                self.wfile.write(b"40\r\nhalf a li")
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            else:
                data = encode(entry).encode() + b"\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _status(self, code: int, message: str) -> None:
        self._json(code, {"kind": "Status", "status": "Failure", "code": code, "message": message})

    def _json(self, code: int, content: Object) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
