"""WebDataset shards are read where they lie: labels, splits, random access, and the same job as from a folder."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.commands import answer
from tests.helpers.images import write_image_set
from tests.helpers.jobs import result_of, run_job
from trainer import prepare_data
from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError, StorageDown
from trainer.data import manifest, readers, split_report


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def splits_of(root, **settings):
    return {split.name: split for split in manifest.read_all_splits(str(root), LayoutConfig(**settings))}


def contents(split):
    return dict(zip(split.names, readers.open_reader(split).read(np.arange(len(split))[::-1])[::-1], strict=True))


def test_labels_in_cls_files_and_splits_in_the_names_of_shards(tmp_path):
    for shard, first in (("faces-train-000", 0), ("faces-train-001", 10), ("faces_VAL_000", 20)):
        members = {}
        for n in range(first, first + 10):
            members |= {f"{n:05d}.jpg": b"image %d" % n, f"{n:05d}.cls": b"%d\n" % (n % 2), f"{n:05d}.txt": b"words"}
        members["._00000.jpg"] = b"litter"
        write_tar(tmp_path / f"{shard}.tar", members)
    splits = splits_of(tmp_path, labels="real:0,fake:1")
    assert {name: split.counts for name, split in splits.items()} == {
        "Train": {"Fake": 10, "Real": 10}, "Validation": {"Fake": 5, "Real": 5},
    }  # fmt: skip
    numbers = [*range(1, 20, 2), *range(0, 20, 2)]
    names = [f"faces-train-{n // 10:03d}.tar/{n:05d}.jpg" for n in numbers]
    assert contents(splits["Train"]) == {name: b"image %d" % n for name, n in zip(names, numbers, strict=True)}
    line = split_report.of_splits(str(tmp_path), [*splits.values()])
    assert "3 shards. columns: path is 'path', label is 'label'" in line
    with pytest.raises(RequestError, match=r"--labels=real:0,fake:1"):
        splits_of(tmp_path)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_facts_in_json_files_and_long_names(tmp_path, form):
    members = {}
    for n in range(40):
        facts = {"is_fake": n % 2 == 1, "method": "gan", "source": f"s{n // 4}", "path": "/elsewhere", "box": [1, 2]}
        key = f"./{'long/' * 30}{n}"
        members |= {f"{key}.json": json.dumps(facts).encode(), f"{key}.mask.png": b"mask", f"{key}.png": b"%d" % n}
    write_tar(tmp_path / "shard.tar", members, form)
    splits = splits_of(tmp_path, test_fraction=0.3)
    assert {name: sum(split.counts.values()) for name, split in splits.items()} == {"Train": 28, "Test": 12}
    test = splits["Test"]
    assert test.columns["method"] == ["gan" if label == 0 else "" for label in test.labels]
    assert not {*test.columns["source"]} & {*splits["Train"].columns["source"]}
    for name, content in contents(test).items():
        assert name == f"shard.tar/{'long/' * 30}{content.decode()}.png"


def test_folders_of_classes_inside_and_of_splits_outside(tmp_path):
    images = {f"{label}/a.{n}.jpg": label.encode() for label in ("fake", "real") for n in range(3)}
    for split in ("train", "test"):
        write_tar(tmp_path / split / "0.tar", images)
    splits = splits_of(tmp_path, layout="webdataset")
    assert {name: split.counts for name, split in splits.items()} == {
        "Train": {"Fake": 3, "Real": 3}, "Test": {"Fake": 3, "Real": 3},
    }  # fmt: skip
    assert contents(splits["Test"])["test/0.tar/fake/a.1.jpg"] == b"fake"


def test_an_archive_beside_its_folder_is_no_shard(tmp_path):
    write_image_set(tmp_path / "faces", train=4, validation=2, test=0)
    write_tar(tmp_path / "faces.tar", {"Train/Fake/0.jpg": b"x", "Train/Real/0.jpg": b"x"})
    assert splits_of(tmp_path)["Train"].counts == {"Fake": 4, "Real": 4}


def test_damage_is_refused_and_a_lost_shard_is_no_fault_of_its_images(tmp_path):
    path = tmp_path / "0.tar"
    write_tar(path, {f"{label}/{n}.jpg": b"x" * 700 for label in ("fake", "real") for n in range(9)})
    whole = path.read_bytes()
    split = splits_of(tmp_path, test_fraction=0.0)["Train"]
    before = readers.stamp(split)
    reader = readers.open_reader(split)
    path.write_bytes(whole[:9000])
    assert readers.stamp(split) != before
    with pytest.raises(OSError, match="shorter"):
        reader.read_one(17)
    assert reader.read_one(0) == b"x" * 700
    path.unlink()
    with pytest.raises(StorageDown, match="not to blame"):
        reader.read_one(0)
    for name, content in (("cut", whole[:9000]), ("header", whole[:4608]), ("gzip", b"\x1f\x8b" + bytes(600))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tar").write_bytes(content)
        with pytest.raises(RequestError, match="expected a whole tar file"):
            splits_of(tmp_path / name)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return a folder of images and one of shards with the same, in the same order of names."""
    folder = Path(write_image_set(tmp_path_factory.mktemp("folder"), train=20, validation=6, test=0))
    shards = tmp_path_factory.mktemp("shards")
    for split in ("Train", "Validation"):
        paths = sorted((folder / split).rglob("*.jpg"))
        write_tar(shards / f"{split}.tar", {str(path.relative_to(folder / split)): path.read_bytes() for path in paths})
    return folder, shards


@pytest.mark.slow
def test_a_job_is_the_one_from_a_folder(both, tmp_path, capsys):
    for name, data in zip(("folder", "shards"), both, strict=True):
        assert run_job(data, tmp_path / name, epochs=2, cache=str(tmp_path / f"cache-{name}")) == 0
    first, second = (result_of(tmp_path / name) for name in ("folder", "shards"))
    assert first["weights_sha256"] == second["weights_sha256"]
    assert run_job(both[1], tmp_path / "served", data_service="grpc://localhost:1") == 2
    assert "--data_service: expected images that TensorFlow can read" in capsys.readouterr().err


@pytest.mark.slow
def test_shards_are_audited_and_packed_like_a_folder(both, tmp_path, capsys):
    reports = []
    for name, data in zip(("folder", "shards"), both, strict=True):
        words = ["audit", f"--data_dir={data}", f"--out={tmp_path}/audit-{name}", "--workers=2"]
        assert answer(capsys, prepare_data.main, *words)[0] == 0
        reports.append(json.loads((tmp_path / f"audit-{name}" / "audit.json").read_text()))
        assert answer(capsys, prepare_data.main, "pack", f"--data_dir={data}", f"--out={tmp_path}/{name}")[0] == 0
    assert reports[0]["figures"] == reports[1]["figures"]
    assert (tmp_path / "audit-shards/audit.html").read_text().count("<img") == (
        tmp_path / "audit-folder/audit.html").read_text().count("<img")  # fmt: skip
    packed = [manifest.read_split(str(tmp_path / name), "Train") for name in ("folder", "shards")]
    first, second = (list(contents(split).values()) for split in packed)
    assert first == second
