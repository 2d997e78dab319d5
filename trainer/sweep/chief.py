"""The three roles in a sweep: a single process, the chief that chooses trials, or a worker that trains them.

Chief and workers communicate over KerasTuner's oracle service (gRPC without authentication: keep it on a private
network).  The server is started here and not by KerasTuner's ``search()``, which waits for ever for a lost worker,
hides that a port is in use, and sleeps for 20 seconds at a time.
"""

import logging
import os
import socket
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc

from trainer.core.errors import JobFailed, RequestError, StoppedEarly
from trainer.core.signals import StopRequest
from trainer.core.storage import files
from trainer.sweep import keras_tuner_private, oracles
from trainer.sweep.records import Record
from trainer.sweep.request import Request
from trainer.sweep.summary import Summary
from trainer.sweep.tuner import BETWEEN, Tuner

log = logging.getLogger(__name__)

_LINGER_SECONDS = 30.0  # How long the chief stays up for workers that have not heard of the end yet.


def search(request: Request, stop: StopRequest) -> list[Record]:
    """Run the whole sweep in this process; return its trials, best first.

    Raises:
        StoppedEarly: after a stop request, with everything saved.
        JobFailed: if too many trials failed for the same reason.
    """
    oracle, summary = _oracle(request)
    Tuner(request, oracle, stop).search()
    return _finish(request, oracle, summary)


def _oracle(request: Request) -> tuple[Any, Summary]:
    oracle = oracles.make(request)
    summary = Summary(request, oracle, request.expected_trials)
    oracle.bind(request, summary.trial_ended)
    if oracle.trials:
        log.info("continuing a sweep of %d trials, %d of them ended", len(oracle.trials), len(oracle.end_order))
    return oracle, summary


def _finish(request: Request, oracle: Any, summary: Summary) -> list[Record]:
    best = summary.finish()
    if oracle.given_up:
        raise JobFailed(
            f"{len(oracle.failures)} trials in a row failed with the same reason ({oracle.given_up}); repair the cause "
            f"and rerun the same command, or pass --max_failures=0; {request.paths.table} has all trials"
        )
    return best


def serve(request: Request, stop: StopRequest) -> list[Record]:
    """Serve trials to workers until the sweep is over and they know it; return its trials, best first.

    Raises:
        RequestError: if the port cannot be bound.
        StoppedEarly: after a stop request, with everything saved; the workers wait for the next chief.
        JobFailed: if too many trials failed for the same reason.
    """
    oracle, summary = _oracle(request)
    if oracle.is_over():
        return _finish(request, oracle, summary)
    servicer = _servicer(oracle)
    server = _start(servicer)
    try:
        while not servicer.stop_triggered:
            _pause(stop)
            servicer.refuse_broken()
        ended = time.monotonic()
        # Stay up for workers that still have to ask once more, to hear that the sweep is over.
        while oracle.tuner_ids and time.monotonic() - ended < _LINGER_SECONDS:
            _pause(stop)
        best = _finish(request, oracle, summary)
        time.sleep(1.0)  # The last answer is on its way.
        return best
    finally:
        server.stop(grace=None).wait()


def _pause(stop: StopRequest) -> None:
    time.sleep(0.2)
    if stop():
        raise StoppedEarly(f"{stop.reason} {BETWEEN}")


def _servicer(oracle: Any) -> Any:
    class Servicer(keras_tuner_private.oracle_servicer()):  # type: ignore[misc]
        """Counts each GetTrial as a heartbeat, and keeps an error for the main thread.

        After an error KerasTuner's lock stays locked, so that no further call could be answered.
        """

        broken: Exception | None = None

        def refuse_broken(self) -> None:
            """Raise the error that a call met."""
            if self.broken is not None:
                raise self.broken

        def _answer(self, answer: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
            try:
                return answer(request, context)
            except Exception as error:
                self.broken = error
                raise

        def CreateTrial(self, request: Any, context: Any) -> Any:
            return self._answer(super().CreateTrial, request, context)

        def UpdateTrial(self, request: Any, context: Any) -> Any:
            return self._answer(super().UpdateTrial, request, context)

        def EndTrial(self, request: Any, context: Any) -> Any:
            return self._answer(super().EndTrial, request, context)

        def GetTrial(self, request: Any, context: Any) -> Any:
            self.oracle.heard[request.trial_id] = time.monotonic()
            return super().GetTrial(request, context)

    return Servicer(oracle)


def _start(servicer: Any) -> Any:
    address = f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
    # Without SO_REUSEPORT, with which two chiefs would share a port and the workers.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)])
    keras_tuner_private.add_servicer(servicer, server)
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise RequestError(f"expected a free address in KERASTUNER_ORACLE_IP and _PORT, received {address}: "
                           f"{error}; choose another port or stop what listens there") from error  # fmt: skip
    if not bound:
        raise RequestError(f"expected a free address in KERASTUNER_ORACLE_IP and _PORT, received {address}")
    server.start()
    log.info("serving trials on %s", address)
    return server


def work(request: Request, stop: StopRequest) -> None:
    """Run the chief's trials until there are no more.

    Raises:
        RequestError: if the chief runs another sweep, or keeps it in a folder that this process does not see.
        StoppedEarly: after a stop request, with everything saved; or if no chief answers in time.
    """
    if not _meet(request, stop):
        return
    if not files.exists(request.paths.request):  # The chief writes it before it listens.
        raise RequestError(
            f"--job_dir: expected a folder that chief and workers share, received {request.base.loop.job_dir!r}, which "
            "holds no sweep although the chief answers; give all of them the same"
        )
    request.refuse_another()
    Tuner(request, oracles.make(request), stop, lambda: _meet(request, stop)).search()


def _meet(request: Request, stop: StopRequest) -> bool:
    """Wait for the chief; return False if the sweep is over and no chief will come."""
    host, port = os.environ["KERASTUNER_ORACLE_IP"], int(os.environ["KERASTUNER_ORACLE_PORT"])
    limit = request.base.runtime.startup_timeout_seconds
    started = time.monotonic()
    while True:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return True
        except OSError as error:
            if files.exists(request.paths.done):
                return False
            if time.monotonic() - started > limit:
                raise StoppedEarly(
                    f"expected a chief at {host}:{port} within {limit:g} s (--startup_timeout_seconds), received none "
                    f"({error.strerror or error}); start it, then rerun this command"
                ) from error
        _pause(stop)
