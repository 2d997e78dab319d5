"""The user's settings of Keras change no weights, and are as before after a run in a process that is not ours."""

import os

import keras
import pytest

from tests.helpers import faults
from tests.helpers.jobs import argv, result_of, run_job
from trainer.core import keras_environment
from trainer.core.errors import RequestError
from trainer.models import keras_settings

JOB = {"epochs": 1, "steps_per_epoch": 2}
DEFAULTS = ("float32", 1e-7, "channels_last")
LEAKS = {
    "all four": '{"floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.5, "backend": "jax"}',
    "damaged": '{"floatx": "float8", "epsilon": "small"',
    "no object": "[1]",
    "unknown values": '{"floatx": "float8", "epsilon": 1}',
}


@pytest.fixture(scope="module")
def weights(image_set, tmp_path_factory):
    """Return the weights of an undisturbed job."""
    job_dir = tmp_path_factory.mktemp("undisturbed")
    assert run_job(image_set, job_dir, **JOB) == 0
    return result_of(job_dir)["weights_sha256"]


def current():
    return keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()


@pytest.fixture
def foreign_settings():
    """Leave this process with a notebook's own settings."""
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(0.5)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")


@pytest.mark.slow
def test_a_notebooks_settings_change_no_weights_and_come_back(image_set, tmp_path, weights, foreign_settings):
    assert run_job(image_set, tmp_path / "job", **JOB) == 0
    assert result_of(tmp_path / "job")["weights_sha256"] == weights
    assert current() == ("float16", 0.5, "channels_first")
    assert keras.config.dtype_policy().name == "mixed_float16"


@pytest.mark.slow
@pytest.mark.parametrize("leak", ["all four", pytest.param("no object", marks=pytest.mark.thorough)])
def test_a_file_of_keras_changes_no_weights(image_set, tmp_path, weights, leak):
    (tmp_path / "keras.json").write_text(LEAKS[leak])
    env = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = faults.run("trainer.train", *argv(image_set, tmp_path / "job", **JOB), env=env)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert result_of(tmp_path / "job")["weights_sha256"] == weights
    assert (tmp_path / "keras.json").read_text() == LEAKS[leak]


def test_settings_are_pinned_inside_and_restored_outside(foreign_settings):
    with keras_settings.pinned():
        assert current() == DEFAULTS
        assert keras.config.dtype_policy().name == "float32"
    assert current() == ("float16", 0.5, "channels_first")
    with pytest.raises(ZeroDivisionError), keras_settings.pinned():
        _ = 1 / 0
    assert current() == ("float16", 0.5, "channels_first")
    assert keras.config.dtype_policy().name == "mixed_float16"


def test_another_backend_in_this_process_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(RequestError, match=r"received jax.*restart the process"):
        keras_settings.load()


@pytest.mark.parametrize("leak", LEAKS)
def test_a_file_that_keras_cannot_read_is_hidden(tmp_path, monkeypatch, leak):
    (tmp_path / "keras.json").write_text(LEAKS[leak])
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with keras_environment.safe():
        assert os.environ["KERAS_BACKEND"] == "tensorflow"
        is_hidden = os.environ["KERAS_HOME"] != str(tmp_path)
    assert is_hidden == (leak != "all four")
    assert (os.environ["KERAS_HOME"], os.environ["KERAS_BACKEND"]) == (str(tmp_path), "jax")
