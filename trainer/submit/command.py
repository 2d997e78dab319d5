"""The sub-commands of ``python -m trainer.submit``: their flags, and the order of checks and actions."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.core.config import PATH, did_you_mean, flags, setting
from trainer.core.errors import EXIT_DONE, JobFailed, RequestError
from trainer.core.notify import targets as notify_targets
from trainer.core.progress import phase
from trainer.core.starts import mirror, record
from trainer.submit import alternatives, dashboard, listing, request, spent, states, volumes
from trainer.submit.cloud import command as cloud
from trainer.submit.doctor import command as doctor
from trainer.submit.image_build import command as image_build
from trainer.submit.kube import events, follow, launch, pods, render, runs
from trainer.submit.kube.api import KubeClient, Refused
from trainer.submit.platforms import SLURM
from trainer.submit.request import ClusterFlags, RunFlags
from trainer.submit.slurm import commands as slurm

USAGE = """\
Run training jobs on the GPUs of a Kubernetes cluster, or with --platform=slurm of a Slurm cluster.

  python scripts/submit.py run --name=N --image=I --data_dir=gs://.. --job_dir=gs://.. [flags] -- [trainer flags]
  python scripts/submit.py list [-o=wide|json]
  python scripts/submit.py status NAME
  python scripts/submit.py logs NAME [-f]
  python scripts/submit.py cancel NAME [--forget]
  python scripts/submit.py resume NAME [flags] -- [trainer flags]
  python scripts/submit.py tensorboard NAME [--port=6006]
  python scripts/submit.py build --repository=REGISTRY/NAME [--dry_run]
  python scripts/submit.py up|down --project=P --bucket=B [--dry_run]
  python scripts/submit.py doctor [--pods --image=I]

"python scripts/submit.py COMMAND --help" explains a command.

Exit codes: 0 done; 2 the request is wrong, or the cluster refuses it; 1 anything else."""

RUN_USAGE = """\
Check a run, print its plan, submit it and show its log.  Ctrl-C leaves it running.

  python scripts/submit.py run --name=N --image=I --data_dir=gs://.. --job_dir=gs://.. [flags] -- [trainer flags]

The trainer's flags (python -m trainer.train --help) are checked here, before anything waits in a queue."""

RESUME_USAGE = """\
Continue a run that ended, was cancelled or failed: the same job_dir under a new name.

  python scripts/submit.py resume NAME [flags] -- [trainer flags]

Every flag of run can be changed (--gpus=4 --nospot --name=N); trainer flags come after the old ones."""

_START_OVER = "--resume=never"
_EVENTS = 10  # Newest ones that status shows.


_PRICES = "YAML file of GPUs and prices, as for run."


@dataclasses.dataclass(frozen=True)
class ListFlags(ClusterFlags):
    """Settings of list."""

    o: str = setting(
        "table", "wide: also GPU-hours and cost so far, owner, image and reason. json: all, for programs.",
        choices=listing.FORMS,
    )  # fmt: skip
    accelerators: str = setting("", _PRICES, path=PATH)


@dataclasses.dataclass(frozen=True)
class StatusFlags(ClusterFlags):
    """Settings of status."""

    accelerators: str = setting("", _PRICES, path=PATH)
    dashboard: str = setting("", "Link to show, as for run; empty: the run's own.")


@dataclasses.dataclass(frozen=True)
class LogFlags(ClusterFlags):
    """Settings of logs."""

    f: bool = setting(False, "Follow the log until the run ends; Ctrl-C leaves it running.")
    notify: str = setting("", "With -f: tell the run's end, as for run.")


@dataclasses.dataclass(frozen=True)
class CancelFlags(ClusterFlags):
    """Settings of cancel."""

    forget: bool = setting(False, "Also remove the run's record: it leaves the list, and cannot be resumed.")


@dataclasses.dataclass(frozen=True)
class TensorBoardFlags(ClusterFlags):
    """Settings of tensorboard."""

    port: int = setting(6006, "Port on this machine.", minimum=1, maximum=65535)


def main(argv: Sequence[str]) -> int:
    """Run the sub-command that the first word names; returns the exit code.

    Raises:
        RequestError: if there is no such command, or the request to it is wrong.
    """
    name, words = (argv[0], argv[1:]) if argv else ("", [])
    if name in ("--help", "-h", "-help", "help"):
        raise flags.HelpRequested(USAGE)
    if name not in COMMANDS:
        raise RequestError(
            f"expected one of the commands {', '.join(COMMANDS)}, received {name or 'none'}"
            f"{did_you_mean(name, COMMANDS)}; see --help"
        )
    return COMMANDS[name](words)


def run(argv: Sequence[str]) -> int:
    """Check a run, print its plan, submit it and follow its log."""
    own, trainer_words = request.split_words(argv)
    values, rest = flags.parse(own, flags.fields_of(RunFlags), usage=RUN_USAGE,
                               required=("name", "image", *flags.PLACES))  # fmt: skip
    if rest:
        raise RequestError(f"expected only flags before --, received {rest[0]!r}; write --flag=value")
    if values.get("platform") == SLURM:
        return slurm.run(values, trainer_words)
    return launch.submit(values, trainer_words)


def resume(argv: Sequence[str]) -> int:
    """Submit a run again from its record, with changes."""
    own, trainer_words = request.split_words(argv)
    values, rest = flags.parse(own, flags.fields_of(RunFlags), usage=RESUME_USAGE)
    name = _one_name(rest)
    if values.get("platform") == SLURM:
        return slurm.resume(name, values, trainer_words)
    client = KubeClient(str(values.get("namespace", RunFlags.namespace)), str(values.get("context", "")))
    record = client.get("ConfigMap", runs.record_name(name))
    before = runs.read_record(record) if record else {}
    if not before:
        raise RequestError(
            f"expected a run that submit.py made in namespace {client.namespace}, found no record of {name!r}; see "
            "list, or use run with its --job_dir"
        )
    words = [word for word in before["trainer"] if word != _START_OVER]  # Which the run has done by now.
    values = alternatives.changed(before["run"], {"name": launch.next_name(client, name), **values})
    return launch.submit(values, [*words, *trainer_words], client)


def list_runs(argv: Sequence[str]) -> int:
    """Print all runs of the namespace."""
    own = ListFlags(**_list_values(argv))
    if own.platform == SLURM:
        return slurm.list_runs(own.o)
    client = _client(own)
    with phase("asking the Kubernetes API server"):
        all_runs = runs.find_all(client)
    _note(all_runs.notes)
    for run in all_runs.items:
        if run.state == states.FAILED and not run.is_noted:
            runs.note_end(client, runs.explained(client, run), run.state)
    if all_runs.items or own.o == "json":
        prices = None if own.o == "table" else spent.prices(own.accelerators)
        print(listing.show(all_runs.items, listing.read(all_runs.items), own.o, prices))
    else:
        print(f"no runs in namespace {client.namespace}")
    return EXIT_DONE


def _list_values(argv: Sequence[str]) -> dict[str, Any]:
    """Return the flags of list; -o takes its value with = or as the next word."""
    words = " ".join("--o" if word == "-o" else word.replace("-o=", "--o=", 1) if word.startswith("-o=") else word
                     for word in argv).replace("--o ", "--o=").split()  # fmt: skip
    values, rest = flags.parse(words, flags.fields_of(ListFlags), usage="List the runs of a namespace.")
    if rest:
        raise RequestError(f"expected only flags, received {rest[0]!r}")
    return dict(values)


def status(argv: Sequence[str]) -> int:
    """Print one run: its state, its pods and why they wait, its progress, and what the cluster reports."""
    name, own = _name_and_flags(
        argv, StatusFlags, "Show one run: its state, its pods and why they wait.\n\n  status NAME"
    )
    if own.platform == SLURM:
        return slurm.status(name)
    client = _client(own)
    with phase("asking the Kubernetes API server"):
        run = runs.find(client, name)
    if run.state == states.FAILED:
        runs.note_end(client, run, run.state)
    (progress,) = listing.read([run])
    print(listing.show([run], [progress]))
    if run.detail:
        print(run.detail)
    if progress.problem:
        print(f"progress unknown: {progress.problem}")
    for line in [] if progress.problem else record.lines(run.job_dir):
        print(line)
    own_pods = pods.of_run(client, name)
    used = spent.so_far(run, progress, spent.prices(own.accelerators), pods.gpu_hours(own_pods, spent.now()))
    print(spent.line(used))
    template = own.dashboard or _recorded(client, name).get("dashboard", "")
    if shown := dashboard.link(template, {"namespace": own.namespace, "name": name, "job_dir": run.job_dir}):
        print(f"dashboard: {shown}")
    for line in pods.describe(own_pods):
        print(line)
    reported = events.of_run(client, run, own_pods)
    for event in reported.items[:_EVENTS]:
        print(events.line(event))
    _note(reported.notes)
    return EXIT_DONE


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def logs(argv: Sequence[str]) -> int:
    """Print the log of all pods of a run."""
    words = ["--f" if word in ("-f", "--follow") else word for word in argv]
    name, own = _name_and_flags(words, LogFlags, "Print the log of all pods of a run.\n\n  logs NAME [-f]")
    if own.platform == SLURM:
        return slurm.logs(name, follow=own.f)
    targets = notify_targets.parse(own.notify)
    client = _client(own)
    named_run = runs.find(client, name)
    if own.f:
        return launch.follow_or_detach(client, name, targets)
    if pods.of_run(client, name):
        follow.show(client, name)
    else:  # They are gone; the copies in job_dir are not.
        for line in mirror.lines(named_run.job_dir):
            follow.to_terminal(line)
    return EXIT_DONE


def cancel(argv: Sequence[str]) -> int:
    """Delete a run's Job or JobSet: its pods get SIGTERM, save and exit."""
    usage = (
        "End a run; its pods save first. The record stays, so that the run can be resumed.\n\n  cancel NAME [--forget]"
    )
    name, own = _name_and_flags(argv, CancelFlags, usage)
    if own.platform == SLURM:
        return slurm.cancel(name, forget=own.forget)
    client = _client(own)
    named_run = runs.find(client, name)
    if named_run.kind:
        runs.note_end(client, named_run, states.CANCELLED if named_run.is_live else named_run.state)
        client.delete(named_run.kind, name)
    if own.forget:
        client.delete("ConfigMap", runs.record_name(name))
    print(f"{name}: cancelled" + ("; its pods save and end" if named_run.is_live else ""))
    if not own.forget and client.get("ConfigMap", runs.record_name(name)):
        print(f"to continue it: python scripts/submit.py resume {name}{_where(own)}")
    return EXIT_DONE


def tensorboard(argv: Sequence[str]) -> int:
    """Start a TensorBoard in the cluster, and forward a port of this machine to it."""
    usage = "Show a run's TensorBoard at http://localhost:PORT until Ctrl-C.\n\n  tensorboard NAME [--port=6006]"
    name, own = _name_and_flags(argv, TensorBoardFlags, usage)
    if own.platform == SLURM:
        return slurm.tensorboard(name)
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise RequestError("expected kubectl, which forwards the port, received none; install it")
    client = _client(own)
    named_run = runs.find(client, name)
    mounted = volumes.parse(_recorded(client, name).get("volume", ""))
    objects = render.tensorboard_objects(own.platform, own.namespace, name, named_run.image, named_run.job_dir, mounted)
    for item in objects:
        try:
            client.create(item)
        except Refused as error:
            if error.code != 409:  # 409: one is running already.
                raise
    target = f"deployment/{name}-tensorboard"
    words = [kubectl, f"--namespace={own.namespace}", *([f"--context={own.context}"] if own.context else [])]
    try:
        for step in (["rollout", "status", target, "--timeout=10m"], ["port-forward", target, f"{own.port}:6006"]):
            if subprocess.run([*words, *step], check=False).returncode:
                raise JobFailed(f"kubectl {' '.join(step)} failed; its message is above")
    except KeyboardInterrupt:
        pass
    finally:
        client.delete("Deployment", f"{name}-tensorboard")
    return EXIT_DONE


def _recorded(client: KubeClient, name: str) -> dict[str, Any]:
    """Return the flags that a run was submitted with, as far as its record has them."""
    record = client.get("ConfigMap", runs.record_name(name))
    return dict(runs.read_record(record).get("run", {})) if record else {}


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "run": run,
    "list": list_runs,
    "status": status,
    "logs": logs,
    "cancel": cancel,
    "resume": resume,
    "tensorboard": tensorboard,
    "doctor": doctor.main,
    "build": image_build.main,
    "up": cloud.up,
    "down": cloud.down,
}


def _client(own: ClusterFlags) -> KubeClient:
    return KubeClient(own.namespace, own.context)


def _where(own: ClusterFlags) -> str:
    return "" if own.namespace == ClusterFlags.namespace else f" --namespace={own.namespace}"


def _name_and_flags(argv: Sequence[str], kind: type, usage: str) -> tuple[str, Any]:
    values, rest = flags.parse(argv, flags.fields_of(kind), usage=usage)
    return _one_name(rest), kind(**values)


def _one_name(rest: Sequence[str]) -> str:
    if len(rest) != 1:
        raise RequestError(f"expected the name of one run, received {' '.join(rest) or 'none'}; see list")
    request.check_name(rest[0])
    return rest[0]
