"""The batch script of a run: what Slurm is asked for, and what becomes of the trainer's exit code.

0 ends the run; 75 and 76 put it into the queue again; 1, 2 and everything else fail it.  Slurm's own ends (scancel,
preemption, ``scontrol requeue``) are left to Slurm.
"""

import math
import os
import shlex
import sys
from collections.abc import Iterator

from trainer.core import installed
from trainer.core.errors import EXIT_FAILED, EXIT_LOST_PEER, EXIT_REQUEST, EXIT_STOPPED
from trainer.distributed import gpu_promise
from trainer.submit.request import DEFAULT_PRIORITY, Request, RunFlags

_GRACE = 120  # Seconds between SIGTERM and the end of the time.
# Ports of the processes of one run, by the job's number, so that two runs can share a machine.
_PORTS = (
    "DEEPDETECT_PORT=$((20000 + SLURM_JOB_ID % 1000 * 8)) DEEPDETECT_PEER_PORT=$((20007 + SLURM_JOB_ID % 1000 * 8))"
)

_BODY = f"""\
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
job=${{job:-$SLURM_JOB_ID}}
end="@LOGS@/$SLURM_JOB_NAME-$job.end"
finish() {{ echo "$1" > "$end"; echo "exit code $1: the run has ended"; @OTHERS@exit "$1"; }}
rm -f "$end"
trap : TERM  # Slurm sends it to the trainer as well, which saves and ends first.
@SETUP@
# srun returns the highest code of its tasks: what no restart can help must rank above a lost peer.
task='trap : TERM; "$@"; code=$?; case $code in {EXIT_FAILED}|{EXIT_REQUEST}) exit $((100 + code));; esac; exit $code'
@SRUN@
code=$?
case $code in 10{EXIT_FAILED}|10{EXIT_REQUEST}) code=$((code - 100));; esac
case $code in {EXIT_STOPPED}|{EXIT_LOST_PEER})
  # Not while Slurm ends or requeues the job itself: that would undo scancel.
  scontrol show job "$job" | grep -q JobState=RUNNING || exit $code
  echo "exit code $code, everything is saved: the run waits in the queue again"
  scontrol requeue "$job" && {{ sleep 60; exit $code; }}
esac
finish $code
"""


def render(request: Request, log_dir: str) -> str:
    """Return the batch script."""
    run = request.run
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in _options(run, log_dir))]
    if run.sbatch:
        lines.append(f"#SBATCH {run.sbatch}")
    body = _BODY.replace("@LOGS@", log_dir).replace("@SETUP@", "\n".join(_setup(request)))
    body = body.replace("@SRUN@", _srun(request, log_dir)).replace("@OTHERS@", _end_others(run))
    return "\n".join([*lines, f"# Run {run.name} of deepdetect; docs/slurm.md explains its exit codes.", body])


def _options(run: RunFlags, log_dir: str) -> Iterator[str]:
    yield f"--job-name={run.name}"
    yield f"--nodes={run.workers}"
    yield "--ntasks-per-node=1"
    yield f"--gres=gpu:{run.gpus}"
    if run.sweep_workers:
        yield f"--array=0-{run.sweep_workers - 1}"
    if run.cpus:
        yield f"--cpus-per-task={math.ceil(run.cpus)}"
    if run.memory:
        yield f"--mem={run.memory.removesuffix('i')}"  # Slurm's G is Kubernetes' Gi.
    if run.queue:
        yield f"--partition={run.queue}"
    if run.priority not in ("", DEFAULT_PRIORITY):
        yield f"--qos={run.priority}"
    if run.max_hours:
        yield f"--time={max(round(run.max_hours * 60), 1)}"
    yield "--requeue"
    yield f"--signal=TERM@{_GRACE}"
    yield "--open-mode=append"
    yield f"--output={log_dir}/%x-{'%A_%a' if run.sweep_workers else '%j'}.log"
    yield f"--chdir={os.getcwd()}"


def _setup(request: Request) -> Iterator[str]:
    """Yield the lines that prepare the environment; the user's own come last."""
    run = request.run
    if not run.python and not run.container and installed.CHECKOUT.joinpath("setup.py").is_file():
        yield f"export PYTHONPATH={shlex.quote(str(installed.CHECKOUT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    yield f"export {_PORTS}"
    for name, value in {gpu_promise.VARIABLE: str(run.gpus), **request.env}.items():
        yield f"export {name}={shlex.quote(value)}"
    if run.setup:
        yield f"{{ {run.setup}\n}} || finish {EXIT_FAILED}"


def _srun(request: Request, log_dir: str) -> str:
    """Return the command that starts the trainer on each machine."""
    run = request.run
    words = ["srun", "--kill-on-bad-exit=0", "--wait=0"]
    if run.workers > 1:
        words.append("--label")
    if run.cpus:  # srun does not take it from the job.
        words.append(f"--cpus-per-task={math.ceil(run.cpus)}")
    python = [run.python or ("python" if run.container else sys.executable)]
    if run.container.endswith(".sif"):
        python = ["apptainer", "exec", "--nv", run.container, *python]
    elif run.container:
        folders = {path for path in (run.data_dir, run.job_dir, log_dir) if "://" not in path}
        words += [f"--container-image={run.container}",
                  f"--container-mounts={','.join(f'{path}:{path}' for path in sorted(folders))}"]  # fmt: skip
    module = ["trainer.train"]
    if run.sweep_workers:
        module = ["trainer.submit.slurm.sweep_task"]
    trainer = [*python, "-m", *module, *([log_dir] if run.sweep_workers else []), f"--data_dir={run.data_dir}",
               f"--job_dir={run.job_dir}", *request.trainer_words]  # fmt: skip
    return f'{shlex.join(words)} bash -c "$task" task {shlex.join(trainer)}'


def _end_others(run: RunFlags) -> str:
    """Return what ends the other tasks of a sweep with its first one, which holds the chief."""
    if run.sweep_workers < 2:
        return ""
    return f'[ $SLURM_ARRAY_TASK_ID = 0 ] && scancel --quiet "${{SLURM_ARRAY_JOB_ID}}_[1-{run.sweep_workers - 1}]"; '
