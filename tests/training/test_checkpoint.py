"""Invariant 5: a checkpoint exists when it is whole."""

import json
import os

import numpy as np
import pytest

from trainer.core.errors import RequestError
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpoint, digest_of_arrays


def make(step, **state):
    arrays = {
        "model/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) + step,
        "model/half": np.array([step], np.float16),
        "optimizer/iterations": np.array(step, np.int64),
        "empty": np.zeros([0, 3], np.float32),
    }
    return Checkpoint(step, arrays, {"step": step, "rate": 0.1 + 0.2, "best": None, "series": [1, 2.5], **state})


def same(one, other):
    return (
        one.step == other.step
        and one.state == other.state
        and list(one.arrays) == list(other.arrays)
        and all(
            value.dtype == other.arrays[name].dtype
            and value.shape == other.arrays[name].shape
            and value.tobytes() == other.arrays[name].tobytes()
            for name, value in one.arrays.items()
        )
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "job" / "checkpoints"


@pytest.fixture
def store(folder):
    return CheckpointStore(str(folder), keep=3)


def file_of(folder, step, name):
    return folder / f"{step:010d}" / name


def test_nothing_there(store):
    assert store.steps() == []
    assert store.newest() is None


def test_round_trip_to_the_last_bit(store, folder):
    path = store.save(make(7))
    assert os.path.samefile(path, folder / "0000000007")
    assert same(store.newest(), make(7))
    assert same(store.read(7), make(7))
    assert same(CheckpointStore(str(folder), keep=1).newest(), make(7))


def test_a_checkpoint_read_does_not_share_memory_with_the_file(store):
    store.save(make(1))
    first = store.read(1)
    first.arrays["model/kernel"][:] = 0
    assert same(store.read(1), make(1))


def test_steps_sort_as_numbers(store):
    for step in (9, 100, 20):
        store.save(make(step))
    assert store.steps() == [9, 20, 100]
    assert store.newest().step == 100


def test_only_the_newest_are_kept(store):
    for step in range(1, 8):
        store.save(make(step))
        assert store.steps() == list(range(max(1, step - 2), step + 1))


def test_the_protected_one_stays_beside_them(store):
    for step in range(1, 8):
        store.save(make(step), protect=2)
    assert store.steps() == [2, 5, 6, 7]
    store.save(make(8), protect=6)
    assert store.steps() == [6, 7, 8]
    store.save(make(9), protect=99)  # One that is not there protects nothing.
    assert store.steps() == [7, 8, 9]


def test_without_its_marker_a_checkpoint_does_not_exist(store, folder):
    store.save(make(1))
    store.save(make(2))
    file_of(folder, 2, "COMMIT.json").unlink()
    assert store.steps() == [1]
    assert store.newest().step == 1


def test_strangers_in_the_folder_are_ignored(store, folder):
    store.save(make(1))
    (folder / "notes.txt").write_text("mine")
    (folder / "tmp-3").mkdir()
    (folder / "0000000009").mkdir()
    assert store.steps() == [1]
    for step in (2, 3, 4, 5):
        store.save(make(step))
    assert (folder / "notes.txt").read_text() == "mine"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path):
    path.write_bytes(b"")


DAMAGES = [
    (truncate, "arrays.npz", "bytes instead of"),
    (flip_a_bit, "arrays.npz", "SHA-256"),
    (lengthen, "arrays.npz", "bytes instead of"),
    (empty, "arrays.npz", "bytes instead of"),
    (lambda path: path.unlink(), "arrays.npz", "FileNotFoundError"),
    (truncate, "state.json", "bytes instead of"),
    (flip_a_bit, "state.json", "SHA-256"),
    (lambda path: path.unlink(), "state.json", "FileNotFoundError"),
    (truncate, "COMMIT.json", "JSONDecodeError"),
    (empty, "COMMIT.json", "JSONDecodeError"),
    (lambda path: path.write_text("[]"), "COMMIT.json", "TypeError"),
    (lambda path: path.write_text("{}"), "COMMIT.json", "KeyError"),
    (lambda path: path.write_text('{"files": {}}'), "COMMIT.json", "KeyError"),
    (lambda path: path.write_bytes(b"\xff\xfe"), "COMMIT.json", "UnicodeDecodeError"),
]


@pytest.mark.parametrize(("damage", "name", "reason"), DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_it_used(store, folder, package_log, damage, name, reason):
    store.save(make(4))
    store.save(make(5))
    damage(file_of(folder, 5, name))
    with pytest.raises(DamagedCheckpoint, match=reason):
        store.read(5)
    assert same(store.newest(), make(4))
    warning = next(record for record in package_log.records if record.levelname == "WARNING")
    assert "0000000005" in warning.getMessage()
    assert reason in warning.getMessage()


def test_a_state_that_matches_its_digest_but_is_no_json_is_damaged(store, folder):
    import hashlib

    store.save(make(1))
    content = b"not json"
    file_of(folder, 1, "state.json").write_bytes(content)
    marker = file_of(folder, 1, "COMMIT.json")
    marks = json.loads(marker.read_text())
    marks["files"]["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    marker.write_text(json.dumps(marks))
    with pytest.raises(DamagedCheckpoint, match="JSONDecodeError"):
        store.read(1)


def test_all_damaged_is_refused_not_started_afresh(store, folder, package_log):
    for step in (1, 2, 3):
        store.save(make(step))
        flip_a_bit(file_of(folder, step, "arrays.npz"))
    with pytest.raises(RequestError, match=r"received 3 damaged ones.*--resume=never"):
        store.newest()
    assert len([record for record in package_log.records if record.levelname == "WARNING"]) == 3


def test_a_save_replaces_what_an_earlier_one_left(store, folder):
    leftover = folder / "0000000005"
    leftover.mkdir(parents=True)
    (leftover / "arrays.npz").write_bytes(b"half of it")
    (leftover / "arrays.npz.tmp-1").write_bytes(b"torn")
    store.save(make(5))
    assert same(store.newest(), make(5))
    assert sorted(os.listdir(leftover)) == ["COMMIT.json", "arrays.npz", "state.json"]
    store.save(make(5, again=True))
    assert store.newest().state["again"] is True


def test_a_kill_while_saving_leaves_the_one_before(store, folder, monkeypatch):
    from trainer.core.storage import files

    store.save(make(1))
    write, written = files.write_bytes, []

    def killed_after(count):
        def write_or_die(path, content):
            if len(written) == count:
                raise KeyboardInterrupt
            written.append(path)
            write(path, content)

        return write_or_die

    for count in range(3):
        written.clear()
        monkeypatch.setattr(files, "write_bytes", killed_after(count))
        with pytest.raises(KeyboardInterrupt):
            store.save(make(2))
        monkeypatch.setattr(files, "write_bytes", write)
        assert store.steps() == [1], count  # The marker comes last.
        assert same(store.newest(), make(1)), count
    store.save(make(2))
    assert same(store.newest(), make(2))


def test_a_step_that_is_saved_again_keeps_the_old_one_until_the_new_one_is_complete(store, folder, monkeypatch):
    from trainer.core.storage import files

    write = files.write_bytes
    for round_ in range(3):  # The names alternate.
        store.save(make(1, round=round_))
        assert same(store.newest(), make(1, round=round_))
        assert len(os.listdir(folder / "0000000001")) == 3

        def full(path, content):
            if "COMMIT" in path:
                raise OSError(28, "No space left on device")
            write(path, content)

        monkeypatch.setattr(files, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            store.save(make(1, round=9))
        monkeypatch.setattr(files, "write_bytes", write)
        assert same(store.newest(), make(1, round=round_))
        assert len(os.listdir(folder / "0000000001")) == 3  # Nothing of the failed one is left.


def test_a_marker_that_appeared_although_its_write_failed_keeps_its_files(store, monkeypatch):
    """As when flushing the folder fails after the rename."""
    from trainer.core.storage import files

    store.save(make(1))
    write = files.write_bytes

    def failing(path, content):
        write(path, content)
        if "COMMIT" in path:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "write_bytes", failing)
    for step in (1, 2):
        with pytest.raises(OSError, match="Input/output"):
            store.save(make(step, new=True))
        assert same(store.newest(), make(step, new=True))


def test_logs_are_on_the_disk_before_the_marker(folder, tmp_path, monkeypatch):
    log_file = tmp_path / "metrics.jsonl"
    log_file.write_text("{}\n")
    store = CheckpointStore(str(folder), keep=3, logs=[str(log_file), str(tmp_path / "not there yet")])
    flushed, real = [], os.fsync

    def fsync(descriptor):
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).split(".tmp-")[0])
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.save(make(1))
    assert flushed.index("metrics.jsonl") < flushed.index("COMMIT.json")
    assert flushed[-1] == "0000000001"  # The folder, with the marker's name.


def test_a_checkpoint_is_removed_marker_first(store, folder, monkeypatch):
    from trainer.core.storage import files

    for step in (1, 2, 3):
        store.save(make(step))
    monkeypatch.setattr(files, "remove_tree", lambda path: None)  # Killed before.
    store.save(make(4))
    assert store.steps() == [2, 3, 4]
    monkeypatch.undo()
    store.remove_leftovers()
    assert sorted(os.listdir(folder)) == ["0000000002", "0000000003", "0000000004"]


def test_leftovers_of_a_dead_process_are_removed_and_nothing_else(store, folder, package_log):
    store.save(make(1))
    store.save(make(2))
    file_of(folder, 1, "again-arrays.npz").write_bytes(b"of a save that was killed")
    file_of(folder, 2, "state.json.tmp-0123456789abcdef").write_bytes(b"torn")
    file_of(folder, 2, "COMMIT.json").write_text("torn")  # A person may want to look at that one.
    (folder / "0000000003").mkdir()
    file_of(folder, 3, "arrays.npz").write_bytes(b"unfinished")
    (folder / "notes.txt").write_text("mine")
    store.remove_leftovers()
    assert sorted(os.listdir(folder)) == ["0000000001", "0000000002", "notes.txt"]
    assert sorted(os.listdir(folder / "0000000001")) == ["COMMIT.json", "arrays.npz", "state.json"]
    assert file_of(folder, 2, "arrays.npz").exists()
    assert "0000000003 was never finished: removed" in package_log.text


def test_a_digest_of_arrays_tells_every_change():
    def arrays():
        return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.int32)}

    changed = [
        {**arrays(), "a": arrays()["a"] + 1},
        {**arrays(), "a": arrays()["a"].reshape(3, 2)},
        {**arrays(), "b": np.zeros(2, np.uint32)},
        {**arrays(), "a": -arrays()["a"]},
        {"A": arrays()["a"], "b": arrays()["b"]},
        {"b": arrays()["b"], "a": arrays()["a"]},
        {"a": arrays()["a"]},
        {},
    ]
    digests = {digest_of_arrays(values) for values in changed}
    assert len(digests) == len(changed)
    assert digest_of_arrays(arrays()) not in digests
    assert digest_of_arrays(arrays()) == digest_of_arrays(arrays())
    turned = {**arrays(), "a": np.asfortranarray(arrays()["a"])}  # Another layout in memory, the same values.
    assert digest_of_arrays(turned) == digest_of_arrays(arrays())
