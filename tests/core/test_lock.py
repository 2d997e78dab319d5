"""Two jobs, one job_dir: the second is refused while the first lives, and only then."""

import signal
import subprocess
import sys

import pytest

from trainer.core.errors import StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.storage import lock

HOLDER = """
import sys, time
from trainer.core.job_dir import JobPaths
from trainer.core.storage import lock
with lock.hold(JobPaths(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start another process that holds tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_live_job_is_named_and_a_killed_one_leaves_the_folder_free(tmp_path, holder):
    with pytest.raises(StoppedEarly, match=f"process {holder.pid} "), lock.hold(JobPaths(str(tmp_path))):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.hold(JobPaths(str(tmp_path))):
        pass


def test_the_lock_can_be_taken_again_after_it_was_released(tmp_path):
    for _ in range(2):
        with lock.hold(JobPaths(str(tmp_path))):
            pass
