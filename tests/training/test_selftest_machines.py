"""Processes that look for each other before a job does: two that meet, and one whose peer never comes."""

import sys
from pathlib import Path

import pytest

from tests.helpers.children import Child
from trainer.submit.doctor import results

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import local_cluster


def start(environment, *words):
    return Child("trainer.train", ["--selftest", *words], environment)


@pytest.mark.slow
def test_two_processes_meet_and_add_up_and_a_lost_one_is_named(tmp_path):
    pair = [start(environment, "--cluster_seconds=60", f"--job_dir={tmp_path}")
            for environment in local_cluster.environments(2)]  # fmt: skip
    nobody = {"DEEPDETECT_NUM_WORKERS": "2", "DEEPDETECT_WORKER_HOSTS": "localhost,absent.invalid",
              "DEEPDETECT_PORT": "1", "JOB_COMPLETION_INDEX": "0"}  # fmt: skip
    lost = [start(local_cluster.environments(2)[0], "--cluster_seconds=1"), start(nobody, "--cluster_seconds=1")]
    tables = []
    for process, code in ((pair[0], 0), (pair[1], 0), (lost[0], 1), (lost[1], 1)):
        assert process.wait(120) == code, process.communicate()
        tables.append(results.parse(process.communicate()[0].splitlines()))  # As the doctor reads a pod's log.
    for seen in tables[:2]:
        assert {finding.state for finding in seen.values()} == {"ok"}
        assert {"names", "peers", "machines", "job_dir", "data_dir"} == set(seen)
        assert seen["machines"].text.startswith("correct over 2 machines, ")
    assert [tables[2][name].state for name in ("names", "peers", "machines")] == ["ok", "missing", "missing"]
    assert "no address for absent.invalid" in tables[3]["names"].text
