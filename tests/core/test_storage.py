"""One contract for every storage; and one that the package does not know, added by one class and one line."""

import json
import os

import pytest

from tests.helpers.jobs import run_job
from tests.helpers.memory_storage import MemoryStorage
from trainer.core import globs, result, storage
from trainer.core.errors import JobFailed, RequestError, StoppedEarly, StorageDown
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, lock
from trainer.core.storage.lines import BufferedLines


@pytest.fixture
def memory(monkeypatch):
    """Add ``mem://`` for a test and return its storage."""
    added = MemoryStorage()
    monkeypatch.setitem(storage.STORAGES, "mem", added)
    return added


@pytest.fixture(params=["local", "gs", "mem"])
def root(request, tmp_path):
    """Return an empty folder on each storage in turn."""
    if request.param == "gs":
        return request.getfixturevalue("bucket") + "/root"
    if request.param == "mem":
        request.getfixturevalue("memory")
        return "mem://root"
    return str(tmp_path / "root")


def test_what_was_written_is_read_whole_and_in_ranges(root):
    path, content = f"{root}/deep/er/f.bin", bytes(range(256))
    files.write_bytes(path, b"old")
    files.write_bytes(path, content)
    assert files.read_bytes(path) == content
    assert files.read_range(path, 10, 5) == content[10:15]
    assert files.read_range(path, 250, 100) == content[250:]
    assert files.read_range(path, 256, 1) == b""
    assert files.read_range(path, 3, 0) == b""
    assert files.list_names(f"{root}/deep/er") == ["f.bin"]  # Nothing temporary is left.
    for absent in (f"{root}/deep/none", f"{root}/none/f.bin"):
        with pytest.raises(FileNotFoundError):
            files.read_bytes(absent)
        with pytest.raises(FileNotFoundError):
            files.read_range(absent, 0, 1)


def test_appending_creates_and_extends(root):
    files.make_dirs(root)
    for text in ("a\n", "ä\n", "c"):
        files.append_text(f"{root}/f", text)
    assert files.read_text(f"{root}/f") == "a\nä\nc"


def test_names_are_listed(root):
    for name in ("a/b", "a/c/d", "a-", "a/.h/x", ".g"):
        files.write_text(f"{root}/{name}", name)
    assert [files.exists(f"{root}/{name}") for name in ("a", "a/b", "a/c", "a/x")] == [True, True, True, False]
    assert [files.is_dir(f"{root}/{name}") for name in ("a", "a/b", "a/c", "a/x")] == [True, False, True, False]
    assert files.list_names(f"{root}/a") == [".h", "b", "c"]
    assert files.list_names(f"{root}/none") == []
    assert sorted(files.list_below(root)) == ["a-", "a/b", "a/c/d"]
    assert sorted(files.list_below(root, hidden=True)) == [".g", "a-", "a/.h/x", "a/b", "a/c/d"]
    assert [path.removeprefix(root) for path in globs.expand([f"{root}/a/**/d"], ())] == ["/a/c/d"]


def test_names_are_moved_and_removed(root):
    for name in ("j/a", "j/d/b", "j2/c"):
        files.write_text(f"{root}/{name}", name)
    files.rename(f"{root}/j", f"{root}/k")
    files.rename(f"{root}/j2/c", f"{root}/c")
    assert sorted(files.list_below(root)) == ["c", "k/a", "k/d/b"]
    assert files.read_text(f"{root}/k/d/b") == "j/d/b"
    files.remove(f"{root}/c")
    files.remove(f"{root}/c")
    files.remove_tree(f"{root}/k")
    files.remove_tree(f"{root}/k")
    assert sorted(files.list_below(root)) == []


def test_a_folder_is_published_and_copied_back(root, tmp_path):
    for name in ("saved_model.pb", "variables/v"):
        files.write_text(str(tmp_path / "export" / name), name)
    files.write_text(f"{root}/e/1/older", "")
    files.publish(str(tmp_path / "export"), f"{root}/e/1", "saved_model.pb")
    assert sorted(files.list_below(f"{root}/e")) == ["1/saved_model.pb", "1/variables/v"]
    with files.local_copy(f"{root}/e/1") as folder:
        assert files.read_text(f"{folder}/variables/v") == "variables/v"
    with files.local_file(f"{root}/e/1/saved_model.pb") as path:
        assert files.read_text(path) == "saved_model.pb"


def test_a_folder_is_checked_before_it_has_its_name(root, tmp_path):
    for name in ("saved_model.pb", "variables/v"):
        files.write_text(str(tmp_path / "export" / name), name)
    target = f"{root}/e/1"
    files.write_text(f"{target}/saved_model.pb", "older")
    looked_at = []

    def refuse(folder):
        looked_at.append(folder)
        assert files.read_text(files.join(folder, "variables/v")) == "variables/v"
        assert files.read_text(f"{target}/saved_model.pb") == "older"
        raise JobFailed("unfit")

    with pytest.raises(JobFailed):
        files.publish(str(tmp_path / "export"), target, "saved_model.pb", check=refuse)
    assert list(files.list_below(f"{root}/e")) == ["1/saved_model.pb"]
    assert files.read_text(f"{target}/saved_model.pb") == "older"
    files.publish(str(tmp_path / "export"), target, "saved_model.pb", check=looked_at.append)
    assert sorted(files.list_below(target)) == ["saved_model.pb", "variables/v"]
    where = str(tmp_path / "export") if files.is_remote(root) else f"{target}.tmp"  # Beside its place, if it can be.
    assert looked_at == [where, where]


def test_a_copy_that_reads_otherwise_is_no_export(root, tmp_path, monkeypatch):
    if not files.is_remote(root):
        pytest.skip("a local copy is checked where it lies")
    for name in ("saved_model.pb", "variables/v"):
        files.write_text(str(tmp_path / name), name)
    real = files.read_bytes
    monkeypatch.setattr(files, "read_bytes", lambda path: real(path) + (b"!" if path.startswith(root) else b""))
    with pytest.raises(StorageDown, match="reads otherwise"):
        files.publish(str(tmp_path), f"{root}/e/1", "saved_model.pb", check=lambda folder: None)
    assert not files.exists(f"{root}/e/1/saved_model.pb")


def test_a_job_dir_has_one_holder_at_a_time(root, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_LOCK_HEARTBEAT_SECONDS", "0.1")
    paths = JobPaths(root)
    files.require_writable(root, "job_dir")
    for _ in range(2):
        with lock.hold(paths):
            with pytest.raises(StoppedEarly, match="found a live job in it"), lock.hold(paths):
                pass
            lines = BufferedLines(paths.metrics)
            lines.add(["{}"])
            lines.flush()
    assert files.read_text(paths.metrics) == "{}\n{}\n"


def test_unknown_schemes_and_malformed_paths_are_refused_by_flag(memory):
    forms = r"expected a local path or gs://BUCKET/PATH \(.*\) or mem://PATH, received 'ftp://b/x'"
    with pytest.raises(RequestError, match=f"--out: {forms}"):
        files.require_form("ftp://b/x", "out")
    with pytest.raises(RequestError, match=forms):
        files.exists("ftp://b/x")
    with pytest.raises(RequestError, match="--out: expected mem://PATH"):
        files.require_form("mem://", "out")
    for path in ("", "a/b", "/a", "gs://bucket/a", "mem://a"):
        files.require_form(path, "out")


def test_only_what_every_machine_reaches_is_shared(memory):
    shared = {path: storage.is_shared(path) for path in ("/a", "a", "gs://bucket/a", "gs://B/a", "mem://a", "s3://b")}
    assert [path for path, is_shared in shared.items() if is_shared] == ["gs://bucket/a"]
    assert storage.places() == "local or gs:// or mem://"


def test_absolute_paths_mean_the_same_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.absolute("a") == os.path.join(os.getcwd(), "a")
    assert files.absolute("gs://bucket/a") == "gs://bucket/a"


def test_a_data_service_is_refused_where_its_workers_cannot_read(memory, image_set, capsys):
    for name in files.list_below(str(image_set)):
        files.write_bytes(f"mem://data/{name}", b"")
    assert run_job("mem://data", "mem://jobs/1", data_service="grpc://localhost:1") == 2
    assert "--data_service: expected images that TensorFlow can read" in capsys.readouterr().err


@pytest.mark.slow
def test_a_job_trains_and_is_done_on_a_storage_that_was_added(memory, image_set):
    """Data and job_dir, with checkpoints, lines, bad images, TensorBoard's events and the result."""
    for name in files.list_below(str(image_set)):
        files.write_bytes(f"mem://data/{name}", files.read_bytes(f"{image_set}/{name}"))
    paths = JobPaths("mem://jobs/1")
    assert run_job("mem://data", paths.job_dir, epochs=1) == 0
    first = result.read(paths.result)
    assert first.status == "done"
    kinds = {json.loads(line)["kind"] for line in files.read_text(paths.metrics).splitlines()}
    assert {"train", "validation"} <= kinds
    assert files.list_names(paths.checkpoints)
    assert not files.exists(paths.lock)
    assert run_job("mem://data", paths.job_dir, epochs=2) == 0  # Continues from the checkpoint.
    second = result.read(paths.result)
    assert second.step == 2 * first.step
    assert json.loads(files.read_text(paths.restarts))
