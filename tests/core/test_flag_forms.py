"""Flags with - for _, and a request that is printed as a file or as what differs from the defaults."""

import pytest

from tests.helpers.commands import answer, refusal
from trainer import data_service, train, tune
from trainer.commands.demo import make_data
from trainer.core.config import changes, flags, from_flat
from trainer.core.errors import RequestError
from trainer.serving import predict_request
from trainer.submit import request

PLACES = ["--data_dir=D", "--job_dir=J"]


def test_a_flag_may_have_hyphens():
    config = flags.train_config(["--data-dir=D", "--job-dir", "J-a_b", "-batch-size=8",
                                 "--noplateau-waits-for-learning", "--clip-norm=1e-3", "--require-gpu"])  # fmt: skip
    assert config == from_flat({"data_dir": "D", "job_dir": "J-a_b", "batch_size": 8, "clip_norm": 1e-3,
                                "plateau_waits_for_learning": False, "require_gpu": True})  # fmt: skip


def test_only_names_of_flags_change():
    words = ["--out=a-b_c-d", "-my-file.jpg", "--", "--batch-size"]
    read, rest = predict_request.parse(["--model-dir=M-1", *words[2:], words[1]])
    assert read.model_dir == "M-1"
    assert rest == ["--batch-size", "-my-file.jpg"]
    assert flags.with_underscores(words, ["out", "batch_size"]) == words
    assert flags.with_underscores(["--b-s=1", "--nob-s", "--x-y"], ["b_s"]) == ["--b_s=1", "--nob_s", "--x-y"]
    with pytest.raises(RequestError, match="received --batch-sice; did you mean 'batch_size'"):
        flags.train_config([*PLACES, "--batch-sice=8"])


def test_hyphens_in_the_commands_with_flags_of_their_own(capsys, tmp_path):
    assert "received 0" in refusal(capsys, data_service.main, "--port=0", "--state-dir=x")
    assert request.split_words(["--dry-run", "--", "--x-y"]) == (["--dry_run=client"], ["--x-y"])
    assert make_data.main([f"--out={tmp_path / 'a'}", "--train-per-class=-1"]) == 2
    assert "--train_per_class" in capsys.readouterr().err


CHANGED = {"epochs": 7, "drop": "a: b # c", "cache": "memory", "batch_size": "auto", "adam_epsilon": 1e-12,
           "xla": False, "learning_rate": 1e-4, "deterministic": True, "labels": "a'b\"c:Ü"}  # fmt: skip


@pytest.mark.parametrize("command", [train, tune])
def test_print_config_prints_a_file_that_config_takes(command, capsys, tmp_path):
    words = [*PLACES, *flags.to_words({name: value for name, value in CHANGED.items() if name != "batch_size"})]
    code, out, err = answer(capsys, command.main, *words, "--print_config")
    assert (code, err) == (0, "")
    file = tmp_path / "settings.yaml"
    file.write_text(out)
    expected = flags.train_config(words)
    if command is tune:
        expected = expected.replace(monitor="val_auc", keep_checkpoints=1)
    assert flags.train_config([f"--config={file}"]) == expected
    assert "epochs: 7  # default: 5\n" in out
    assert '\nmodel: "cnn"\n' in out
    assert answer(capsys, train.main, f"--config={file}", "--print-config")[1] == out


def test_print_config_needs_no_folders_and_keeps_auto(capsys):
    code, out, _ = answer(capsys, train.main, "--print_config", "--batch_size=auto")
    assert code == 0
    assert '\nbatch_size: "auto"  # default: 32\n' in out
    assert '\nweight_decay: "auto"\n' in out
    assert "at least 1, received 0" in refusal(capsys, train.main, "--print_config", "--epochs=0").replace(";", ",")


def test_what_differs_from_the_defaults_is_one_line():
    config = from_flat({"data_dir": "D", "job_dir": "J", **CHANGED})
    assert changes.differing(config) == CHANGED
    assert "\n" not in changes.line(config)
    assert changes.line(from_flat({"data_dir": "D", "epochs": 3, "xla": True})) == (
        "settings that differ from the defaults: epochs=3, xla=true"
    )
    assert changes.line(from_flat({"data_dir": "D"})) == "settings that differ from the defaults: none"
