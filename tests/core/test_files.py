"""Whole-file operations on local paths."""

import builtins
import contextlib
import errno
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from tests.helpers import faults
from trainer.core import signals
from trainer.core.errors import RequestError, StoppedEarly, StorageDown
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files


def test_remote_means_a_scheme():
    assert files.is_remote("gs://bucket/path")
    assert not files.is_remote("/a/b")
    assert not files.is_remote("gs/bucket")


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("a", "b", "c"), "a/b/c"),
        (("a/", "b"), "a/b"),
        (("/", "b"), "/b"),
        (("gs://bucket", "b"), "gs://bucket/b"),
        (("gs://bucket/", "b", "c"), "gs://bucket/b/c"),
        (("a",), "a"),
        (("a/",), "a/"),
    ],
)
def test_join(parts, joined):
    assert files.join(*parts) == joined


def test_write_and_read(tmp_path):
    path = str(tmp_path / "new" / "folder" / "f")
    content = bytes(range(256))
    files.write_bytes(path, content)
    assert files.read_bytes(path) == content
    files.write_text(path, "ä\nö")
    assert files.read_bytes(path) == "ä\nö".encode()
    assert files.read_text(path) == "ä\nö"
    files.append_text(path, "ü\n")
    assert files.read_text(path) == "ä\nöü\n"
    assert os.listdir(tmp_path / "new" / "folder") == ["f"]


def test_append_makes_the_file(tmp_path):
    files.append_text(str(tmp_path / "f"), "a")
    assert files.read_text(str(tmp_path / "f")) == "a"


def test_a_name_without_a_folder_is_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_text("f", "x")
    assert (tmp_path / "f").read_text() == "x"


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = str(tmp_path / "f")
    files.write_text(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert files.read_text(path) == "old"


def test_exists_and_is_dir(tmp_path):
    (tmp_path / "f").write_text("")
    assert files.exists(str(tmp_path))
    assert files.exists(str(tmp_path / "f"))
    assert not files.exists(str(tmp_path / "g"))
    assert files.is_dir(str(tmp_path))
    assert not files.is_dir(str(tmp_path / "f"))
    assert not files.is_dir(str(tmp_path / "g"))


def test_list_names_is_sorted_and_empty_for_what_is_no_folder(tmp_path):
    for name in ("b", "a", "C", ".h"):
        (tmp_path / name).write_text("")
    assert files.list_names(str(tmp_path)) == [".h", "C", "a", "b"]
    assert files.list_names(str(tmp_path / "absent")) == []
    assert files.list_names(str(tmp_path / "a")) == []


def test_make_rename_and_remove_folders(tmp_path):
    deep = tmp_path / "x" / "y"
    files.make_dirs(str(deep))
    files.make_dirs(str(deep))
    (deep / "f").write_text("1")
    files.rename(str(tmp_path / "x"), str(tmp_path / "z"))
    assert (tmp_path / "z" / "y" / "f").read_text() == "1"
    assert not (tmp_path / "x").exists()
    files.remove_tree(str(tmp_path / "z"))
    files.remove_tree(str(tmp_path / "z"))
    assert os.listdir(tmp_path) == []


def test_require_writable_makes_the_folder_and_leaves_nothing(tmp_path):
    folder = tmp_path / "a" / "b"
    files.require_writable(str(folder), "out")
    assert folder.is_dir()
    assert os.listdir(folder) == []


def test_require_writable_names_flag_path_and_reason(tmp_path):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "x")
    with pytest.raises(RequestError) as caught:
        files.require_writable(path, "out")
    message = str(caught.value)
    assert message.startswith("--out: expected a folder that can be written")
    assert repr(path) in message
    assert "Not a directory" in message


def test_names_of_a_job_are_below_job_dir():
    for job_dir in ("/j", "gs://bucket/j"):
        paths = JobPaths(job_dir)
        names = (paths.config, paths.metrics, paths.skipped, paths.result, paths.checkpoints, paths.tensorboard,
                 paths.report, paths.exports("best"), paths.exports("last"))  # fmt: skip
        assert [name.removeprefix(job_dir + "/") for name in names] == [
            "config.json", "metrics.jsonl", "skipped.jsonl", "result.json", "checkpoints", "tensorboard", "report",
            "export/best", "export/last",
        ]  # fmt: skip


# Trouble on the way: what is passing is not the request's fault, and nothing half-written stays.


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize("event", ["open", "os.rename"])
def test_a_folder_that_cannot_be_written_just_now_asks_for_another_start(tmp_path, event, number):
    with (
        faults.injected(event=event, path=f"{tmp_path}/*", count=0, number=number),
        pytest.raises(StorageDown, match=r"--job_dir: .* cannot be written"),
    ):
        files.require_writable(str(tmp_path), "job_dir")


def test_a_folder_that_may_not_be_written_is_a_wrong_request(tmp_path):
    for number in (errno.EACCES, errno.EROFS, errno.ENOTDIR):
        with (
            faults.injected(path=f"{tmp_path}/*", count=0, number=number),
            pytest.raises(RequestError, match="expected a folder that can be written"),
        ):
            files.require_writable(str(tmp_path), "job_dir")


def test_many_processes_of_one_number_check_and_write_the_same_folder(tmp_path, monkeypatch):
    """In every container the first process is number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: files.require_writable(str(tmp_path), "job_dir"), range(200)))
        list(pool.map(lambda number: files.write_bytes(str(tmp_path / "f"), b"%d" % number * 9), range(200)))
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("event", ["open", "os.rename"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_nothing(tmp_path, event, number):
    files.write_text(str(tmp_path / "f"), "old")
    with faults.injected(event=event, path="*.tmp-*", number=number), pytest.raises(OSError, match=r"space|Input"):
        files.write_text(str(tmp_path / "f"), "new")
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() == "old"


def test_a_stop_request_between_write_and_rename_leaves_nothing(tmp_path):
    with signals.stop_requests() as stop:
        stop.at_once = "now"
        fault = faults.injected(event="os.rename", path="*.tmp-*", signal=int(signal.SIGTERM))
        with fault, pytest.raises(StoppedEarly):
            files.write_text(str(tmp_path / "f"), "new")
    assert os.listdir(tmp_path) == []


def test_an_append_that_is_interrupted_halfway_is_cut_off(tmp_path):
    """The first write takes half of it, as on a full disk, and before the second one a stop request comes."""
    path = str(tmp_path / "f")
    files.append_text(path, "old\n")
    real = builtins.open

    class Halfway:
        def __init__(self, *args, **kwargs):
            self._file, self._count = real(*args, **kwargs), 0

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def write(self, content):
            self._count += 1
            if self._count > 1:
                raise StoppedEarly("SIGTERM")
            return self._file.write(content[: len(content) // 2])

    with mock.patch.object(builtins, "open", Halfway), pytest.raises(StoppedEarly):
        files.append_text(path, "a new line\n")
    assert files.read_text(path) == "old\n"


def test_names_reach_the_disk_with_their_files(tmp_path, monkeypatch):
    flushed, real = [], os.fsync

    def fsync(descriptor):
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path)).split(".tmp-")[0])
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_text(str(tmp_path / "a" / "b" / "f"), "x")
    assert flushed == ["", "/a", "/a/b/f", "/a/b"]
    flushed.clear()
    files.append_text(str(tmp_path / "log"), "x")
    files.sync(str(tmp_path / "log"))
    files.sync(str(tmp_path / "no log"))
    assert flushed == ["/log", ""]
    flushed.clear()
    files.remove(str(tmp_path / "log"))
    files.remove(str(tmp_path / "log"))
    files.rename(str(tmp_path / "a"), str(tmp_path / "c"))
    assert flushed == ["", ""]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_file_system_that_cannot_flush_folders_will_do(tmp_path, monkeypatch, number):
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_text(str(tmp_path / "a" / "f"), "x")
    assert files.read_text(str(tmp_path / "a" / "f")) == "x"


@pytest.mark.parametrize("first", range(1, 5))
@pytest.mark.parametrize("event", ["open", "os.rename"])
def test_a_folder_that_cannot_be_published_leaves_the_old_one_and_no_part(tmp_path, event, first):
    for name in ("model.pb", "variables/v"):
        files.write_text(str(tmp_path / "built" / name), name)
    target = tmp_path / "export" / "1"
    files.write_text(str(target / "model.pb"), "old")
    fault = {"event": event, "path": f"{tmp_path}/export/*", "number": errno.ENOSPC, "mode": "w"}
    with faults.injected(first=first, **fault) as injected, contextlib.suppress(OSError):
        files.publish(str(tmp_path / "built"), str(target), "model.pb")
    replaced = injected.seen < first
    assert os.listdir(tmp_path / "export") == ["1"]
    assert files.read_text(str(target / "model.pb")) == ("model.pb" if replaced else "old")
    assert sorted(files.list_below(str(target))) == (["model.pb", "variables/v"] if replaced else ["model.pb"])


def test_leftovers_are_recognised_by_name(tmp_path):
    left = ("config.json.tmp-0123456789abcdef", "metrics.jsonl.tmp-1", "metrics.jsonl.part-00ff", ".write-probe-77")
    kept = ("config.json", "my.tmp-notes", "a.tmp", "x.part-list", ".write-probe-77.tmp-1")  # The last one is in use.
    for name in (*left, *kept):
        (tmp_path / name).write_text("")
    files.remove_leftovers(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
