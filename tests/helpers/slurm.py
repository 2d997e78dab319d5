"""Slurm's real daemons on this machine: munge, a controller, and one node with four CPUs and four pretended GPUs."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
_SECONDS = 30.0
NODE = "localhost"  # A name that resolves, as the workers of a run find each other by it.

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its old credential has expired: two minutes, unless this says less (5 s at the least).
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=60
GresTypes=gpu
PropagateResourceLimits=NONE
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=4 Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""


def require_installed() -> None:
    """Skip a test where the daemons cannot run."""
    absent = [name for name in _PROGRAMS if not shutil.which(name)]
    if absent:
        pytest.skip(f"Slurm is not installed ({', '.join(absent)}); scripts/install_programs.sh installs it")
    if os.geteuid():
        pytest.skip("Slurm's daemons need root here")


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Run the daemons; SLURM_CONF must name ``folder/slurm.conf``.  Their logs lie in the folder."""
    _write(folder)
    with contextlib.ExitStack() as stack:
        for words in (
            ["munged", "--foreground", "--force", "--num-threads=1", *_munge_files(folder)],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", NODE],
        ):
            stack.enter_context(_daemon(words, folder))
            if words[0] == "munged":
                _wait_for("munge's socket", lambda: (folder / "munge.socket").exists())
        _wait_for("an idle node", lambda: call("sinfo", "--noheader", "--format=%T").strip() == "idle", folder)
        try:
            yield
        finally:
            subprocess.run(["scancel", "--user", getpass.getuser()], check=False)
            subprocess.run(["scancel", "--signal=KILL", "--full", "--user", getpass.getuser()], check=False)
            with contextlib.suppress(TimeoutError):
                _wait_for("an empty cluster", lambda: "R" not in call("squeue", "--noheader", "--format=%t"))


def call(*words: str) -> str:
    """Return what one of Slurm's commands prints."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def _write(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o600)
    for number in range(4):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName={NODE} Name=gpu File={folder}/gpu[0-3]\n")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        controller, node_port = (each.getsockname()[1] for each in sockets)
    config = _CONFIG.format(folder=folder, host=socket.gethostname(), user=getpass.getuser(), node=NODE,
                            controller=controller, node_port=node_port)  # fmt: skip
    (folder / "slurm.conf").write_text(config)


def _munge_files(folder: Path) -> list[str]:
    names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log",
             "seed-file": "munge.seed"}  # fmt: skip
    return [f"--{option}={folder / name}" for option, name in names.items()]


@contextlib.contextmanager
def _daemon(words: list[str], folder: Path) -> Iterator[None]:
    with (folder / f"{words[0]}.output").open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(what: str, is_there: Callable[[], bool], folder: Path | None = None) -> None:
    end = time.monotonic() + _SECONDS
    while not is_there():
        if time.monotonic() > end:
            logs = [path.read_text()[-2000:] for path in sorted(folder.glob("slurm*.log"))] if folder else []
            raise TimeoutError("\n".join([f"no {what} after {_SECONDS:g} s", *logs]))
        time.sleep(0.05)
