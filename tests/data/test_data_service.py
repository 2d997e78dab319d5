"""A tf.data service changes speed alone: real servers, stopped and killed while a job reads from them."""

import functools
import logging
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.images import write_image_set
from tests.helpers.jobs import float32_policy, result_of, run_job, sigterm_after, values_of  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from local_cluster import free_ports, start

from trainer.core.config import DataConfig
from trainer.data import manifest, service_client
from trainer.data.image_source import ImageSource
from trainer.data.order import Order, of_training
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags
from trainer.data.pipeline import ReplicaShare
from trainer.data.reorder_buffer import ServiceHealth

JOB = {"batch_size": 8, "epochs": 2, "max_bad_fraction": 0.5, "checkpoint_every_steps": 2}


def begin(*words):
    return start({}, [f"--{word}" for word in words], module="trainer.data_service")


def until_ready(server):
    assert any("is ready" in line for line in server.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return 20 train images, of which one is broken and one cannot be opened, and 6 of validation."""
    root = tmp_path_factory.mktemp("images")
    write_image_set(root, train=10, validation=3, test=0)
    (root / "Train/Fake/00003.jpg").write_bytes(b"no image")
    (root / "Train/Real/00005.jpg").unlink()
    (root / "Train/Real/00005.jpg").symlink_to("nowhere")
    return root


@pytest.fixture(scope="module")
def service():
    """Return the address of a dispatcher, and two workers."""
    port, *worker_ports = free_ports(3)
    servers = [begin(f"port={port}"),
               *(begin(f"port={each}", f"dispatcher=localhost:{port}") for each in worker_ports)]  # fmt: skip
    for server in servers:
        until_ready(server)
    yield f"grpc://localhost:{port}", servers[1:]
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture
def told():
    """Return what the service's reader logs, whatever other tests have done to the package's log."""
    lines, logger, handler = [], logging.getLogger("trainer.data.service_client"), logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def decoded(line):
    """Return how many images the log says were decoded by the service, and by the trainer."""
    return [int(number) for number in re.findall(r"(\d+) (?:images decoded there|here)", line)]


@pytest.mark.slow
def test_any_number_of_workers_lost_ones_and_none_at_all_end_with_the_same_weights(
    data, service, tmp_path, told, monkeypatch
):
    address, workers = service
    monkeypatch.setattr(service_client, "_PATIENCE_SECONDS", 15.0)
    assert run_job(data, tmp_path / "own", **JOB) == 0
    assert not told
    assert run_job(data, tmp_path / "two", data_service=address, **JOB) == 0
    there, here = decoded(told[-1])  # What is late is decoded here, as is what the service lost.
    assert there >= 18
    assert there + here == 36

    workers[0].kill()
    with sigterm_after(2):
        assert run_job(data, tmp_path / "lost", data_service=address, **JOB) == 75
    workers[1].kill()
    monkeypatch.setattr(service_client, "_PATIENCE_SECONDS", 0.5)
    assert run_job(data, tmp_path / "lost", data_service=address, **JOB) == 0
    assert any("has sent nothing for" in line for line in told)
    assert told[-1].startswith("--data_service: Train: 0 images decoded there, ")
    for job in (tmp_path / "two", tmp_path / "lost"):
        assert result_of(job)["weights_sha256"] == result_of(tmp_path / "own")["weights_sha256"]
        assert values_of(job) == values_of(tmp_path / "own")
        bad = [sorted((each / "skipped.jsonl").read_text().splitlines()) for each in (job, tmp_path / "own")]
        assert bad[0] == bad[1]
        assert len(bad[0]) == 2


@pytest.mark.slow
def test_packed_shards_are_read_by_the_service_too(data, tmp_path, service, told):
    address, _ = service
    (port,) = free_ports(1)
    worker = begin(f"port={port}", f"dispatcher={address.removeprefix('grpc://')}")
    writer.pack(PackFlags(data_dir=str(data), out=str(tmp_path), images_per_shard=7),
                manifest.read_all_splits(str(data)))  # fmt: skip
    split = manifest.read_split(str(tmp_path), "Train")
    images = ImageSource(split, DataConfig(image_size=64))
    order = of_training(split, "balanced", 6, 1)
    until_ready(worker)
    slots = functools.partial(ReplicaShare().slots, order)
    stream = service_client.DataServiceClient(address, ServiceHealth(), split, images, slots, 6, order.steps_per_pass)
    good = 0
    for step in range(order.steps_per_pass):
        index = order.slots(np.int64(step), 0, 6)[1].numpy()
        there, here = stream.load(step, index), images.load(index)
        assert np.array_equal(there.images, here.images)
        assert there.errors == here.errors
        good += 6 - len(here.errors)
    stream.close()
    (line,) = told
    assert decoded(line)[0] >= 6
    assert sum(decoded(line)) == good > 12
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--port=0"], "--port"), (["--port=5051", "--dispatcher=there"], "--dispatcher"), (["--port=70000"], "--port")],
)
def test_a_wrong_request_is_one_line_and_code_2(words, named):
    done = subprocess.run([sys.executable, "-m", "trainer.data_service", *words], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {named}: expected ")


def test_a_service_that_is_away_costs_one_thread_and_not_one_per_validation(data, monkeypatch):
    monkeypatch.setattr(service_client, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(service_client, "_END_SECONDS", 0.0)
    (port,) = free_ports(1)
    split = manifest.read_split(str(data), "Validation", ["Fake", "Real"])
    images, order, health = ImageSource(split, DataConfig(image_size=64)), Order(6, 6, shuffle=False), ServiceHealth()
    slots = functools.partial(ReplicaShare().slots, order)
    ready = threading.Event()

    def wait_for_the_service(self, start):
        ready.wait()

    monkeypatch.setattr(service_client.DataServiceClient, "_receive", wait_for_the_service)
    others, receivers = set(threading.enumerate()), set()  # Of earlier tests, whose servers are gone.
    for _ in range(4):
        stream = service_client.DataServiceClient(f"grpc://localhost:{port}", health, split, images, slots, 6, 1)
        loaded = stream.load(0, np.arange(6))
        assert np.array_equal(loaded.images, images.load(np.arange(6)).images)
        receivers |= {thread for thread in threading.enumerate() if thread.name == "data-service"} - others
        stream.close()
    assert len(receivers) == 1
    # Once the service is back, that thread ends and the next stream has one of its own.
    ready.set()
    (thread,) = receivers
    thread.join()
    stream = service_client.DataServiceClient(f"grpc://localhost:{port}", health, split, images, slots, 6, 1)
    stream.load(0, np.arange(6))
    stream.close()
    assert stream._thread is not None


def test_bad_images_count_as_decoded_neither_there_nor_here(data, monkeypatch, told):
    monkeypatch.setattr(service_client, "_PATIENCE_SECONDS", 0.0)
    split = manifest.read_split(str(data), "Train", ["Fake", "Real"])
    images, order, every = ImageSource(split, DataConfig(image_size=64)), Order(20, 20, shuffle=False), np.arange(20)
    slots = functools.partial(ReplicaShare().slots, order)
    late, arrived = ServiceHealth(), ServiceHealth()
    stream = service_client.DataServiceClient("grpc://localhost:1", late, split, images, slots, 20, 1)
    monkeypatch.setattr(stream, "_is_receiving", lambda number: False)
    assert len(stream.load(0, every).errors) == 2
    stream.close()
    assert decoded(told.pop()) == [0, 18]
    # An element that arrives with three images missing, of which one can be read here.
    stream = service_client.DataServiceClient("grpc://localhost:1", arrived, split, images, slots, 20, 1)
    bad = [*images.load(every).errors, 0]
    monkeypatch.setattr(stream, "_is_receiving", lambda number: True)
    stream._buffer.put(0, (images.load(every).images, ~np.isin(every, bad)))
    assert len(stream.load(0, every).errors) == 2
    stream.close()
    assert decoded(told.pop()) == [17, 1]


@pytest.mark.thorough
def test_features_of_a_frozen_backbone_come_through_the_service(data, service, tmp_path, told):
    changes = {**JOB, "freeze_backbone_epochs": 1}
    assert run_job(data, tmp_path / "alone", **changes) == 0
    assert run_job(data, tmp_path / "service", **changes, data_service=service[0]) == 0
    assert result_of(tmp_path / "service")["weights_sha256"] == result_of(tmp_path / "alone")["weights_sha256"]
    assert values_of(tmp_path / "service") == values_of(tmp_path / "alone")
    assert decoded(told[0])[0] > 0
