"""Two real workers on one machine whose environment names a proxy that answers nothing."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_meeting import free_ports
from tests.helpers.jobs import SMALL, result_of

ROOT = Path(__file__).resolve().parents[2]
HOST = "[::1]" if socket.has_dualstack_ipv6() else "127.0.0.1"
WITHOUT_REMEDY = "from trainer.core import proxies; proxies.go_past = lambda hosts: None; "
RUN = "import sys; from trainer import train; from trainer.core import cli; sys.exit(cli.run_command(train.main))"

pytestmark = pytest.mark.slow


def train(data_dir, job_dir, code, **changes):
    """Train with two workers behind a silent proxy; return exit codes and what they wrote to stderr."""
    *ports, peer_port = free_ports(3)
    hosts = [f"{HOST}:{port}" for port in ports]
    values = {"data_dir": data_dir, "job_dir": job_dir, **SMALL, "epochs": 1, "steps_per_epoch": 2, **changes}
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy", "all_proxy")
        processes = []
        for index in range(2):
            task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
            environment = {
                **os.environ, **dict.fromkeys(names, address), "NO_PROXY": "elsewhere", "no_grpc_proxy": "elsewhere",
                "TF_CONFIG": json.dumps(task), "DEEPDETECT_PEER_PORT": str(peer_port),
            }  # fmt: skip
            words = [f"--{name}={value}" for name, value in values.items()]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", code, *words],
                    cwd=ROOT,
                    env=environment,
                    text=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            )
        errors = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], errors


def test_workers_go_past_it(image_set, tmp_path):
    codes, errors = train(image_set, tmp_path / "job", RUN)
    assert codes == [0, 0], errors
    assert result_of(tmp_path / "job")["step"] == 2


@pytest.mark.thorough
def test_without_a_way_to_each_other_they_end_in_time(image_set, tmp_path):
    codes, errors = train(image_set, tmp_path / "job", WITHOUT_REMEDY + RUN, startup_timeout_seconds=10)
    assert codes == [75, 75], errors
    assert any(f"TensorFlow's servers ({HOST}:" in error for error in errors)
    assert any("did not connect to each other within 10 s (--startup_timeout_seconds)" in error for error in errors)
