"""A scheduler repeats the same command, perhaps on another machine: the job goes on, with the same weights."""

import itertools

import pytest

from tests.helpers.jobs import lines_of, result_of, run_job, sigterm_after
from trainer.core.errors import JobFailed
from trainer.distributed import strategy

JOB = {"epochs": 1, "steps_per_epoch": 3}


def on_machine(monkeypatch, *, bfloat16):
    """Continue the test on a machine whose CPU computes in bfloat16 or does not."""
    monkeypatch.setattr(strategy, "_cpu_has_bfloat16", lambda _: bfloat16)


@pytest.mark.slow
def test_auto_keeps_the_precision_of_the_checkpoint_on_another_machine(image_set, tmp_path, monkeypatch, capsys):
    for kind in ("undisturbed", "moved"):
        on_machine(monkeypatch, bfloat16=True)
        job = {**JOB, "precision": "auto"}
        if kind == "moved":
            with sigterm_after(2):
                assert run_job(image_set, tmp_path / kind, **job) == 75
            on_machine(monkeypatch, bfloat16=False)
            assert run_job(image_set, tmp_path / kind, **{**job, "precision": "float32"}) == 2
            capsys.readouterr()
        assert run_job(image_set, tmp_path / kind, **job) == 0
    line = "precision: mixed_bfloat16, with which the job began; --precision=auto is float32 on this machine"
    assert line in capsys.readouterr().err
    results = [result_of(tmp_path / kind) for kind in ("undisturbed", "moved")]
    assert [result["precision"] for result in results] == ["mixed_bfloat16"] * 2
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]


def test_older_gpus_say_why_they_cannot_continue(monkeypatch):
    monkeypatch.setattr(strategy, "_gpus_have_bfloat16", lambda: False)
    with pytest.raises(JobFailed, match=r"began with mixed_bfloat16.*8\.0"):
        strategy.continued_precision("mixed_bfloat16", "GPU")
    assert strategy.continued_precision("mixed_float16", "GPU") == "mixed_float16"


@pytest.mark.parametrize(
    ("kept", "has_bfloat16"), itertools.product(["", "float32", "mixed_float16", "mixed_bfloat16"], [False, True])
)
def test_what_a_job_began_with_stands(monkeypatch, kept, has_bfloat16):
    on_machine(monkeypatch, bfloat16=has_bfloat16)
    assert strategy.continued_precision(kept, "CPU") == kept


@pytest.mark.slow
def test_never_in_a_repeated_command_ends(image_set, tmp_path):
    job = {**JOB, "resume": "never"}
    assert run_job(image_set, tmp_path / "job", **{**JOB, "seed": 7}) == 0  # Of somebody else, to start over from.
    for step in (1, 2):
        with sigterm_after(step):
            assert run_job(image_set, tmp_path / "job", **job) == 75
    assert run_job(image_set, tmp_path / "job", **job) == 0
    assert len(list((tmp_path / "job").glob("before-*"))) == 1
    assert [line["step"] for line in lines_of(tmp_path / "job", "train")] == [1, 2, 3]
    assert run_job(image_set, tmp_path / "undisturbed", **JOB) == 0
    weights = [result_of(tmp_path / name)["weights_sha256"] for name in ("job", "undisturbed")]
    assert weights[0] == weights[1]
    assert run_job(image_set, tmp_path / "job", **job) == 0  # A finished one is what a person starts over from.
    assert len(list((tmp_path / "job").glob("before-*"))) == 2
