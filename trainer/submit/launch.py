"""From a checked request to a run in the cluster: plan, claim the name, create, follow; undo what was refused."""

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core.errors import EXIT_DONE, RequestError
from trainer.submit import follow, plan, render, request, runs
from trainer.submit.api import KubeClient, Refused
from trainer.submit.request import RunFlags


def submit(given: Mapping[str, Any], trainer_words: Sequence[str], client: KubeClient | None = None) -> int:
    """Check a request, print its plan, and do with it what --dry_run says; returns the exit code."""
    own = RunFlags(**given)
    table = plan.read_table(own.accelerators)
    accelerator = plan.accelerator_of(own, table)  # Before the batch is divided among its GPUs.
    asked = request.build(own, trainer_words)
    objects = render.run_objects(asked, accelerator)
    images = own.train_images or (0 if own.dry_run == "client" else _images_in(own.data_dir))
    print("\n".join(plan.describe(asked, table, images)), file=sys.stderr)
    if own.dry_run == "client":
        print(render.to_yaml(objects))
        return EXIT_DONE
    client = client or KubeClient(own.namespace, own.context)
    runs.require_free(client, own.job_dir)
    if own.dry_run == "server":
        for item in objects:
            client.create(item, dry_run=True)
        print(f"the API server accepts {', '.join(item['kind'] for item in objects)}; nothing was created")
        return EXIT_DONE
    _create(client, asked, objects)
    print(f"submitted {objects[0]['kind']} {own.name} in namespace {own.namespace}")
    return follow_or_detach(client, own.name) if own.follow else EXIT_DONE


def _create(client: KubeClient, asked: request.Request, objects: Sequence[render.Object]) -> None:
    """Create the record, then the run, then what the run owns; undo it if the cluster refuses a part.

    Raises:
        RequestError: if the name is taken.
    """
    name = asked.run.name
    _claim(client, asked)
    made: list[tuple[str, str]] = [("ConfigMap", record_name(name))]
    try:
        owner: dict[str, Any] = {}
        for item in objects:
            if owner:  # The cluster removes it with the run.
                item["metadata"]["ownerReferences"] = [owner]
            created = client.create(item)
            made.append((item["kind"], name))
            owner = owner or {"apiVersion": item["apiVersion"], "kind": item["kind"], "name": name,
                              "uid": created["metadata"]["uid"]}  # fmt: skip
    except BaseException as error:
        for kind, made_name in reversed(made):
            client.delete(kind, made_name)
        if isinstance(error, Refused) and error.code == 409:
            raise _taken(name) from error
        if isinstance(error, Refused) and error.code == 404:
            raise RequestError(
                f"expected a cluster with namespace {client.namespace} and {objects[0]['kind']} "
                f"({objects[0]['apiVersion']}), received: {error}; see docs/kubernetes.md"
            ) from error
        raise


def _claim(client: KubeClient, asked: request.Request) -> None:
    """Create the run's record, which says who has the name and how to resume it."""
    own = dataclasses.asdict(asked.run)
    own.pop("dry_run"), own.pop("follow"), own.pop("context")
    default = RunFlags()
    given = {name: value for name, value in own.items() if value != getattr(default, name)}
    record = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": record_name(asked.run.name),
            "namespace": asked.run.namespace,
            "labels": {"app.kubernetes.io/name": "deepdetect-run", render.INSTANCE: asked.run.name},
        },
        "data": {"request.json": json.dumps({"run": given, "trainer": asked.trainer_words}, indent=1)},
    }
    try:
        client.create(record)
    except Refused as error:
        if error.code == 409:
            raise _taken(asked.run.name) from error
        if error.code == 404:
            raise RequestError(
                f"expected the namespace {client.namespace}, received: {error}; kubectl apply -k "
                f"k8s/overlays/{asked.run.platform} makes it"
            ) from error
        raise


def _taken(name: str) -> RequestError:
    return RequestError(
        f"--name: expected a new name, received {name!r} of a run that is there already; give another, or continue "
        f"that one: resume {name}"
    )


def follow_or_detach(client: KubeClient, name: str) -> int:
    """Follow a run to its end, or until Ctrl-C, which only ends the following."""
    try:
        return follow.follow(client, name)
    except KeyboardInterrupt:
        where = "" if client.namespace == RunFlags.namespace else f" --namespace={client.namespace}"
        print(
            f"\ndetached; {name} goes on. Come back: python scripts/submit.py logs {name} -f{where}; "
            f"end it: python scripts/submit.py cancel {name}{where}",
            file=sys.stderr,
        )
        return EXIT_DONE


def _images_in(data_dir: str) -> int:
    """Return the images in Train as a packed set's index tells them; 0 if it is no packed set, or out of reach."""
    from trainer.data import tfrecord

    try:
        found = tfrecord.read_manifest(data_dir)
        return sum(found["splits"]["Train"]["counts"].values()) if found else 0
    except Exception:  # Whatever a bucket's client raises: the cluster may have rights that this machine has not.
        return 0


def next_name(client: KubeClient, name: str) -> str:
    """Return the first of NAME-r2, NAME-r3 ... that no run has."""
    stem = re.sub(r"-r\d+$", "", name)
    taken = {found.name for found in runs.find_all(client)}
    return next(found for number in range(2, 10_000) if (found := f"{stem}-r{number}") not in taken)


def record_name(name: str) -> str:
    """Return the name of the ConfigMap that keeps a run's request."""
    return f"{name}-run"
