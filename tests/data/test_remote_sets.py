"""Packed sets and lists on a web server: read by name and range, nothing is listed, and each fault has its owner."""

import shutil

import numpy as np
import pytest

from tests.helpers import web_server
from tests.helpers.images import write_image_set
from tests.helpers.jobs import checkpoints_of, run_job, values_of
from trainer.core.errors import StorageDown
from trainer.core.storage import fsspec_storage, transient
from trainer.data import manifest, readers
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
JOB = {"batch_size": 4, "epochs": 2}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0.2")
    monkeypatch.setattr(transient, "_FIRST_DELAY", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fsspec_storage._clients.clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return 16 train images and 4 of validation; read only."""
    return write_image_set(tmp_path_factory.mktemp("images"), train=8, validation=2, test=0)


@pytest.fixture(scope="module")
def packed(data, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("packed"))
    writer.pack(PackFlags(data_dir=data, out=out, images_per_shard=5), manifest.read_all_splits(data))
    return out


@pytest.fixture
def server(packed, tmp_path):
    """Return a web server with a copy of the packed set in the folder ``set``."""
    shutil.copytree(packed, tmp_path / "www" / "set")
    with web_server.serve(tmp_path / "www") as running:
        yield running


def contents_of(data_dir):
    split = manifest.read_split(data_dir, "Train")
    return split, readers.open_reader(split).read(np.arange(len(split)))


def test_a_packed_set_is_read_by_name_and_range(server, packed):
    near, expected = contents_of(packed)
    far, contents = contents_of(f"{server.url}/set")
    assert contents == expected
    assert far.fingerprint == near.fingerprint
    names = {path.rpartition("/")[2] for path, _ in server.requests}
    shards = {path for path, wanted in server.requests if wanted}
    assert names == {"pack.json", *(path.rpartition("/")[2] for path, wanted in server.requests if path in shards),
                     *(path.rpartition("/")[2] for path, _ in server.requests if path.endswith(".npz"))}  # fmt: skip
    assert len(shards) == 4  # 16 images, five in each; read in ranges alone.


def test_a_shard_that_is_away_is_not_its_images_fault(server):
    split = manifest.read_split(f"{server.url}/set", "Train")
    server.status, server.faults = 503, -1
    with pytest.raises(StorageDown):
        readers.open_reader(split).read(np.arange(4))


def test_a_missing_image_of_a_list_is_that_images_fault(server, data):
    shutil.copytree(data, server.folder / "faces")
    rows = ["path,label,split"]
    for name in ("Fake/00000.jpg", "Fake/00001.jpg", "Real/00000.jpg", "Real/none.jpg"):
        rows.append(f"Train/{name},{name[:4].lower()},train")
    (server.folder / "faces" / "list.csv").write_text("\n".join(rows))
    split, contents = contents_of(f"{server.url}/faces/list.csv")
    kinds = {name.rpartition("/Train/")[2]: type(one) for name, one in zip(split.names, contents, strict=True)}
    assert [kind for kind in kinds.values() if kind is not bytes] == [FileNotFoundError]
    assert len(contents) == 4


@pytest.mark.slow
def test_a_job_trains_from_a_web_server_and_goes_on_after_an_outage(server, packed, tmp_path):
    assert run_job(packed, tmp_path / "near", **JOB) == 0
    server.status, server.faults, server.failing = 503, -1, "Validation-0"  # First read after an epoch.
    assert run_job(f"{server.url}/set", tmp_path / "far", **JOB) == 75
    assert checkpoints_of(tmp_path / "far") == [4]
    server.faults = 0
    assert run_job(f"{server.url}/set", tmp_path / "far", **JOB) == 0
    assert values_of(tmp_path / "far") == values_of(tmp_path / "near")
    assert {path.rpartition("/")[0] for path, _ in server.requests} == {"/set"}
    assert all("." in path for path, _ in server.requests)  # Files, no folder.
