"""A Hugging Face Hub on this machine: the few routes that an upload of a model uses, for the real client."""

import base64
import contextlib
import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_right"


class FakeHub(ThreadingHTTPServer):
    """Takes repositories and commits.

    Attributes:
        repositories: by name, whether they are private, and their files.
        blobs: large files that came by themselves, by SHA-256.
        refusals: statuses of the next requests that are refused.
        requests: method and path of each.
    """

    daemon_threads = True
    large = 1000  # Bytes; larger files travel by themselves.

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.refusals: list[int] = []
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route("GET", b"")

    def do_PUT(self) -> None:
        self._route("PUT", self._body())

    def do_POST(self) -> None:
        self._route("POST", self._body())

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _route(self, method: str, body: bytes) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{method} {path}")
        if self.server.refusals:
            self._answer(self.server.refusals.pop(0), {"error": "refused by the test"})
        elif method == "PUT":
            self.server.blobs[path.rpartition("/")[2]] = body
            self._answer(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+?)/(preupload|commit)/main", path):
            self._of_repository(match[1], match[2], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._answer(
                200, {"transfer": "basic", "objects": [self._blob(each) for each in json.loads(body)["objects"]]}
            )
        else:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        exists = name in self.server.repositories
        is_private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.server.repositories.setdefault(name, {"private": is_private, "files": {}})
        self._answer(409 if exists else 200, {"url": f"{self.server.url}/{name}"})

    def _of_repository(self, name: str, action: str, body: bytes) -> None:
        if name not in self.server.repositories:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif action == "preupload":
            modes = [{"path": each["path"], "shouldIgnore": False, "oid": None,
                      "uploadMode": "lfs" if each["size"] > self.server.large else "regular"}
                     for each in json.loads(body)["files"]]  # fmt: skip
            self._answer(200, {"files": modes})
        else:
            self._commit(name, [json.loads(line) for line in body.splitlines()])

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repositories[name]["files"]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        self._answer(200, {"commitUrl": f"{self.server.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40})

    def _blob(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.server.url}/blobs/{wanted['oid']}"}}}

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Be silent."""


@contextlib.contextmanager
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Run a hub for the block, which the real client takes for the Hub."""
    if importlib.util.find_spec("huggingface_hub"):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # That storage is not played.
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        threading.Thread(target=hub.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
