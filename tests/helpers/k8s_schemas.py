"""Strict checks of Kubernetes objects: schemas that refuse unknown fields, and golden files."""

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VERSIONS = (
    "1.32",
    "1.35",
)  # Of Kubernetes: the oldest that GKE's channels offer, and the one the manifests were tried on.
_CUSTOM = {"JobSet": "jobset", "ClusterQueue": "clusterqueues", "LocalQueue": "localqueues",
           "ResourceFlavor": "resourceflavors", "Topology": "topologies", "AdmissionCheck": "admissionchecks",
           "ProvisioningRequestConfig": "provisioningrequestconfigs", "TrainJob": "trainjobs",
           "ClusterTrainingRuntime": "clustertrainingruntimes"}  # fmt: skip


def validate(item: dict[str, Any], version: str) -> None:
    """Refuse an object that a version's schema, or its custom resource's, does not know to the last field."""
    if item["kind"] in _CUSTOM:
        _custom_validator(item["kind"], item["apiVersion"]).validate(item)
    else:
        kubernetes_validate = pytest.importorskip("kubernetes_validate")
        kubernetes_validate.validate(item, version, strict=True)


def crds() -> Path:
    """Return the folder of custom resource definitions, or skip the test."""
    folder = Path(os.environ.get("DEEPDETECT_CRDS", ROOT.parent / "shared" / "crds"))
    if not folder.is_dir():
        pytest.skip(f"no schemas of JobSet and Kueue in {folder}; DEEPDETECT_CRDS names the folder")
    return folder


@functools.cache
def _custom_validator(kind: str, api_version: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    path = next(crds().glob(f"*{_CUSTOM[kind]}*.yaml"), None)
    if path is None:
        pytest.skip(f"no schema of {kind} in {crds()}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = [entry for entry in yaml.load_all(path.read_text(), loader) if entry]
    (crd,) = [entry for entry in documents if entry["kind"] == "CustomResourceDefinition"]
    assert crd["spec"]["names"]["kind"] == kind
    group, _, version = api_version.partition("/")
    assert crd["spec"]["group"] == group
    (schema,) = [entry["schema"]["openAPIV3Schema"] for entry in crd["spec"]["versions"] if entry["name"] == version]
    schema["properties"].pop("metadata")
    strict = _closed(schema)
    strict["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(strict)


def _closed(schema: Any) -> Any:
    """Return a structural schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [_closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: {key: _closed(entry) for key, entry in value.items()} if name == "properties" else _closed(value)
              for name, value in schema.items()}  # fmt: skip
    if str(closed.get("pattern", "")).startswith("^(?i)"):  # Go takes a flag there, Python at the start alone.
        closed["pattern"] = "(?i)^" + closed["pattern"].removeprefix("^(?i)")
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def require_golden(name: str, text: str) -> None:
    """Compare with tests/golden/NAME; with DEEPDETECT_WRITE_GOLDEN=1 write it instead."""
    path = GOLDEN / name
    if os.environ.get("DEEPDETECT_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing; DEEPDETECT_WRITE_GOLDEN=1 writes it"
    assert text == path.read_text(), f"{path} differs; look at the difference, then DEEPDETECT_WRITE_GOLDEN=1"


def pod_templates(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates inside an object."""
    if item["kind"] == "ClusterTrainingRuntime":
        item = {**item["spec"]["template"], "kind": "JobSet"}
    if item["kind"] == "JobSet":
        return [job["template"]["spec"]["template"] for job in item["spec"]["replicatedJobs"]]
    return [item["spec"]["template"]] if item["kind"] in ("Job", "Deployment") else []


def require_restricted(pod: dict[str, Any]) -> None:
    """Refuse a pod that the standard "restricted" would refuse, or that could write its root or call the API server."""
    own = pod["securityContext"]
    assert own["runAsNonRoot"]
    assert own["runAsUser"] > 0
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["automountServiceAccountToken"] is False
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in (*pod.get("initContainers", []), *pod["containers"]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPort" in port for port in container.get("ports", []))
