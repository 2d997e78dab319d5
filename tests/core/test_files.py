"""Whole-file operations on local paths."""

import os

import pytest

from trainer.core.errors import RequestError
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
