"""A request for a server: its flags, and the checks that need no TensorFlow."""

import dataclasses
import importlib.util
import re
from collections.abc import Sequence

from trainer.core.config import PATH, flags, setting
from trainer.core.errors import RequestError

USAGE = """\
Answer HTTP requests with an exported model.

  python -m trainer.serve --model_dir=J/export/best [--port=8501] [flags]

  GET  /                           a page to drop a picture on: score, label, heat map
  POST /predict                    a file, as the body or as multipart/form-data; ?explain=1 adds a heat map
  POST /v1/models/NAME:predict     TensorFlow Serving's REST API, as the GETs of /v1/models/NAME and its /metadata
  GET  /healthz, /readyz           whether the process works; whether it takes requests
  GET  /metrics                    counts and times for Prometheus

There is neither a password nor TLS: for other machines put a proxy with both in front.  SIGTERM and Ctrl-C end the
server after the requests that it has.  Needs pip install -e '.[serve]'.

Exit codes: 0 ended by a signal; 2 the request is wrong; 75 the port is taken, or a storage did not answer: rerun it."""

_PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True)
class ServeFlags:
    """Settings of one server."""

    model_dir: str = setting(
        "", "Exported model: a job's export/best (its newest version is used) or one version of it.", path=PATH
    )
    name: str = setting("deepdetect", "Name of the model in /v1/models/NAME.")
    host: str = setting("127.0.0.1", "Address to listen on. 0.0.0.0: all of this machine's, so that others reach it.")
    port: int = setting(8501, "Port to listen on. 0: any free one, which is printed.", minimum=0, maximum=65535)
    max_batch_size: int = setting(32, "Images that the model scores at a time at most.", unit="images", minimum=1)
    max_wait_ms: float = setting(
        5.0, "How long the first image of a batch waits for others.", unit="milliseconds", minimum=0.0, maximum=10_000.0
    )
    max_body_bytes: int = setting(16 * 2**20, "Larger requests are refused.", unit="bytes", minimum=1)
    max_queue: int = setting(
        256,
        "Images that wait for the model at most; requests above it are answered with 503.",
        unit="images",
        minimum=1,
    )
    max_queue_bytes: int = setting(
        256 * 2**20, "Bytes of the bodies of all requests together; above it they are answered with 503.", unit="bytes",
        minimum=1,
    )  # fmt: skip


def parse(argv: Sequence[str]) -> ServeFlags:
    """Return the checked flags.

    Raises:
        HelpRequested: if ``--help`` is among the words.
        RequestError: for the first wrong flag, or if packages are missing.
    """
    request = flags.parse_request(argv, ServeFlags, usage=USAGE, required=("model_dir",))
    if not _NAME.fullmatch(request.name):
        raise RequestError(
            f"--name: expected letters, digits, dots, dashes and underscores, received {request.name!r}; correct it"
        )
    if request.max_queue_bytes < request.max_body_bytes:
        raise RequestError(
            f"--max_queue_bytes: expected at least --max_body_bytes ({request.max_body_bytes}), received "
            f"{request.max_queue_bytes}; raise it"
        )
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"expected the packages of the extra serve, received no {', '.join(missing)}; pip install -e '.[serve]'"
        )
    return request
