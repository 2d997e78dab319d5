"""Folders that cannot be listed: trouble that may pass is waited for, the rest is one line; never an empty folder."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import faults
from trainer import evaluate, predict, prepare_data, train, tune
from trainer.core import cli, errors, globs
from trainer.core.errors import RequestError, StorageDown
from trainer.core.storage import files, listing, transient
from trainer.data import manifest, split_report

FOLDERS = ("Train/Fake", "Train/Fake/video", "Train/Real", "Train/Real/video/deep", "Test/Fake", "Test/Real")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a set of two images a folder, in which a listing that fails is repeated at once."""
    monkeypatch.setattr(transient.time, "sleep", lambda seconds: None)
    for folder in FOLDERS:
        (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / "data" / folder / name).touch()
    return str(tmp_path / "data")


def splits(root: str) -> list[str]:
    return [name for split in manifest.read_all_splits(root) for name in split.names]


WALKS: dict[str, Callable[[str], Any]] = {
    "splits": splits,
    "a split": lambda root: list(manifest.read_split(root, "Train").names),
    "predict's folder": lambda root: globs.expand([root], ()),
    "predict's glob": lambda root: globs.expand([f"{root}/**/*.jpg"], ()),
    "predict's stars": lambda root: globs.expand([f"{root}/*/*/*.jpg"], ()),
    "list_below": lambda root: sorted(files.list_below(root)),
    "list_names": lambda root: files.list_names(f"{root}/Train/Fake"),
    "the report": lambda root: split_report.of_splits(root, []),
}


def calls(walk: Callable[[str], Any], root: str) -> int:
    with faults.injected(event="os.scandir", path=f"{root}*", first=10**9) as fault:
        walk(root)
    return fault.seen


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_what_passes_by_itself_changes_nothing(root, name, number):
    whole = WALKS[name](root)
    for first in range(1, calls(WALKS[name], root) + 1):
        with faults.injected(event="os.scandir", path=f"{root}*", first=first, count=2, number=number) as fault:
            assert WALKS[name](root) == whole
        assert fault.seen >= first + 2


@pytest.mark.parametrize("name", [name for name in WALKS if name != "the report"])  # Which training goes on without.
def test_what_does_not_pass_is_75_and_a_permission_is_2(root, name, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0")
    for first in range(1, calls(WALKS[name], root) + 1):
        for number, error in ((errno.EIO, StorageDown), (errno.EACCES, RequestError), (errno.EPERM, RequestError)):
            injected = faults.injected(event="os.scandir", path=f"{root}*", first=first, count=0, number=number)
            with injected, pytest.raises(error) as caught:
                WALKS[name](root)
            assert root in str(caught.value)
            assert number == errno.EIO or "give the account read and execute permission" in str(caught.value)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_status_that_cannot_be_read_is_not_no_such_file(root, monkeypatch, number):
    real, failures = os.stat, [2]

    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if failures and failures[0] and str(path).startswith(root):
            failures[0] -= 1
            raise OSError(number, os.strerror(number), path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    for question in (files.exists, files.is_dir):
        failures[0] = 2
        if number == errno.EACCES:
            with pytest.raises(RequestError, match="permission"):
                question(root)
        else:
            assert question(root)
            failures[0] = 10**9
            monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0")
            with pytest.raises(StorageDown):
                question(root)
            monkeypatch.delenv("DEEPDETECT_FILE_RETRY_SECONDS")


def test_what_is_not_there_is_not_there(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "none", tmp_path / "file/below", tmp_path / "loop/x", tmp_path / ("x" * 300), "a\0b"):
        assert not files.exists(str(path))
        assert not files.is_dir(str(path))
        assert files.list_names(str(path)) == []
        assert list(files.list_below(str(path))) == []
    assert files.list_names(str(tmp_path)) == ["file", "loop"]


def test_one_image_without_permission_is_its_row_not_the_end(root, monkeypatch):
    real = listing.status

    def status(path: str) -> os.stat_result | None:
        if path.endswith("secret/a.jpg"):
            raise RequestError("no permission")
        return real(path)

    monkeypatch.setattr(listing, "status", status)
    words = [f"{root}/secret/a.jpg", f"{root}/Train/Fake/a.jpg"]
    assert globs.expand(words, ()) == words


COMMANDS: dict[str, tuple[Callable[..., int], tuple[str, ...]]] = {
    "train": (train.main, ("--data_dir={root}", "--job_dir={out}")),
    "tune": (tune.main, ("--data_dir={root}", "--job_dir={out}", "--max_trials=1")),
    "audit": (prepare_data.main, ("audit", "--data_dir={root}", "--out={out}")),
    "pack": (prepare_data.main, ("pack", "--data_dir={root}", "--out={out}")),
    "predict": (predict.main, ("--model_dir={model}", "{root}")),
    "evaluate": (evaluate.main, ("--model_dir={model}", "--data_dir={root}", "--split=Train", "--out={out}")),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, errors.EXIT_REQUEST), (errno.EIO, errors.EXIT_STOPPED)])
def test_every_command_says_so_in_one_line(root, tmp_path, monkeypatch, capsys, command, number, code):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0")
    model = tmp_path / "1"
    (model / "assets.extra").mkdir(parents=True)
    (model / "saved_model.pb").touch()
    (model / "assets.extra/deepdetect.json").write_text(
        '{"class_names": ["Fake", "Real"], "positive_class": "Fake", "threshold": 0.5}'
    )
    main, words = COMMANDS[command]
    filled = [word.format(root=root, out=tmp_path / "out", model=model) for word in words]
    with faults.injected(event="os.scandir", path=f"{root}/Train/Real/video/deep*", count=0, number=number):
        assert cli.run_command(main, filled) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{root}/Train/Real/video/deep" in err
    assert err.startswith("error: " if code == errors.EXIT_REQUEST else "stopped: ")
