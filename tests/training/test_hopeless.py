"""A job that ran out of memory twice at a step, or crashes again and again, is not started for ever."""

import datetime

import pytest

from trainer.core.errors import JobFailed, RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.starts.cgroup import Memory
from trainer.core.starts.record import End, Start
from trainer.training.start import hopeless

SMALL, LARGE = 2**30, 2**31
KILLED = End("", 137, "SIGKILL", oom_kills=1)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Return a function that writes the starts of a process, the last of which is running, and its job's paths."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    began = datetime.datetime.now(datetime.UTC)

    def write(*starts, process="worker-1", minutes=1):
        for number, (memory, step, end) in enumerate(starts):
            time = began - datetime.timedelta(minutes=minutes * (len(starts) - number))
            Start(process, time.isoformat(timespec="milliseconds"), "host", memory, step, end=end).write(str(tmp_path))
        return JobPaths(str(tmp_path))

    return write


TIGHT, FREE = Memory(SMALL, SMALL), Memory(SMALL, 0)


@pytest.mark.parametrize(
    ("starts", "refused"),
    [
        ([(TIGHT, 5, None), (TIGHT, 5, None), (FREE, None, None)], True),  # They vanished with hardly any left.
        ([(FREE, 5, KILLED), (FREE, 5, KILLED), (FREE, None, None)], True),  # The kernel counted.
        ([(FREE, 5, KILLED), (FREE, None, None)], False),  # Once may be chance.
        ([(FREE, 4, KILLED), (FREE, 5, KILLED), (FREE, None, None)], False),  # Progress.
        ([(FREE, 5, None), (FREE, 5, None), (FREE, None, None)], False),  # Lost nodes.
        ([(FREE, 5, KILLED), (FREE, 5, KILLED), (Memory(LARGE, 0), None, None)], False),  # It has more now.
        ([(FREE, 5, KILLED), (FREE, 5, KILLED), (FREE, 5, End("", 75)), (FREE, None, None)], False),
    ],
)
def test_a_process_that_ran_out_of_memory_twice_at_a_step_needs_more(job, starts, refused):
    paths = job(*starts, minutes=120)
    if refused:
        with pytest.raises(RequestError, match=r"more memory than 1\.0 GiB: worker-1 .* twice from step 5.*--memory"):
            hopeless.refuse(paths, 5)
    else:
        hopeless.refuse(paths, 5)
    hopeless.refuse(paths, 6)


def test_where_others_share_the_memory_a_later_start_may_go_well(job, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(JobFailed, match="more memory"):
        hopeless.refuse(job((FREE, 5, KILLED), (FREE, 5, KILLED), (FREE, None, None)), 5)


@pytest.mark.parametrize("code", [1, 76, 139])
def test_crashes_are_bounded_by_their_rate_even_with_progress(job, code):
    running = (FREE, 99, None)
    hopeless.refuse(job(*((FREE, step, End("", code)) for step in range(14)), running), 99)
    paths = job(*((FREE, step, End("", code, words="lost")) for step in range(15)), running, process="main")
    with pytest.raises(JobFailed, match=rf"main ended 15 times within an hour .*exit code {code}: lost"):
        hopeless.refuse(paths, 99)


def test_what_may_pass_is_not_bounded_by_its_rate(job):
    ends = [End("", 75), None, End("", 0), End("", 2)] * 10
    hopeless.refuse(job(*((FREE, step, end) for step, end in enumerate(ends)), (FREE, 99, None)), 99)
    crash = (FREE, 1, End("", 1))
    hopeless.refuse(job(*[crash] * 20, (FREE, 1, None), minutes=6, process="slow"), 1)
