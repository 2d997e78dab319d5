"""What scripts/compare_versions.py notices and what it lets pass: differences put in by hand, no training."""

import copy
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import compare_versions
import version_differences as differences

LINES = [
    {"kind": "start", "step": 0, "time": "then", "precision": "float32"},
    {"kind": "train", "step": 1, "loss": 0.5, "images_per_second": 9.0},
    {"kind": "validation", "step": 1, "val_loss": 0.25},
]
PAGE = """Train.

  python -m trainer.train --data_dir=D [flags]

Loop:
  --epochs=<int>  (default: 5)
      Epochs, see --seed.
  --size=<int pixels>  (default: 224 pixels)
  --model=cnn|cnn_bn  (default: cnn)
  --xla  (default: off; --noxla switches it off)
  --out=<str>
"""
ARGPARSE_PAGE = """options:
  -h, --help            show this help message and exit
  --port PORT           to listen on
  --dispatcher HOST:PORT
                        be a worker
"""


def text(lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


def line_differences(change, kinds=()):
    changed = copy.deepcopy(LINES)
    change(changed)
    return list(differences.line_differences(text(LINES), text(changed), "m", kinds))


def test_times_and_rates_may_differ():
    def change(lines):
        lines[0]["time"] = "now"
        lines[1]["images_per_second"] = 1.0

    assert line_differences(change) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: lines[1].update(loss=0.5000000000000001), "m:2.loss was 0.5, is 0.5000000000000001"),
        (lambda lines: lines[1].pop("loss"), "m:2.loss is gone"),
        (lambda lines: lines[2].update(extra=1), "m:3.extra is new"),
        (lambda lines: lines[1].pop("images_per_second"), "m:2.images_per_second is gone"),
        (lambda lines: lines.pop(), "m had 3 lines, has 2"),
    ],
)
def test_a_changed_metrics_line_is_named(change, expected):
    assert line_differences(change) == [expected]


def test_a_checkpoint_line_may_come_earlier_but_not_change():
    checkpoint = {"kind": "checkpoint", "step": 3, "epoch": 1}
    late = text([*LINES, checkpoint])
    assert list(differences.line_differences(late, text([LINES[0], checkpoint, *LINES[1:]]), "m")) == []
    assert len(list(differences.line_differences(late, text([*LINES, {**checkpoint, "step": 4}]), "m"))) == 1


def test_a_set_has_no_order():
    before, after = {"tried_so_far": ["a", "b"]}, {"tried_so_far": ["b", "a"]}
    assert list(differences.json_differences(before, after, "oracle")) == []
    assert len(list(differences.json_differences(before, {"tried_so_far": ["a", "c"]}, "oracle"))) == 1


def test_only_some_kinds_of_lines():
    assert line_differences(lambda lines: lines.pop(0), kinds=("train", "validation")) == []
    assert len(line_differences(lambda lines: lines.pop(1), kinds=("train",))) == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["x.a.b[1] was 2, is 3"]),
        ({"a": [1, 2]}, {"a": [1]}, ["x.a had 2 entries, has 1"]),
        ({"a": 1}, {"a": 1.0}, ["x.a was 1, is 1.0"]),
        ({"a": None}, {"a": 0}, ["x.a was None, is 0"]),
        ({"a": True}, {"a": 1}, ["x.a was True, is 1"]),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"a": float("nan")}, {"a": 1.0}, ["x.a was nan, is 1.0"]),
        ({"a": "cnn"}, {"a": "cnn_bn"}, ["x.a was 'cnn', is 'cnn_bn'"]),
        ({"why": "so few images"}, {"why": "too few images"}, []),
        ({"why": "so few images"}, {"why": ""}, ["x.why was 'so few images', is ''"]),
        ({"seconds": 1.0}, {"seconds": 2.0}, []),
        ({"seconds": 1.0}, {}, ["x.seconds is gone"]),
    ],
)
def test_json_values(before, after, expected):
    assert list(differences.json_differences(before, after, "x")) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("path,p\na,0.5\n", "path,p\na,0.6\n", ["x[1][1] was '0.5', is '0.6'"]),
        ("path,p\na,0.5\n", "path,p\r\na,0.5\r\n", ["x has other line ends or quotes"]),
        ("path,p\na,0.5\n", "path,q\na,0.5\n", ["x had columns [['path', 'p']], has [['path', 'q']]"]),
        ("id,seconds\na,1\n", "id,seconds\na,2\n", []),
        ("id,seconds\na,1\n", "id,seconds\nb,1\n", ["x[1][0] was 'a', is 'b'"]),
        ("", "", []),
        ("", "id\n", ["x had columns [], has [['id']]"]),
    ],
)
def test_csv(before, after, expected):
    assert list(differences.csv_differences(before, after, "x")) == expected


def test_flags_are_read_from_both_kinds_of_pages():
    surface = differences.flag_surface(PAGE)
    assert {name: (flag.kind, flag.default) for name, flag in surface.items()} == {
        "epochs": ("int", "5"), "size": ("int", "224"), "model": ("", "cnn"), "xla": ("", "off"), "out": ("str", ""),
    }  # fmt: skip
    assert surface["model"].choices == {"cnn", "cnn_bn"}
    surface = differences.flag_surface(ARGPARSE_PAGE)
    assert {name: flag.kind for name, flag in surface.items()} == {
        "help": "", "port": "PORT", "dispatcher": "HOST:PORT",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cnn|cnn_bn", "cnn|cnn_bn|resnet", []),
        ("see --seed", "as many as it takes", []),
        ("cnn|cnn_bn", "cnn|resnet", ["t: --model lost cnn_bn"]),
        ("(default: 5)", "(default: 6)", ["t: --epochs was int with default 5, is int with default 6"]),
        ("<int pixels>", "<float pixels>", ["t: --size was int with default 224, is float with default 224"]),
        ("default: off", "default: on",
         ["t: --xla was a choice or switch with default off, is a choice or switch with default on"]),
        ("--out=<str>", "--into=<str>", ["t: --into is new", "t: --out is gone"]),
    ],
)  # fmt: skip
def test_the_flag_surface_may_gain_choices_alone(old, new, expected):
    assert old in PAGE
    before, after = differences.flag_surface(PAGE), differences.flag_surface(PAGE.replace(old, new))
    assert list(differences.flag_differences(before, after, "t")) == expected


@pytest.fixture
def folders(tmp_path):
    """Return two folders with the same files, but for paths, times and the process in names."""
    for side in ("base", "current"):
        folder = tmp_path / side
        (folder / "checkpoints").mkdir(parents=True)
        (folder / f"events.out.tfevents.1.host.{len(side)}").write_text(side)
        (folder / "report.html").write_text(side)
        (folder / "config.json").write_text(json.dumps({"job_dir": str(folder), "time": side}))
        (folder / "metrics.jsonl").write_text(text(LINES))
        (folder / "checkpoints" / "arrays.npz").write_bytes(b"\x00\x01")
        (folder / "starts").mkdir()
        for second, code in ((1, 75), (2, 0)):
            began = f"20261128T0{len(side)}000{second}000"
            (folder / "starts" / f"{began}-main.json").write_text(json.dumps({"began": began, "end": {"code": code}}))
    return tmp_path / "base", tmp_path / "current"


def compare(folders, **options):
    return list(differences.folder_differences(*folders, roots=[str(folder) for folder in folders], **options))


def test_equal_folders(folders):
    assert compare(folders) == []


def test_names_bytes_and_values_of_files(folders):
    _, current = folders
    (current / "new.html").write_text("")
    (current / "checkpoints" / "arrays.npz").write_bytes(b"\x00\x02")
    (current / "report.html").unlink()
    (current / "config.json").write_text(json.dumps({"job_dir": "elsewhere", "time": ""}))
    assert compare(folders) == [
        "checkpoints/arrays.npz has other bytes",
        "config.json.job_dir was 'ROOT', is 'elsewhere'",
        "new.html is new",
        "report.html is gone",
    ]
    assert compare(folders, only=["metrics.jsonl"]) == []


def test_every_job_finds_what_it_needs_before_it():
    order = list(compare_versions.JOBS)
    for name, job in compare_versions.JOBS.items():
        assert all(order.index(need) < order.index(name) for need in job.needs), name
    assert compare_versions.with_needs(["evaluate"]) == ["train-float32-1", "audit", "evaluate"]


@pytest.mark.parametrize(
    "words", [["--base=HEAD", "--only=nonsense"], ["--base=HEAD", "--keep=/"], ["--base=no/such"], []]
)
def test_a_wrong_request_is_refused(words):
    with pytest.raises(SystemExit) as caught:
        compare_versions.main(words)
    assert caught.value.code == 2
