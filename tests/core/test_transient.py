"""Trouble that may pass: retried, then StorageDown; every other error at once."""

import errno

import pytest

from trainer.core import errors
from trainer.core.storage import transient


def fails(*numbers):
    """Return an action that fails with each errno in turn, then returns its number of calls, and a list of calls."""
    calls = []

    def action():
        calls.append(1)
        if len(calls) <= len(numbers):
            raise OSError(numbers[len(calls) - 1], "injected", "a.jpg")
        return len(calls)

    return action, calls


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transient, "_FIRST_DELAY", 0.001)


@pytest.mark.parametrize("number", sorted(transient.TRANSIENT))
def test_trouble_that_passes_costs_only_time(number):
    action, _ = fails(number, number)
    assert transient.retry("a.jpg", action) == 3


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
def test_trouble_that_stays_means_start_me_again(monkeypatch, number):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0.01")
    action, calls = fails(*[number] * 1000)
    with pytest.raises(errors.StorageDown, match=r"'a.jpg' could not be read for 0 s \(injected\)"):
        transient.retry("a.jpg", action)
    assert len(calls) > 1


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG])
def test_what_the_file_itself_is_to_blame_for_is_not_retried(number):
    action, calls = fails(number)
    with pytest.raises(OSError, match="injected"):
        transient.retry("a.jpg", action)
    assert len(calls) == 1


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_wrong_number_of_seconds_is_a_wrong_request(monkeypatch, text):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", text)
    with pytest.raises(errors.RequestError, match=f"DEEPDETECT_FILE_RETRY_SECONDS: expected .* received '{text}'"):
        transient.retry("a.jpg", int)
