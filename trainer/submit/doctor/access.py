"""What a person may do in the cluster, compared with the role in ``k8s/``."""

import concurrent.futures
from collections.abc import Iterator

import yaml

from trainer.core.errors import JobFailed
from trainer.submit.doctor.findings import MISSING, OK, UNKNOWN, Finding
from trainer.submit.kube.api import KubeClient, Refused
from trainer.submit.platforms import SOURCES

_ROLE = SOURCES / "base" / "namespace" / "submit-role.yaml"
_THREADS = 8

Right = tuple[str, str, str, bool]  # Verb, API group, resource, and whether it holds in a namespace only.


def check(client: KubeClient) -> Finding:
    """Ask the API server for each right of the role; most of them are needed, so that any that is missing counts."""
    rights = list(_rights())
    try:
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            allowed = list(pool.map(lambda right: _may(client, right), rights))
        person = client.user()
    except (Refused, JobFailed) as error:
        return Finding("permissions", UNKNOWN, str(error))
    missing = [f"{verb} {resource}" for (verb, _, resource, _), is_allowed in zip(rights, allowed, strict=True)
               if not is_allowed]  # fmt: skip
    if not missing:
        return Finding("permissions", OK, f"{person} may do all {len(rights)} things of the role")
    name = client.namespace
    return Finding(
        "permissions", MISSING, f"{person} may not: {', '.join(missing)}",
        f"kubectl -n {name} create rolebinding NAME --role=deepdetect-user --user={person}; kubectl create "
        f"clusterrolebinding NAME --clusterrole=deepdetect-user --user={person}",
    )  # fmt: skip


def _may(client: KubeClient, right: Right) -> bool:
    verb, group, resource, in_namespace = right
    return client.may(verb, group, resource, in_namespace=in_namespace)


def _rights() -> Iterator[Right]:
    for role in yaml.safe_load_all(_ROLE.read_text(encoding="utf-8")):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    yield from ((verb, group, resource, role["kind"] == "Role") for verb in rule["verbs"])
