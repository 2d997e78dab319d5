"""The command ``python -m trainer.data_service``: one server of a tf.data service, its dispatcher or a worker."""

import dataclasses
import os
import signal
from collections.abc import Sequence

from trainer.core import cli, config, progress, proxies, signals
from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, RequestError
from trainer.distributed.cluster import split_address

_HEARTBEAT_MS = 5_000
_DISPATCHER_TIMEOUT_MS = 600_000  # How long to wait for a dispatcher to start.


USAGE = """\
Run one server of a tf.data service, its dispatcher or, with --dispatcher, a worker.

  python -m trainer.data_service --port=5050
  python -m trainer.data_service --port=5051 --dispatcher=HOST:5050 --host=THIS_HOST

Start one dispatcher and enough workers to decode fast enough, and train with --data_service=grpc://HOST:5050.  The
servers are TensorFlow's.  They run what a trainer sends them and authenticate nobody: let only trainers reach them.
SIGTERM, Ctrl-C and the like end a server at once; nothing is lost, because trainers then decode themselves."""


@dataclasses.dataclass(frozen=True)
class DataServiceFlags:
    """Settings of one server."""

    port: int = config.setting(0, "Port to listen on.", minimum=1, maximum=2**16 - 1)
    dispatcher: str = config.setting("", "HOST:PORT of a dispatcher: run a worker of it. Empty: run a dispatcher.")
    host: str = config.setting("localhost", "Host name by which trainers reach this worker.")
    state_dir: str = config.setting(
        "", "Folder with the state that a restarted dispatcher needs. Empty: it keeps none.", path=config.PATH
    )


def main(argv: Sequence[str]) -> int:
    """Serve until a signal arrives.

    Raises:
        RequestError: if a flag is wrong.
    """
    request = flags.parse_request(argv, DataServiceFlags, usage=USAGE, marked=("port",))
    if not request.port:
        raise RequestError("expected --port, received none; see --help")
    if request.dispatcher:
        proxies.go_past([split_address(request.dispatcher, "--dispatcher")[0]])
    # The servers' threads never return to Python, where an ordinary handler would run.
    signals.end_at_once(EXIT_DONE)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # It decodes on the CPU, and must leave GPUs to trainers.
    serve(request.port, request.dispatcher, request.host, request.state_dir)
    return EXIT_DONE


def serve(port: int, dispatcher: str, host: str, state_dir: str) -> None:
    """Start a server and wait for a signal; see the command's flags."""
    with progress.phase("loading TensorFlow"):
        import tensorflow as tf

    service = tf.data.experimental.service
    server = (
        service.WorkerServer(
            service.WorkerConfig(
                dispatcher_address=dispatcher,
                worker_address=f"{host}:{port}",
                port=port,
                heartbeat_interval_ms=_HEARTBEAT_MS,
                dispatcher_timeout_ms=_DISPATCHER_TIMEOUT_MS,
            )
        )
        if dispatcher
        else service.DispatchServer(
            service.DispatcherConfig(port=port, work_dir=state_dir or None, fault_tolerant_mode=bool(state_dir))
        )
    )
    role = f"worker {host}:{port} of {dispatcher}" if dispatcher else f"dispatcher on port {port}"
    print(f"data service: {role} is ready", flush=True)
    while True:
        signal.pause()
    del server


if __name__ == "__main__":
    cli.console(main)
