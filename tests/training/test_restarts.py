"""A job that gets nowhere stops itself."""

import pytest

from trainer.core.errors import JobFailed
from trainer.core.job_dir import JobPaths
from trainer.training import resume


@pytest.fixture
def paths(tmp_path):
    return JobPaths(str(tmp_path))


def test_three_restarts_from_the_same_step_are_allowed_and_the_fourth_is_refused(paths):
    for _ in range(4):
        resume.count_start(paths, 10, limit=3)
    with pytest.raises(JobFailed, match="restart 4 from step 10"):
        resume.count_start(paths, 10, limit=3)


def test_progress_starts_the_count_again(paths):
    for step in (0, 0, 0, 0, 5, 5, 5, 5, 6):
        resume.count_start(paths, step, limit=3)


def test_no_limit_counts_and_never_refuses(paths):
    for _ in range(9):
        resume.count_start(paths, 0, limit=0)
    with pytest.raises(JobFailed):
        resume.count_start(paths, 0, limit=3)


def test_a_torn_record_counts_as_none(paths, tmp_path):
    (tmp_path / "restarts.json").write_text('{"step": 1')
    resume.count_start(paths, 1, limit=1)
