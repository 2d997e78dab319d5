"""Strangers, lost and replaced processes on the port where the processes of a job meet; real sockets, no TensorFlow."""

import concurrent.futures
import contextlib
import logging
import socket
import struct
import threading
import time

import pytest

from trainer.core import config
from trainer.core.errors import RequestError, StoppedEarly
from trainer.distributed import cluster, handshake, rendezvous
from trainer.distributed.messages import Closed, Connection

TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(180))
WORDS = {
    "nothing, and closes": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": TLS_HELLO,
    "random bytes": bytes(range(7, 255, 3)) * 5,
    "a huge length": struct.pack(">I", 2**32 - 1) + b"x" * 100,
    "the largest length before a proof": struct.pack(">I", 2**12) + b"x" * 100,
    "no object": b"\x00\x00\x00\x02[]",
    "depth": struct.pack(">I", 4000) + b"[" * 4000,
    "an older version": struct.pack(">I", 27) + b'{"kind":"hello","index":1 }',
    "a nonce of another kind": struct.pack(">I", 28) + b'{"kind":"hello","nonce":[1]}',
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Try again soon."""
    monkeypatch.setattr(rendezvous, "_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(rendezvous, "_AGAIN_AFTER_STRANGER_SECONDS", 0.1)


def free_ports(count):
    """Return free ports of both families."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(rendezvous._bind(0)) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def clusters(workers, host="127.0.0.1"):
    """Return the cluster as each of its processes sees it."""
    *ports, peer_port = free_ports(workers + 1)
    addresses = tuple(f"{host}:{port}" for port in ports)
    return [cluster.Cluster(addresses, index, peer_port, "TF_CONFIG") for index in range(workers)]


def facts(**changes):
    return rendezvous.facts_of(config.from_flat({"data_dir": "D", "job_dir": "J", **changes}))


@pytest.fixture
def meeting():
    """Start processes of a cluster as threads; returns what each one's ``meet`` returned or raised."""
    pool = concurrent.futures.ThreadPoolExecutor(8)
    met = []

    def start(place, timeout=20.0, **changes):
        task = pool.submit(rendezvous.meet, place, facts(**changes), timeout)
        met.append(task)
        return task

    yield start
    pool.shutdown()
    for task in met:
        if not task.exception():
            for connection in task.result().values():
                connection.close()


def reach(place):
    """Connect to a chief as soon as it listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(place.meeting_place, timeout=10)
        time.sleep(0.02)


def as_worker(place, timeout=10.0, waited=0.0, **changes):
    """Introduce a worker by hand, which then does nothing more; returns its connection."""
    connection = Connection(reach(place))
    key = handshake.job_key(place, "J", {})
    handshake.introduce(
        connection, key, timeout, {"index": place.worker_index, "facts": facts(**changes), "waited": waited}
    )
    return connection


@pytest.fixture
def warnings(caplog, monkeypatch):
    """Return the log of the chief; the package's own handler may have switched propagation off."""
    monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
    caplog.set_level(logging.INFO, logger="trainer.distributed.rendezvous")
    return caplog


def test_strangers_are_sent_away_and_counted_in_one_line(meeting, warnings):
    chief, worker = clusters(2)
    task = meeting(chief)
    for words in WORDS.values():
        # It may be closed while words are on the way.
        with reach(chief) as stranger, contextlib.suppress(OSError):
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1000):
                pass
    assert not task.done()
    meeting(worker)
    assert list(task.result()) == [1]
    (line,) = [line for line in warnings.messages if "sent away" in line]
    assert f"sent away {len(WORDS)} connections to port {chief.peer_port} that are not of this start of the job" in line
    assert "the last came from 127.0.0.1: it is no process of this version" in line


def test_slow_strangers_hold_nobody_up_and_have_one_deadline_for_all_their_bytes(meeting, monkeypatch, warnings):
    monkeypatch.setattr(handshake, "HELLO_SECONDS", 0.6)
    chief, worker = clusters(2)
    task = meeting(chief)
    silent, dripping = reach(chief), reach(chief)
    over = threading.Event()

    def drip():
        with contextlib.suppress(OSError):
            while not over.wait(0.1):
                dripping.sendall(b"\x00")

    threading.Thread(target=drip, daemon=True).start()
    for stranger in (silent, dripping):  # Both are closed by the chief, which still waits for its worker.
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(1000):
                pass
    assert not task.done()
    second = reach(chief)
    meeting(worker)  # Not after the next silent stranger, but beside it.
    assert list(task.result()) == [1]
    over.set()
    for stranger in (silent, dripping, second):
        stranger.close()
    assert any("it sent no whole message within 0.6 s" in line for line in warnings.messages)


def test_a_time_limit_of_the_whole_meeting_holds_among_strangers(meeting):
    chief, _ = clusters(2)
    task = meeting(chief, timeout=1.0)
    with reach(chief), reach(chief), pytest.raises(StoppedEarly, match=r"worker 1 .* did not come within 1 s"):
        task.result()


@pytest.mark.parametrize("difference", ["secret", "addresses", "bucket"])
def test_a_worker_of_another_job_is_sent_away_and_says_why(meeting, monkeypatch, difference):
    chief, worker = clusters(2)
    other, own = worker, {}
    if difference == "addresses":
        other = cluster.Cluster((chief.addresses[0], "127.0.0.1:1"), 1, chief.peer_port, "TF_CONFIG")
        monkeypatch.setattr(rendezvous, "_require_free", lambda port: None)
    if difference == "bucket":
        own = {"job_dir": "gs://bucket/jobs/1"}
    if difference == "secret":
        monkeypatch.setenv("DEEPDETECT_CLUSTER_SECRET", "s3cret")
    task = meeting(chief, **own)
    reach(chief).close()
    monkeypatch.delenv("DEEPDETECT_CLUSTER_SECRET", raising=False)
    with pytest.raises(
        StoppedEarly, match="a chief of another job answers there: its cluster, its job_dir or its DEEP"
    ):
        meeting(other, timeout=0.5).result()
    if difference == "secret":
        monkeypatch.setenv("DEEPDETECT_CLUSTER_SECRET", "s3cret")
    meeting(worker, **own)
    assert list(task.result()) == [1]


def test_a_wrong_proof_is_sent_away(meeting, warnings):
    chief, worker = clusters(2)
    task = meeting(chief)
    forger, mirror = Connection(reach(chief)), Connection(reach(chief))
    forger.send("hello", nonce="n")
    challenge = forger.receive(10)
    # The chief itself answers its own challenge, but not as a worker.
    mirror.send("hello", nonce=challenge["nonce"])
    forger.send("proof", proof=mirror.receive(10)["proof"], index=1, facts=facts(), waited=0.0)
    assert forger.receive(10)["kind"] == "sent_away"
    with pytest.raises(Closed):
        forger.receive(10)
    mirror.close()
    meeting(worker)
    task.result()
    assert any("sent away" in line for line in warnings.messages)


def test_the_key_depends_on_what_a_job_has_in_common(monkeypatch):
    (place,) = clusters(1)
    slurm = cluster.Cluster(place.addresses, 0, 1, "SLURM_STEP_NUM_TASKS")
    keys = [
        handshake.job_key(place, "J", {}),
        handshake.job_key(place, "gs://bucket/J", {}),
        handshake.job_key(place, "J", {"DEEPDETECT_CLUSTER_SECRET": "a"}),
        handshake.job_key(clusters(1)[0], "J", {}),
        handshake.job_key(slurm, "J", {"SLURM_JOB_ID": "1"}),
        handshake.job_key(slurm, "J", {"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "1"}),
    ]
    assert len(set(keys)) == len(keys)
    assert handshake.job_key(place, "/mnt/b/J", {"SLURM_JOB_ID": "7"}) == keys[0]  # Mounts and steps may differ.


def test_a_worker_of_a_job_with_the_same_addresses_and_other_flags_is_sent_away(meeting):
    chief, worker = clusters(2)
    task = meeting(chief)
    with pytest.raises(StoppedEarly, match=r"same addresses and another --job_dir.*--seed \(chief: 0, worker 1: 3\)"):
        meeting(worker, timeout=0.5, job_dir="K", seed=3).result()
    meeting(worker)
    assert list(task.result()) == [1]


def test_a_process_of_an_older_start_goes_and_the_new_one_comes(meeting, warnings):
    chief, worker = clusters(2)
    task = meeting(chief)
    stale = as_worker(worker, waited=100.0, seed=3)
    answer = stale.receive(10)
    assert answer["kind"] == "gave_up"
    assert "already waiting when the chief began" in answer["message"]
    meeting(worker)
    assert list(task.result()) == [1]
    assert any("--seed (chief: 0, worker 1: 3)" in line for line in warnings.messages)


def test_a_process_of_this_start_with_other_flags_ends_all(meeting):
    chief, worker, other = clusters(3)
    task = meeting(chief)
    waiting = meeting(other)
    for each in (meeting(worker, seed=3), waiting, task):
        with pytest.raises(RequestError, match=r"different values of --seed \(chief: 0, worker 1: 3\)"):
            each.result()


def test_a_replaced_worker_takes_the_place_of_its_half_open_connection(meeting, warnings):
    chief, worker, other = clusters(3)
    task = meeting(chief)
    lost = as_worker(worker)  # Its machine is gone: the connection stays open and is silent.
    alive = as_worker(worker)
    assert lost.receive(10)["kind"] == "gave_up"
    meeting(other)
    assert sorted(task.result()) == [1, 2]
    assert alive.receive(10)["kind"] == "welcome"
    assert any("came again, and the newer process counts" in line for line in warnings.messages)


def test_two_processes_of_one_index_are_named_when_another_never_comes(meeting):
    chief, worker, _ = clusters(3)
    task = meeting(chief, timeout=1.0)
    first = as_worker(worker)
    second = as_worker(worker)
    with pytest.raises(
        StoppedEarly, match=r"worker 2 \(.*\) did not come .*; worker 1 \(.* came again, .* index of its own"
    ):
        task.result()
    assert "give each an index of its own" in first.receive(10)["message"]
    assert "did not come within 1 s" in second.receive(10)["message"]


def test_a_wrong_server_at_the_chiefs_address_is_waited_out(meeting):
    chief, worker = clusters(2)
    with socket.create_server(("127.0.0.1", chief.peer_port)) as server:
        task = meeting(worker)
        raw, _ = server.accept()
        with raw:
            raw.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    meeting(chief)
    assert list(task.result()) == [0]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["[::1]", "localhost"])
def test_processes_meet_over_ipv6(meeting, host):
    chief, worker = clusters(2, host)
    task = meeting(chief)
    meeting(worker)
    assert list(task.result()) == [1]


def test_without_ipv6_the_chief_listens_on_ipv4(monkeypatch):
    real = socket.create_server

    def create(address, *, family=socket.AF_INET, **options):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", create)
    with rendezvous._bind(0) as server:
        assert server.family == socket.AF_INET
