"""What a message says of a connection that failed; real ones, to a port of this machine."""

import socket

import pytest
import requests
import urllib3

from trainer.core import errors


@pytest.fixture
def port():
    """Return a port that accepts connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed(port):
    """Return a port where nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # Bound, so that nobody else gets it.
        yield server.getsockname()[1]


def by_requests(url):
    requests.get(url, timeout=0.1)


def by_urllib3(url):
    urllib3.PoolManager(retries=1).request("GET", url, timeout=0.1)


@pytest.mark.parametrize("get", [by_requests, by_urllib3])
def test_a_connection_that_fails_is_told_without_its_wrapping(get, port, closed):
    with pytest.raises((requests.ConnectionError, urllib3.exceptions.HTTPError)) as refused:
        get(f"http://127.0.0.1:{closed}/secret?token=1")
    words = f"127.0.0.1:{closed}: Failed to establish a new connection: [Errno 111] Connection refused"
    assert errors.of_connection(refused.value) == words
    with pytest.raises((requests.Timeout, urllib3.exceptions.HTTPError)) as silent:
        get(f"http://127.0.0.1:{port}/")
    assert errors.of_connection(silent.value) == f"127.0.0.1:{port}: Read timed out. (read timeout=0.1)"


def test_other_errors_are_told_as_they_are():
    assert errors.of_connection(FileNotFoundError(2, "No such file", "/x")) == "[Errno 2] No such file: '/x'"
    assert errors.of_connection(ValueError("one\ntwo")) == "one two"
    assert errors.of_connection(TimeoutError()) == "TimeoutError"
