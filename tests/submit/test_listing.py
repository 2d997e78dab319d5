"""Runs whose bucket does not answer."""

import os
import socket

from trainer.submit import listing
from trainer.submit.states import Run


def test_a_bucket_without_a_route_is_a_problem_soon(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.delenv(listing._RETRY, raising=False)
    monkeypatch.setattr(listing, "_SECONDS", 0.2)
    (progress,) = listing.read([Run("a", "Job", "running", "", "gs://bucket/job", "image")])
    assert progress.problem.startswith("gs://bucket did not answer for 0 s")  # Not 90, as in a training.
    assert listing._RETRY not in os.environ
