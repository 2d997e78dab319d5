"""Run one server of a tf.data service, its dispatcher or, with --dispatcher, a worker.

  python -m trainer.data_service --port=5050
  python -m trainer.data_service --port=5051 --dispatcher=HOST:5050 --host=THIS_HOST

Start one dispatcher and enough workers to decode fast enough, and train with --data_service=grpc://HOST:5050.  The
servers are TensorFlow's.  They run what a trainer sends them and authenticate nobody: let only trainers reach them.
SIGTERM, Ctrl-C and the like end a server at once; nothing is lost, because trainers then decode themselves.
"""

import argparse
import os
import signal
from collections.abc import Sequence

from trainer.core import cli, proxies, signals
from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, RequestError
from trainer.distributed.cluster import split_address

_HEARTBEAT_MS = 5_000
_DISPATCHER_TIMEOUT_MS = 600_000  # How long to wait for a dispatcher to start.


def main(argv: Sequence[str]) -> int:
    """Serve until a signal arrives.

    Raises:
        RequestError: if a flag is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m trainer.data_service", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--dispatcher", default="", metavar="HOST:PORT", help="run a worker of this dispatcher")
    parser.add_argument("--host", default="localhost", help="host name by which trainers reach this worker")
    parser.add_argument(
        "--state_dir",
        type=os.path.expanduser,
        default="",
        help="folder with the state that a restarted dispatcher needs",
    )
    arguments = parser.parse_args(flags.with_underscores(argv, ("state_dir",)))
    if not 0 < arguments.port < 2**16:
        raise RequestError(f"--port: expected a port in 1..65535, received {arguments.port}")
    if arguments.dispatcher:
        proxies.go_past([split_address(arguments.dispatcher, "--dispatcher")[0]])
    # The servers' threads never return to Python, where an ordinary handler would run.
    signals.end_at_once(EXIT_DONE)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # It decodes on the CPU, and must leave GPUs to trainers.
    serve(arguments.port, arguments.dispatcher, arguments.host, arguments.state_dir)
    return EXIT_DONE


def serve(port: int, dispatcher: str, host: str, state_dir: str) -> None:
    """Start a server and wait for a signal; see the command's flags."""
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
