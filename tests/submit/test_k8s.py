"""k8s/: kustomize builds the golden files, which are valid for the schemas of two Kubernetes versions."""

import os
import re
import shutil
import subprocess

import pytest
import yaml

from tests.helpers.k8s_schemas import ROOT, VERSIONS, pod_templates, require_golden, require_restricted, validate
from trainer.submit import platforms

K8S = ROOT / "k8s"
PLATFORMS = platforms.names()
KINDS = ("train", "multi-worker", "sweep")
OVERLAYS = [*PLATFORMS, *(f"{platform}/{kind}" for platform in PLATFORMS for kind in KINDS)]
OTHERS = ["components/kueue/queues", "components/tensorboard", "components/data-service",
          "components/kueue/flex-start", "components/kueue/topology", "components/kubeflow",
          "overlays/generic/data-service"]  # fmt: skip

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def build(path):
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    done = subprocess.run(["kubectl", "kustomize", str(path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built():
    return {name: build(K8S / "overlays" / name) for name in OVERLAYS} | {name: build(K8S / name) for name in OTHERS}


def objects(text):
    return [item for item in yaml.safe_load_all(text) if item]


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_build_what_the_golden_files_say(built, name):
    require_golden(f"k8s/{name.replace('/', '-')}.yaml", built[name])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [*OVERLAYS, *OTHERS])
def test_every_object_is_valid_to_the_last_field(built, name, version):
    for item in objects(built[name]):
        validate(item, version)


def test_whatever_reads_the_bucket_outside_google_gets_the_key(tmp_path):
    parts = {name: os.path.relpath(K8S / name, tmp_path.resolve()) for name in (
        "base/train", "components/data-service", "components/tensorboard", "overlays/generic/bucket",
        "overlays/generic/gpu-l4")}  # fmt: skip
    resources = f"resources: [{parts.pop('base/train')}]\ncomponents: [{', '.join(parts.values())}]\n"
    (tmp_path / "kustomization.yaml").write_text(resources)
    pods = {item["metadata"]["name"]: pod_templates(item) for item in objects(build(tmp_path))}
    for name in ("train", "data-service-worker", "tensorboard"):
        (container,) = pods[name][0]["spec"]["containers"]
        assert {"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": "/var/run/secrets/gcs/key.json"} in container["env"]
    assert "--load_fast=false" in container["args"]  # TensorBoard's other loader reads public buckets alone.


@pytest.mark.parametrize("kind", ["Deployment", "JobSet"])
def test_the_validation_refuses_an_unknown_field(built, kind):
    import jsonschema

    name = "generic/sweep" if kind == "JobSet" else "components/tensorboard"
    (item,) = [item for item in objects(built[name]) if item["kind"] == kind]
    pod_templates(item)[0]["spec"]["containers"][0]["readOnlyRoot"] = True
    with pytest.raises(jsonschema.ValidationError):
        validate(item, VERSIONS[0])


@pytest.mark.parametrize("name", [name for name in [*OVERLAYS, *OTHERS] if name not in PLATFORMS])
def test_every_pod_is_restricted(built, name):
    for item in objects(built[name]):
        for template in pod_templates(item):
            require_restricted(template["spec"])
            assert template["spec"]["serviceAccountName"] == "deepdetect"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_namespace_enforces_what_the_pods_keep(built, platform):
    parts = {item["kind"]: item for item in objects(built[platform])}
    assert parts["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert parts["NetworkPolicy"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert parts["ServiceAccount"]["automountServiceAccountToken"] is False
    has_identity = "iam.gke.io/gcp-service-account" in parts["ServiceAccount"]["metadata"].get("annotations", {})
    assert has_identity == platform.startswith("gke-")


def test_components_that_were_refused_a_target_would_show(built):
    # A patch whose target matches nothing is skipped in silence, so each must be seen to have worked.
    for platform in PLATFORMS:
        for kind in KINDS:
            text = built[f"{platform}/{kind}"]
            assert text.count("nvidia.com/gpu: ") == 4, (platform, kind)  # Of the trainer and of the self-test.
            assert text.count("name: DEEPDETECT_GPUS") == 2, (platform, kind)
            of_gke, of_nvidia = "cloud.google.com/gke-accelerator: nvidia-l4", "nvidia.com/gpu.product: NVIDIA-L4"
            assert (of_gke in text, of_nvidia in text) == (platform.startswith("gke-"), platform == "generic")


def test_workers_of_the_data_service_have_the_buckets_key(built):
    items = objects(built["overlays/generic/data-service"])
    (worker,) = [item for item in items if item["metadata"]["name"] == "data-service-worker"]
    names = [entry["name"] for entry in worker["spec"]["template"]["spec"]["containers"][0]["env"]]
    assert "GOOGLE_APPLICATION_CREDENTIALS" in names


def test_lists_that_the_api_server_wants_sorted_and_named(built):
    for kind in KINDS:
        for item in objects(built[f"gke-standard/{kind}"]):
            for job in [job["template"]["spec"] for job in item["spec"].get("replicatedJobs", [])]:
                assert job["template"]["spec"]["restartPolicy"] == "Never"  # The policy refuses OnFailure.
                for rule in job["podFailurePolicy"]["rules"]:
                    if "onExitCodes" in rule:
                        codes = rule["onExitCodes"]
                        assert codes["values"] == sorted(codes["values"])
                        assert 0 not in codes["values"]
                        assert 76 not in codes["values"]  # The end of the lost process decides.
                        assert codes["containerName"] == job["template"]["spec"]["containers"][0]["name"]


# Messages as a Job controller writes them (Kubernetes 1.35).
@pytest.mark.parametrize(
    ("reason", "message", "action"),
    [
        ("PodFailurePolicy", "Pod ns/a-workers-0-1 has condition DisruptionTarget matching FailJob rule at index 0",
         "RestartJobSetAndIgnoreMaxRestarts"),
        ("PodFailurePolicy", "Container trainer for pod ns/a failed with exit code 75 matching FailJob rule at index 1",
         "RestartJobSetAndIgnoreMaxRestarts"),
        ("PodFailurePolicy", "Container trainer for pod ns/a failed with exit code 2 matching FailJob rule at index 2",
         "FailJobSet"),
        # OOMKilled (137), and then the others (76).
        ("BackoffLimitExceeded", "Job has reached the specified backoff limit", "RestartJobSet"),
        ("DeadlineExceeded", "Job was active longer than specified deadline", "FailJobSet"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["train", "multi-worker"])
def test_a_set_of_workers_restarts_as_a_whole_or_fails(built, kind, reason, message, action):
    (item,) = [item for item in objects(built[f"generic/{kind}"]) if item["kind"] == "JobSet"]
    for rule in item["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [".*"])
        if reason in rule["onJobFailureReasons"] and any(re.search(one, message) for one in patterns):
            assert rule["action"] == action
            return
    assert action == "RestartJobSet"  # What the JobSet controller does if no rule matches.


def test_low_is_below_pods_without_a_class_and_default_is_not(built):
    parts = objects(built["generic"])
    values = {item["metadata"]["name"]: item["value"] for item in parts if item["kind"] == "PriorityClass"}
    low, default, high = (values[f"deepdetect-{name}"] for name in ("low", "default", "high"))
    without_class = 0
    assert low < without_class <= default < high
    for platform in PLATFORMS:
        for kind in KINDS:
            for item in objects(built[f"{platform}/{kind}"]):
                for template in pod_templates(item):
                    assert template["spec"]["priorityClassName"] == "deepdetect-default"


def flavours(pod, queue):
    """Return the flavours that Kueue gives a pod, after its documentation: the first of each group that fits.

    A group's labels are compared for the keys that any of its flavours has; a taint that is not tolerated rules it out.
    """
    kinds = {item["metadata"]["name"]: item.get("spec", {}) for item in queue if item["kind"] == "ResourceFlavor"}
    (cluster_queue,) = [item for item in queue if item["kind"] == "ClusterQueue"]
    chosen = {}
    for group in cluster_queue["spec"]["resourceGroups"]:
        if not set(group["coveredResources"]) & pod["containers"][0]["resources"]["requests"].keys():
            continue
        names = [flavour["name"] for flavour in group["flavors"]]
        keys = {key for name in names for key in kinds[name].get("nodeLabels", {})}
        wanted = {key: value for key, value in pod["nodeSelector"].items() if key in keys}
        tolerated = {entry["key"] for entry in pod.get("tolerations", [])}
        fitting = [name for name in names if wanted.items() <= kinds[name].get("nodeLabels", {}).items()
                   and {taint["key"] for taint in kinds[name].get("nodeTaints", [])} <= tolerated]  # fmt: skip
        chosen |= dict.fromkeys(group["coveredResources"], fitting[0])
    labels = {}
    for name in chosen.values():
        labels |= kinds[name].get("nodeLabels", {})
    return chosen, labels


@pytest.mark.parametrize(("component", "flavour"), [("", "l4"), ("components/spot", "l4-spot")])
def test_a_queue_keeps_the_chief_off_gpu_nodes_and_follows_spot(built, component, flavour, tmp_path):
    queue = objects(built["components/kueue/queues"])
    k8s = os.path.relpath(K8S, os.path.realpath(tmp_path))
    components = [f"{k8s}/components/gpu-l4", *([f"{k8s}/{component}"] if component else [])]
    content = {"resources": [f"{k8s}/base/sweep"], "components": components}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    (item,) = [item for item in objects(build(tmp_path)) if item["kind"] == "JobSet"]
    chief, worker = (template["spec"] for template in pod_templates(item))
    chosen, labels = flavours(chief, queue)
    assert labels == {}, "the chief tolerates no GPU node"
    assert chosen["cpu"] == "any-node"
    chosen, labels = flavours(worker, queue)
    assert chosen["nvidia.com/gpu"] == flavour
    assert {**worker["nodeSelector"], **labels} == worker["nodeSelector"]  # The queue adds nothing to what --spot said.


def test_the_dockerfile_is_clean():
    hadolint = shutil.which("hadolint")
    if not hadolint:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
