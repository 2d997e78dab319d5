"""The sub-commands ``up`` and ``down``: ask what is there, then make or delete the rest; each command is printed."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, JobFailed, RequestError
from trainer.submit.cloud import flags as cloud_flags
from trainer.submit.cloud import resources
from trainer.submit.cloud.flags import DownFlags, PlaceFlags, UpFlags
from trainer.submit.cloud.resources import Resource

UP_USAGE = """\
Make what runs need on Google Cloud: a GKE cluster, node pools, bucket, accounts, JobSet, and with --queue Kueue.

  python scripts/submit.py up --project=P --bucket=B [flags]

What is there already stays as it is, so a second call goes on where the first one failed. Node pools have no machine,
and cost nothing, until a run needs one; the cluster itself costs. Each command is printed."""

DOWN_USAGE = """\
Delete what up made: the cluster, the account, the image repository, and with --delete_bucket the bucket.

  python scripts/submit.py down --project=P --bucket=B [--delete_bucket] [--yes]

What somebody else made under the same names stays. Without --yes it only says what it would delete."""

_Flags = TypeVar("_Flags", UpFlags, DownFlags)
_PROBLEM = re.compile(r"error|unable to connect|refused|permission", re.IGNORECASE)  # Warnings are none.
_ABSENT = re.compile(
    r"not[ _]?found|\b404\b|does(n't| not) (exist|have a resource type)|no context exists", re.IGNORECASE
)


def up(argv: Sequence[str]) -> int:
    """Make what is not there."""
    own, wanted = _begin(argv, UpFlags, UP_USAGE, resources.of_up)
    if own.dry_run:
        print(script("up", argv, ((each.ask, each) for each in wanted), makes=True))
        return EXIT_DONE
    made = [each for each in wanted if not _is_there(each.ask) and _run(each.make, each, "up")]
    print(f"made {len(made)} of {len(wanted)}: {', '.join(each.name for each in made) or 'all was there'}")
    print(f"next: python scripts/submit.py doctor --platform={own.platform} --gpus={own.gpus}")
    return EXIT_DONE


def down(argv: Sequence[str]) -> int:
    """Delete what up made."""
    own, wanted = _begin(argv, DownFlags, DOWN_USAGE, resources.of_down)
    if own.dry_run:
        print(script("down", argv, ((each.ask_own, each) for each in wanted), makes=False))
        return EXIT_DONE
    if not own.yes:
        there = [each for each in wanted if _is_there(each.ask_own)]
        print("\n".join(f"would run: {line}" for each in there for line in each.delete))
        if there:
            raise RequestError("expected --yes, which deletes what is listed above, received none; add it")
    gone = [each for each in wanted if own.yes and _is_there(each.ask_own) and _run(each.delete, each, "down")]
    print(f"deleted {', '.join(each.name for each in gone) or 'nothing: nothing that up made was there'}")
    if not own.delete_bucket:
        print(f"kept gs://{own.bucket}; --delete_bucket deletes it")
    return EXIT_DONE


def _begin(
    argv: Sequence[str], form: type[_Flags], usage: str, resources_of: Callable[[_Flags], Iterable[Resource]]
) -> tuple[_Flags, list[Resource]]:
    """Return checked flags and the resources that they name; the project can be reached unless nothing shall run."""
    own = flags.parse_request(argv, form, usage=usage)
    cloud_flags.check(own)
    if not own.dry_run:
        _require_project(own)
    return own, list(resources_of(own))


def script(name: str, argv: Sequence[str], parts: Iterable[tuple[str, Resource]], *, makes: bool) -> str:
    """Return a shell script of resources, each with the question that decides whether its commands run."""
    words = shlex.join(word for word in argv if word not in ("--dry_run", "--dry-run"))
    lines = ["#!/bin/sh", f"# python scripts/submit.py {name} {words}", "set -eu"]
    for ask, each in parts:
        lines += ["", f"# {each.name}", f"there=$({{ {ask}; }} 2>/dev/null || true)"]
        lines.append(f'if [ {"-z" if makes else "-n"} "$there" ]; then')
        lines += [*(f"  {line}" for line in (each.make if makes else each.delete)), "fi"]
    return "\n".join(lines)


def _require_project(own: PlaceFlags) -> None:
    """Tell a project that cannot be reached from things in it that do not exist."""
    for name in ("gcloud", "kubectl"):
        if not shutil.which(name):
            raise RequestError(f"expected {name}, received none; install it, or see --dry_run")
    done = _quietly(shlex.join(["gcloud", "projects", "describe", own.project, "--format=value(projectId)"]))
    if done.returncode:
        raise JobFailed(f"gcloud cannot see project {own.project}: {_last_line(done.stderr)}; gcloud auth login")


def _is_there(command: str) -> bool:
    """Ask whether something is there.

    Raises:
        JobFailed: if that cannot be told.
    """
    print(f"? {command}", flush=True)
    done = _quietly(command)
    if done.returncode == 0 and done.stdout.strip():
        return True
    problem = done.stderr.strip()
    if done.returncode and _PROBLEM.search(problem) and not _ABSENT.search(problem):
        raise JobFailed(f"cannot tell whether it is there: {_last_line(problem)}; run the same command again")
    return False


def _run(commands: Iterable[str], resource: Resource, name: str) -> bool:
    """Print and run commands; their output is not hidden."""
    for command in commands:
        print(f"$ {command}", flush=True)
        if subprocess.run(command, shell=True, check=False).returncode:
            raise JobFailed(
                f"{resource.name}: the command above failed. Once its reason is removed, run the same {name} again: it "
                "goes on from here"
            )
    return True


def _quietly(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, shell=True, check=False, capture_output=True, text=True)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
