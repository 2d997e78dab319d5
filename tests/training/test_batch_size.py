"""``--batch_size=auto``: a size that fits, found without ending the job, and kept."""

import json

import pytest

from tests.helpers.jobs import float32_policy, lines_of, run_job  # noqa: F401
from trainer.core.config import from_flat
from trainer.core.errors import JobFailed, RequestError
from trainer.sweep import request as sweep_request
from trainer.training.batch_size import search as batch_size


class Machine:
    """A child on a machine that does not exist here; sizes are images of all its devices.

    Attributes:
        room: images that fit.
        fastest: images from which on more are not faster.
        refused_below: images that a network wants.
    """

    def __init__(self, kind, devices=1, room=10**6, fastest=10**6, refused_below=0):
        self.kind, self.devices = kind, devices
        self.room, self.fastest, self.refused_below = room, fastest, refused_below
        self.tried = []

    def start(self):
        return 10**9

    def measure(self, size):
        self.tried.append(size)
        if size < self.refused_below:
            raise RequestError("too few for batch normalisation")
        if size > self.room:
            raise batch_size._DoesNotFit("out of memory")
        return batch_size._Measured(size, float(min(size, self.fastest)), 10**9 + size * 10**7)

    def choice(self, most=1024, budget=10**12):
        return batch_size._search(self, most, budget)[0]


@pytest.mark.parametrize(
    ("machine", "most", "size"),
    [
        (Machine("GPU"), 1024, 1024),
        (Machine("GPU", devices=3), 1024, 768),
        (Machine("GPU", room=300), 1024, 256),
        (Machine("GPU", room=260), 1024, 128),  # 256 fits, and nothing beside it.
        (Machine("GPU", devices=4, room=130), 1024, 64),
        (Machine("GPU", room=5), 1024, 4),
        (Machine("GPU", fastest=64), 1024, 1024),
        (Machine("CPU"), 1000, 512),
        (Machine("CPU", fastest=8), 1024, 32),
        (Machine("CPU", fastest=64), 1024, 64),
        (Machine("CPU", refused_below=32), 1024, 1024),
        (Machine("CPU"), 5, 4),
        (Machine("CPU", devices=2), 1, 2),
    ],
)
def test_the_largest_size_that_fits_and_is_worth_it(machine, most, size):
    assert machine.choice(most) == size


def test_a_size_that_would_exceed_the_memory_is_not_tried():
    machine = Machine("CPU")
    assert machine.choice(budget=10**9 + 70 * 10**7) == 32  # 64 images need 1.64 GB, with a margin on the growth 1.70.
    assert machine.choice(budget=10**9 + 71 * 10**7) == 64
    assert max(machine.tried) == 64


def test_nothing_that_fits_is_a_failed_job_and_a_refusal_of_every_size_a_refusal():
    with pytest.raises(JobFailed, match="out of memory"):
        Machine("GPU", room=0).choice()
    with pytest.raises(JobFailed, match="GB"):
        Machine("CPU").choice(budget=10**8)
    with pytest.raises(RequestError, match="batch normalisation"):
        Machine("CPU", refused_below=10**6).choice()


def test_a_sweep_wants_a_number():
    with pytest.raises(RequestError, match="--batch_size: expected a number for a sweep"):
        sweep_request.parse(["--data_dir=D", "--job_dir=J", "--batch_size=auto"])


def test_the_variable_for_the_memory_is_checked(monkeypatch):
    monkeypatch.setenv(batch_size.MEMORY_VARIABLE, "4GB")
    with pytest.raises(RequestError, match=r"DEEPDETECT_BATCH_MEMORY: .*'4GB'"):
        batch_size._budget(from_flat({}))


@pytest.mark.slow
def test_a_job_takes_less_if_memory_is_short_and_keeps_that(image_set, tmp_path, monkeypatch, capsys):
    settings = {"batch_size": "auto", "epochs": 1, "steps_per_epoch": 2}
    monkeypatch.setenv(batch_size.MEMORY_VARIABLE, str(10**9))
    assert run_job(image_set, tmp_path / "job", **settings) == 0
    chosen = json.loads((tmp_path / "job" / "config.json").read_text())["batch_size"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("--batch_size=auto")]
    assert chosen == 8  # Without the limit it would be 32 at least.
    assert "8 images, as 16 would need about " in lines[-1]
    assert [line["examples"] for line in lines_of(tmp_path / "job", "train")] == [8, 8]
    monkeypatch.delenv(batch_size.MEMORY_VARIABLE)
    assert run_job(image_set, tmp_path / "job", **{**settings, "epochs": 2}) == 0
    assert "--batch_size=auto" not in capsys.readouterr().err
    assert json.loads((tmp_path / "job" / "config.json").read_text())["batch_size"] == chosen
