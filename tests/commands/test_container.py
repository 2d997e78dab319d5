"""What the manifest runs, run here: its command, arguments, environment, user and read-only root, as a plain process.

The container is made of unshare, bind mounts and chroot.  Replaced are the two bucket paths, by mounted folders, and
the image's own paths of Python and the code, by those of this environment.
"""

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.images import write_image_set
from tests.helpers.k8s_schemas import pod_templates

ROOT = Path(__file__).resolve().parents[2]

# As root of a new user namespace: a copy of the root file system, read-only, with the mounts of the pod; then, without
# any right, the user of the manifest.
_ENTER = """
set -e
new=$1; code=$2; data=$3; jobs=$4; user=$5; group=$6; shift 6
mount --rbind / "$new"
mount -t tmpfs -o size=2g,mode=1777 tmpfs "$new/tmp"
mkdir "$new/tmp/code" "$new/tmp/data" "$new/tmp/jobs"
mount --bind "$code" "$new/tmp/code" && mount -o remount,bind,ro "$new/tmp/code"
mount --bind "$data" "$new/tmp/data" && mount -o remount,bind,ro "$new/tmp/data"
mount --bind "$jobs" "$new/tmp/jobs"
mount -o remount,bind,ro "$new"
cd /
exec unshare --root="$new" --wd=/tmp --map-user="$user" --map-group="$group" -- setpriv --no-new-privs "$@"
"""


@functools.cache
def why_not():
    """Return why there can be no sandbox here; empty if there can."""
    for tool in ("unshare", "setpriv", "kubectl"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    if Path(sys.prefix).is_relative_to("/tmp"):
        return "this Python lies below /tmp, which the pod's volume covers"
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True, text=True)
    return done.stderr.strip()


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=f"no sandbox here: {why_not()}")]


def image_environment():
    """Return what the Dockerfile's last stages, the base and the code on it, set."""
    stage = "\n".join((ROOT / "Dockerfile").read_text().split("\nFROM ")[-2:]).replace("\\\n", " ")
    words = shlex.split(" ".join(re.findall(r"^ENV (.*)$", stage, re.M)))
    return dict(word.split("=", 1) for word in words)


@pytest.fixture(scope="module")
def container():
    """Return the pod and its container as ``submit.py run --dry_run`` prints them."""
    words = ["run", "--name=sandbox", "--image=deepdetect:1", "--data_dir=gs://bucket/data",
             "--job_dir=gs://bucket/jobs/one", "--env=DEEPDETECT_GPUS=0", "--dry_run", "--",
             "--image_size=64", "--batch_size=20", "--epochs=3",
             "--precision=float32", "--export=none", "--checkpoint_every_steps=5"]  # fmt: skip
    done = subprocess.run([sys.executable, "scripts/submit.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pod = pod_templates(next(yaml.safe_load_all(done.stdout)))[0]["spec"]
    return pod, pod["containers"][0]


class Sandbox:
    """Starts the container's process, with a folder for data and one for jobs."""

    def __init__(self, folder, data, container):
        self.folder, self.data = folder, data
        self.pod, self.container = container
        self.jobs = folder / "jobs"
        self.jobs.mkdir()
        (folder / "root").mkdir()

    def words(self, *more):
        places = {"gs://bucket/data": "/tmp/data", "gs://bucket/jobs": "/tmp/jobs"}
        args = self.container["args"]
        for bucket, place in places.items():
            args = [word.replace(bucket, place) for word in args]
        return [*self.container["command"], *args, *more]

    def start(self, words, user=()):
        context = self.pod["securityContext"]
        assert words[0] == "python"
        environment = image_environment()
        assert "/opt/deepdetect/bin" in environment["PATH"].split(":")
        environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": "/tmp/code"}
        environment |= {entry["name"]: entry["value"] for entry in self.container["env"]}
        enter = ["unshare", "-rm", "sh", "-c", _ENTER, "enter", self.folder / "root", ROOT, self.data, self.jobs,
                 *(user or (context["runAsUser"], context["runAsGroup"])), *words]  # fmt: skip
        return subprocess.Popen([str(word) for word in enter], env=environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip

    def run(self, words, user=()):
        process = self.start(words, user)
        out, _ = process.communicate(timeout=300)
        return process.returncode, out


@pytest.fixture
def sandbox(tmp_path, container):
    data = write_image_set(tmp_path / "data", train=100, validation=20, test=0)
    return Sandbox(tmp_path, data, container)


def test_the_root_is_read_only_and_the_user_has_no_rights(sandbox):
    code = (
        "import os, errno, json\n"
        "def refused(path):\n"
        "    try:\n        open(path, 'w')\n    except OSError as error:\n        return errno.errorcode[error.errno]\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines() if ':' in line)\n"
        "print(json.dumps([os.getuid(), os.getgid(), refused('/etc/x'), refused('/tmp/code/x'), refused('/tmp/x'),\n"
        "    status['CapEff'].strip(), status['NoNewPrivs'].strip(), os.environ['HOME']]))"
    )
    status, out = sandbox.run(["python", "-c", code])
    assert status == 0, out
    assert json.loads(out) == [10001, 10001, "EROFS", "EROFS", None, "0000000000000000", "1", "/tmp"]


def test_a_user_without_a_name_has_one_and_a_home(sandbox):
    """As with ``docker run --user``."""
    code = (
        "import getpass, os, pathlib, pwd\n"
        "try:\n    pwd.getpwuid(os.getuid())\nexcept KeyError:\n    print(os.getuid(), 'is unknown')\n"
        "print(getpass.getuser(), pathlib.Path.home(), os.path.expanduser('~'))\n"
        "import trainer.train"
    )
    status, out = sandbox.run(["python", "-c", code], user=(54321, 54321))
    assert (status, out) == (0, "54321 is unknown\ndeepdetect /tmp /tmp\n")


def test_a_wrong_flag_exits_2(sandbox):
    status, out = sandbox.run(sandbox.words("--epochz=3"))
    assert status == 2, out
    assert "did you mean 'epochs'?" in out


def test_sigterm_saves_and_exits_75_and_the_next_pod_goes_on(sandbox):
    process = sandbox.start(sandbox.words("--epochs=100"))
    metrics = sandbox.jobs / "one" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and '"checkpoint"' in metrics.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=sandbox.pod["terminationGracePeriodSeconds"])
    assert process.returncode == 75, out
    done = max(json.loads(text)["step"] for text in metrics.read_text().splitlines())
    status, out = sandbox.run(sandbox.words(f"--epochs={done // 10 + 1}"))
    assert status == 0, out
    starts = [entry["step"] for entry in map(json.loads, metrics.read_text().splitlines()) if entry["kind"] == "start"]
    assert starts == [0, done]
    assert (sandbox.jobs / "one" / "result.json").exists()
    assert sandbox.run(sandbox.words("--selftest"))[0] == 2  # The self-test takes none of the trainer's flags,
    status, out = sandbox.run([*sandbox.container["command"], "--selftest", "--job_dir=/tmp/jobs/one"])
    assert status == 0, out  # but runs in the same container.
