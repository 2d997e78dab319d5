"""Storages that fsspec reads: the contract of reading, faults in the house's terms, and nothing is ever written."""

import logging
import sys
import uuid

import pytest

from tests.helpers import web_server
from trainer import train
from trainer.core import cli, storage
from trainer.core.errors import AccessDenied, RequestError, StorageDown
from trainer.core.storage import files, fsspec_storage, transient

CONTENT = bytes(range(256))
FILES = {"a/b c.bin": CONTENT, "a/c/d.bin": b"d", "a-.bin": b"", "a/.h/x.bin": b"x"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transient, "_FIRST_DELAY", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fsspec_storage._clients.clear()


@pytest.fixture
def server(tmp_path):
    """Return a web server that serves ``FILES``."""
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with web_server.serve(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def s3_server():
    """Return the URL of a fake S3."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server", reason="moto[server] plays S3")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """Return a bucket that holds ``FILES``."""
    import s3fs

    for name, value in {"KEY": "x", "SECRET": "y", "ENDPOINT_URL": s3_server}.items():
        monkeypatch.setitem(sys.modules["fsspec"].config.conf.setdefault("s3", {}), name.lower(), value)
    client = s3fs.S3FileSystem(skip_instance_cache=True)
    bucket = f"b-{uuid.uuid4().hex[:8]}"
    client.mkdir(bucket)
    for name, content in FILES.items():
        client.pipe_file(f"{bucket}/{name}", content)
    return f"s3://{bucket}"


@pytest.fixture
def memory(monkeypatch):
    """Return a folder of fsspec's own storage in memory that holds ``FILES``."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setitem(storage.STORAGES, "memory", fsspec_storage.FsspecStorage("memory", "PATH", "nothing"))
    root = f"memory://{uuid.uuid4().hex}"
    for name, content in FILES.items():
        fsspec.filesystem("memory").pipe_file(f"{root}/{name}", content)
    return root


@pytest.fixture(params=["memory", "http", pytest.param("s3", marks=pytest.mark.slow)])
def root(request):
    """Return a place that holds ``FILES`` on each storage in turn."""
    return request.getfixturevalue("server").url if request.param == "http" else request.getfixturevalue(request.param)


def test_files_are_read_whole_and_in_ranges(root):
    path = f"{root}/a/b c.bin"
    assert files.read_bytes(path) == CONTENT
    assert files.read_range(path, 10, 5) == CONTENT[10:15]
    assert files.read_range(path, 250, 100) == CONTENT[250:]
    assert files.read_range(path, 256, 1) == b""
    assert files.read_range(path, 3, 0) == b""
    assert files.read_bytes(f"{root}/a-.bin") == b""
    with files.local_file(path) as copy:
        assert files.read_bytes(copy) == CONTENT
    assert [files.exists(f"{root}/{name}") for name in ("a/b c.bin", "a/x", "none/x")] == [True, False, False]
    for absent in (f"{root}/a/none", f"{root}/none/f.bin"):
        with pytest.raises(FileNotFoundError):
            files.read_bytes(absent)
        with pytest.raises(FileNotFoundError):
            files.read_range(absent, 0, 1)
        with pytest.raises(FileNotFoundError):
            files.read_range(absent, 0, 0)


@pytest.mark.parametrize("place", ["memory", pytest.param("s3", marks=pytest.mark.slow)])
def test_names_are_listed(place, request):
    root = request.getfixturevalue(place)
    assert [files.exists(f"{root}/{name}") for name in ("a", "a/c", "x")] == [True, True, False]
    assert [files.is_dir(f"{root}/{name}") for name in ("a", "a/b c.bin", "a/c", "x")] == [True, False, True, False]
    assert files.list_names(f"{root}/a") == [".h", "b c.bin", "c"]
    assert files.list_names(f"{root}/none") == files.list_names(f"{root}/a-.bin") == []
    assert sorted(files.list_below(root)) == ["a-.bin", "a/b c.bin", "a/c/d.bin"]
    assert sorted(files.list_below(f"{root}/a/", hidden=True)) == [".h/x.bin", "b c.bin", "c/d.bin"]
    assert list(files.list_below(f"{root}/none")) == []


def test_nothing_is_written(root):
    before = files.read_bytes(f"{root}/a/b c.bin")
    attempts = [
        lambda path: files.write_bytes(path, b""),
        lambda path: files.append_bytes(path, b"x"),
        files.make_dirs,
        files.remove,
        files.remove_tree,
        lambda path: files.rename(path, f"{path}2"),
        lambda path: storage.for_path(path).hold(path, protects=path),
    ]
    for attempt in attempts:
        with pytest.raises(RequestError, match=r"is only read, as locks and appends need preconditions"):
            attempt(f"{root}/a/b c.bin")
    assert files.read_bytes(f"{root}/a/b c.bin") == before


@pytest.mark.parametrize("job_dir", ["s3://b/job", "https://server/job", "hf://datasets/a/b/job", "az://c/job"])
def test_a_job_dir_there_is_refused_in_one_line_that_says_why(job_dir, tmp_path, capsys):
    assert cli.run_command(train.main, [f"--data_dir={tmp_path}", f"--job_dir={job_dir}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--job_dir: expected a local path or gs:// to write to, received '{job_dir}" in line
    assert "locks and appends need preconditions" in line


@pytest.mark.parametrize("scheme", ["s3", "https", "hf"])
def test_without_the_extra_one_line_names_it(scheme, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert cli.run_command(train.main, [f"--data_dir={scheme}://b/c/d/e", f"--job_dir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected fsspec and" in line
    assert line.endswith("pip install 'deepdetect[storage]'")


@pytest.mark.parametrize("path", ["s3://", "https:///", "hf:/x", "https:/x"])
def test_wrong_forms_are_refused_by_flag(path):
    with pytest.raises(RequestError, match=r"--data_dir: expected .*://.*, received"):
        files.require_form(path, "data_dir")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_costs_only_time(server, status):
    server.status, server.faults = status, 2
    assert files.read_range(f"{server.url}/a/b c.bin", 1, 2) == CONTENT[1:3]
    assert len(server.requests) == 3


def test_a_truncated_answer_is_read_again(server):
    server.cut, server.faults = True, 2
    assert files.read_bytes(f"{server.url}/a/b c.bin") == CONTENT
    server.faults = 1
    assert files.read_range(f"{server.url}/a/b c.bin", 8, 8) == CONTENT[8:16]


def test_an_outage_means_start_me_again(server, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0.05")
    server.status, server.faults = 503, -1
    for read in (files.read_bytes, files.exists, lambda path: files.read_range(path, 0, 1)):
        with pytest.raises(StorageDown, match=r"could not be read for 0 s .*503.*: rerun the same command later"):
            read(f"{server.url}/a/b c.bin")


def test_a_server_that_is_away_means_start_me_again(server, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0.05")
    path = f"{server.url}/a/b c.bin"
    assert files.read_bytes(path) == CONTENT
    server.shutdown()
    server.server_close()
    fsspec_storage._clients.clear()  # A thread of the server may still answer on the connection that is open.
    with pytest.raises(StorageDown, match="rerun the same command later"):
        files.read_bytes(path)


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(server, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0.2")
    server.seconds = 0.05
    assert files.read_bytes(f"{server.url}/a/c/d.bin") == b"d"
    server.seconds = 5.0
    with pytest.raises(StorageDown):
        files.read_bytes(f"{server.url}/a/c/d.bin")


@pytest.mark.parametrize(("status", "kind"), [(401, RequestError), (403, AccessDenied), (400, RequestError)])
def test_a_refusal_is_the_requests_own(server, status, kind):
    server.status, server.faults = status, -1
    with pytest.raises(RequestError, match=f"expected .*{status}") as caught:
        files.read_bytes(f"{server.url}/a/c/d.bin")
    assert caught.type is kind
    assert len(server.requests) == 1


def test_a_server_without_ranges_is_refused_for_large_files_alone(server):
    server.ranges = False
    path = f"{server.url}/a/b c.bin"
    for offset in (0, 200):
        with pytest.raises(RequestError, match="requests for a range of bytes, received the whole file"):
            files.read_range(path, offset, 100)
    with files.local_file(path) as copy:
        assert files.read_bytes(copy) == CONTENT
    assert files.exists(path)


def test_a_web_server_has_no_listing(server, tmp_path, capsys):
    assert not files.is_dir(f"{server.url}/a")
    assert cli.run_command(train.main, [f"--data_dir={server.url}/a", f"--job_dir={tmp_path}/job"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a packed set (with pack.json) or a list file" in line


@pytest.mark.slow
def test_a_mark_of_a_folder_is_no_image(s3):
    import s3fs

    client = s3fs.S3FileSystem(skip_instance_cache=True)
    client.call_s3("put_object", Bucket=s3.removeprefix("s3://"), Key="a/mark/", Body=b"")
    assert sorted(files.list_below(f"{s3}/a")) == ["b c.bin", "c/d.bin", "mark/"]
    assert files.list_names(f"{s3}/a") == [".h", "b c.bin", "c", "mark"]


@pytest.mark.slow
def test_a_missing_bucket_is_a_wrong_request_and_a_missing_object_is_not(s3):
    for act in (files.list_names, lambda path: list(files.list_below(path)), files.read_bytes):
        with pytest.raises(RequestError, match="expected an existing place, received 's3://no-such-bucket/a/b'"):
            act("s3://no-such-bucket/a/b")
    with pytest.raises(RequestError, match="expected a path that its storage accepts, received 's3://No Bucket/a'"):
        files.read_bytes("s3://No Bucket/a")
    with pytest.raises(FileNotFoundError):
        files.read_bytes(f"{s3}/a/none.jpg")


@pytest.mark.slow
def test_an_s3_that_is_away_means_start_me_again(s3, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0.05")
    monkeypatch.setitem(sys.modules["fsspec"].config.conf["s3"], "endpoint_url", "http://127.0.0.1:9")
    for act in (files.list_names, files.exists, files.read_bytes):
        with pytest.raises(StorageDown, match="rerun the same command later"):
            act(f"{s3}/a/b c.bin")
