"""Submit a checked request: print the plan, claim the name, create the objects, follow; clean up if refused."""

import contextlib
import dataclasses
import getpass
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core.errors import EXIT_DONE, JobFailed, RequestError
from trainer.core.notify import send
from trainer.core.notify import targets as notify_targets
from trainer.core.notify.message import End
from trainer.submit import alternatives, environment, images, plan, request, states
from trainer.submit.image_build import builder
from trainer.submit.image_build import command as image_build
from trainer.submit.kube import failover, follow, preflight, render, runs
from trainer.submit.kube.api import KubeClient, Refused
from trainer.submit.kube.failover import Attempt
from trainer.submit.request import RunFlags


def submit(values: Mapping[str, Any], trainer_words: Sequence[str], client: KubeClient | None = None) -> int:
    """Check a request, print its plan, and submit it or do what --dry_run says; returns the exit code."""
    values, build = image_build.plan_of_run(values)
    own = RunFlags(**values)
    targets = notify_targets.parse(own.notify)
    table = plan.read_table(own.accelerators)
    every = alternatives.of(own, table, trainer_words)
    attempts = failover.attempts(every)
    if own.dry_run == "client":
        _say(alternatives.describe(every, table, own.train_images))
        print(render.to_yaml(attempts[0][1]))
        return EXIT_DONE
    note = images.require(own.data_dir)
    _say(alternatives.describe(every, table, own.train_images or images.count(own.data_dir)))
    client = client or KubeClient(own.namespace, own.context)
    notes = [note, *environment.warnings(every[0].request.env), *runs.require_free(client, own.job_dir)]
    notes += dict.fromkeys(
        line for each, objects in attempts for line in preflight.check(client, each.request, objects)
    )
    _say([f"note       {each}" for each in notes if each])
    if own.dry_run == "server":
        return _ask_server(client, attempts)
    if build:
        builder.ensure(build)
    if not _create_first_admitted(client, attempts):
        return _detach(client, own.name)
    return follow_or_detach(client, own.name, targets) if own.follow else EXIT_DONE


def _ask_server(client: KubeClient, attempts: Sequence[Attempt]) -> int:
    """Let the API server check what would be created."""
    for _, objects in attempts:
        for item in objects:
            client.create(item, dry_run=True)
        print(f"the API server accepts {', '.join(item['kind'] for item in objects)}; nothing was created")
    return EXIT_DONE


def _create_first_admitted(client: KubeClient, attempts: Sequence[Attempt]) -> bool:
    """Create a run on the first of its alternatives that gets its machines; the last one waits without limit.

    Returns:
        False after Ctrl-C, which leaves the alternative that waits.
    """
    for number, (each, objects) in enumerate(attempts):
        run, before = each.run, attempts[number - 1] if number else None
        if before:
            print(f"{run.name}: no machines ({plan.machines(before[0].run)}) in {run.failover_after:g} minutes; "
                  f"next: {plan.machines(run)}")  # fmt: skip
            failover.remove(client, before[1][0])
        _create(client, each.request, objects, is_replacement=bool(before))
        print(f"submitted {objects[0]['kind']} {run.name} in namespace {run.namespace}")
        try:
            if number == len(attempts) - 1 or failover.has_machines(client, each, run.failover_after * 60):
                break
        except KeyboardInterrupt:
            return False
    return True


def _say(lines: Sequence[str]) -> None:
    if lines:
        print("\n".join(lines), file=sys.stderr)


def _create(
    client: KubeClient, checked: request.Request, objects: Sequence[render.Object], *, is_replacement: bool = False
) -> None:
    """Create the record, then the run, then what the run owns; delete all if the cluster refuses a part.

    Args:
        client: of the cluster.
        checked: the run.
        objects: its objects, the one that owns the others first.
        is_replacement: whether the run had the name before, on other machines.

    Raises:
        RequestError: if the name is taken.
    """
    name = checked.run.name
    if is_replacement:
        client.patch("ConfigMap", runs.record_name(name), {"data": _record(checked)})
    else:
        _claim(client, checked)
    created: list[tuple[str, str]] = [("ConfigMap", runs.record_name(name))]
    try:
        owner: dict[str, Any] = {}
        for item in objects:
            if owner:  # So that the cluster deletes it with the run.
                item["metadata"]["ownerReferences"] = [owner]
            response = failover.create_again(client, item) if owner and is_replacement else client.create(item)
            created.append((item["kind"], name))
            owner = owner or {"apiVersion": item["apiVersion"], "kind": item["kind"], "name": name,
                              "uid": response["metadata"]["uid"]}  # fmt: skip
    except BaseException as error:
        for kind, created_name in reversed(created):
            client.delete(kind, created_name)
        if isinstance(error, Refused) and error.code == 409:
            raise _taken(name) from error
        if isinstance(error, Refused) and error.code == 404:
            raise RequestError(
                f"expected a cluster with namespace {client.namespace} and {objects[0]['kind']} "
                f"({objects[0]['apiVersion']}), received: {error}; see docs/kubernetes.md"
            ) from error
        raise


def _claim(client: KubeClient, checked: request.Request) -> None:
    """Create the run's record, which says who has the name and how to resume it."""
    record = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": runs.record_name(checked.run.name),
            "namespace": checked.run.namespace,
            "labels": {"app.kubernetes.io/name": "deepdetect-run", render.INSTANCE: checked.run.name},
            "annotations": {runs.OWNER: _owner(client)},
        },
        "data": _record(checked),
    }
    try:
        client.create(record)
    except Refused as error:
        if error.code == 409:
            raise _taken(checked.run.name) from error
        if error.code == 404:
            raise RequestError(
                f"expected the namespace {client.namespace}, received: {error}; kubectl apply -k "
                f"k8s/overlays/{checked.run.platform} makes it"
            ) from error
        raise


def _record(checked: request.Request) -> dict[str, str]:
    """Return the data of a run's record."""
    own = dataclasses.asdict(checked.run)
    for name in ("dry_run", "follow", "context", "notify"):  # Of this call, not of the run.
        del own[name]
    default = RunFlags()
    changed = {name: value for name, value in own.items() if value != getattr(default, name)}
    return {"request.json": json.dumps({"run": changed, "trainer": checked.trainer_words}, indent=1)}


def _owner(client: KubeClient) -> str:
    """Return who submits: by the API server's name for them, or else this machine's."""
    try:
        return client.user()
    except (Refused, JobFailed):
        return getpass.getuser()


def _taken(name: str) -> RequestError:
    return RequestError(
        f"--name: expected a new name, received {name!r} of an existing run; give another, or continue that "
        f"one: resume {name}"
    )


def follow_or_detach(client: KubeClient, name: str, targets: Sequence[str] = ()) -> int:
    """Follow a run until it ends, which the targets are told, or until Ctrl-C, which leaves it running."""
    try:
        code = follow.follow(client, name)
    except KeyboardInterrupt:
        return _detach(client, name)
    end = End(name, states.GONE, code, job_dir="")
    with contextlib.suppress(RequestError, JobFailed):
        run = runs.find(client, name)
        end = End(name, run.state, code, run.job_dir, run.detail)
    send.tell(targets, end)
    return code


def _detach(client: KubeClient, name: str) -> int:
    """Say how to come back to a run."""
    where = "" if client.namespace == RunFlags.namespace else f" --namespace={client.namespace}"
    print(
        f"\ndetached; {name} continues. Follow it again: python scripts/submit.py logs {name} -f{where}; "
        f"end it: python scripts/submit.py cancel {name}{where}",
        file=sys.stderr,
    )
    return EXIT_DONE


def next_name(client: KubeClient, name: str) -> str:
    """Return the first unused name of NAME-r2, NAME-r3 ..."""
    stem = re.sub(r"-r\d+$", "", name)
    used = runs.find_all(client).names
    return next(new for number in range(2, 10_000) if (new := f"{stem}-r{number}") not in used)
