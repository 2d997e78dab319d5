"""The process of the server: socket, model, event loop, and its end.

Does not own: routes (``app.py``).
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Iterator

import uvicorn

from trainer.core import progress, signals
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.signals import StopRequest
from trainer.server.app import Server
from trainer.server.batcher import Batcher
from trainer.server.metrics import Metrics
from trainer.server.request import ServeFlags
from trainer.server.scorer import Scorer
from trainer.serving import exported_model

_CONNECTIONS = 1024  # Above it uvicorn itself answers 503; each costs a file descriptor and some kilobytes.
_END_SECONDS = 25  # For the requests that are there; a pod has 30 seconds by default.

log = logging.getLogger(__name__)


def serve(flags: ServeFlags) -> None:
    """Load the model, print the address, and serve until a signal arrives.

    Raises:
        RequestError: if the model or the address is wrong.
        StoppedEarly: if the port is taken, or the model's storage does not answer.
    """
    export = exported_model.find_export(flags.model_dir)
    with _listening(flags.host, flags.port) as listener:
        with progress.phase("loading the model"):
            model = Scorer(export)
        metrics = Metrics()
        batcher = Batcher(
            model.run, max_size=flags.max_batch_size, max_wait=flags.max_wait_ms / 1000, max_queue=flags.max_queue,
            max_pixels=export.max_image_pixels, watch=metrics.batch,
        )  # fmt: skip
        with signals.stop_requests() as stop:
            server = _Uvicorn(_config(Server(flags, model, batcher, metrics)), stop, batcher)
            print(f"serving {export.path} at {_address(listener)} (Ctrl-C ends it)", flush=True)
            server.run(sockets=[listener])
            batcher.close()
        print("ended", flush=True)


def _config(server: Server) -> uvicorn.Config:
    return uvicorn.Config(
        server.app(), loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=_END_SECONDS,
    )  # fmt: skip


class _Uvicorn(uvicorn.Server):
    """Leaves signals to ``core/signals.py``, by whose rules a second one ends the process at once."""

    def __init__(self, config: uvicorn.Config, stop: StopRequest, batcher: Batcher) -> None:
        super().__init__(config)
        self._stop, self._batcher = stop, batcher

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Look for a stop request, ten times a second."""
        if self._stop():
            self.should_exit = True
            self._batcher.hurry()
        return await super().on_tick(counter)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port before the model is loaded; clients wait until then."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            raise StoppedEarly(f"the name {host!r} could not be resolved; this may pass: rerun the command") from error
        raise RequestError(f"--host: expected this machine's name or address, received {host!r}; correct it") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()  # Or two servers could hold the port until one of them has loaded its model.
        except OSError as error:
            raise _not_bound(host, port, error) from error
        yield listener


def _not_bound(host: str, port: int, error: OSError) -> Exception:
    if error.errno == errno.EACCES:
        return RequestError(f"--port: expected one that this user may take, received {port}; use 1024 or above")
    if error.errno == errno.EADDRINUSE:
        return StoppedEarly(f"port {port} of {host} is taken; end the other server, or use --port=0 for a free one")
    return StoppedEarly(f"port {port} of {host} could not be taken ({error.strerror}); check --host and rerun")


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
