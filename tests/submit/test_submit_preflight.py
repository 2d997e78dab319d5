"""What a run needs of the cluster: looked at before anything is created, with no more rights than the role gives."""

import shutil

import pytest
import yaml

from tests.helpers.k8s_schemas import ROOT, VERSIONS, pod_templates, validate
from tests.helpers.kube_objects import RUN, job, pod, submit, workload
from trainer.core.config import flags
from trainer.core.errors import RequestError
from trainer.submit import plan, request
from trainer.submit.kube import api, checks, preflight, render

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")

WORDS = ["--queue=research", "--env_from_secret=wandb,hub:HF_TOKEN", "--workers=2"]
FORBIDDEN = (403, 'is forbidden: User "jo" cannot get resource')


def rendered(*words):
    """Return a checked request and its objects."""
    given, _ = flags.parse([*RUN[1:], *words], flags.fields_of(request.RunFlags), usage="")
    checked = checks.build(request.RunFlags(**given), [])
    return checked, render.run_objects(checked, plan.accelerator_of(checked.run, plan.read_table()))


@pytest.fixture(scope="module")
def demanding():
    """Return a run that needs one of everything."""
    return rendered(*WORDS)


@pytest.fixture
def full(server):
    """Return a server that has it all."""
    server.put("localqueues", {"metadata": {"name": "research"}})
    server.put("secrets", {"metadata": {"name": "wandb"}, "data": {"WANDB_API_KEY": ""}})
    server.put("secrets", {"metadata": {"name": "hub"}, "data": {"HF_TOKEN": ""}})
    server.put("secrets", {"metadata": {"name": "gcs-credentials"}, "data": {"key.json": ""}})
    return server


def look(words):
    return preflight.check(api.KubeClient("deepdetect"), *words)


def test_whatever_is_missing_is_named_before_anything_is_created(full, demanding):
    assert look(demanding) == []
    for plural, name, says in (
        ("localqueues", "research", "expected the LocalQueue research"),
        ("secrets", "wandb", "expected the Secret wandb"),
        ("secrets", "hub", "expected the Secret hub"),
        ("persistentvolumeclaims", "faces", "expected the PersistentVolumeClaim faces"),
        ("priorityclasses", "deepdetect-default", "expected the PriorityClass deepdetect-default"),
        ("serviceaccounts", "deepdetect", "expected the ServiceAccount deepdetect"),
        ("namespaces", "deepdetect", "expected the namespace deepdetect"),
    ):
        item = full.objects.pop((plural, name))
        with pytest.raises(RequestError, match=says):
            look(demanding)
        full.refuse["GET", plural] = FORBIDDEN  # Who may not look gets a note: it may well be there.
        (note,) = look(demanding)[:1]
        assert "not checked" in note
        del full.refuse["GET", plural]
        full.objects[plural, name] = item
    full.put("secrets", {"metadata": {"name": "hub"}, "data": {"TOKEN": ""}})
    with pytest.raises(RequestError, match="expected the key HF_TOKEN in Secret hub, which has TOKEN"):
        look(demanding)
    assert not [method for method, *_ in full.requests if method != "GET"]


def test_nodes_that_may_still_come_are_a_note(full, demanding):
    node = full.objects["nodes", "node-1"]
    node["status"]["allocatable"]["nvidia.com/gpu"] = "0"
    assert look(demanding) == ["nodes: none with these labels has 1 GPUs now (at most 0); the run waits for one"]
    node["metadata"]["labels"]["cloud.google.com/gke-accelerator"] = "nvidia-t4"
    (note,) = look(demanding)
    assert "none has cloud.google.com/gke-accelerator=nvidia-l4 now (other values: nvidia-t4)" in note
    full.put("persistentvolumeclaims", {"metadata": {"name": "faces"}, "spec": {"accessModes": ["ReadWriteOnce"]}})
    assert any("several machines cannot mount it" in note for note in look(demanding))


@pytest.mark.parametrize(("volume", "level", "fits"), [
    ("nfs://filer/x:/mnt", "restricted", False), ("nfs://filer/x:/mnt", "baseline", True),
    ("/x:/mnt", "baseline", False), ("faces:/mnt", "restricted", True),
])  # fmt: skip
def test_a_volume_that_the_namespace_refuses_is_named_first(server, demanding, volume, level, fits):
    server.put("localqueues", {"metadata": {"name": "research"}})
    server.objects["namespaces", "deepdetect"]["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": level}
    given = {**vars(demanding[0].run), "volume": volume, "env_from_secret": ""}
    checked = checks.build(request.RunFlags(**given), [])
    if fits:
        assert preflight.check(api.KubeClient("deepdetect"), checked, []) == []
    else:
        with pytest.raises(RequestError, match=f"enforces Pod Security {level}"):
            preflight.check(api.KubeClient("deepdetect"), checked, [])


# Of kubectl rollout status and port-forward, which the command "tensorboard" runs.
KUBECTL = {("apps", "deployments", verb) for verb in ("get", "list", "watch")} | {("", "pods/portforward", "create")}
PEOPLE = {("authentication.k8s.io", "selfsubjectreviews", "create")}  # Kubernetes allows it to everybody.


@pytest.mark.slow
def test_the_role_allows_what_submit_asks_for_and_no_more(full, capsys):
    full.put("configmaps", {"metadata": {"name": "old-run", "labels": {}}})
    assert submit(*RUN, *WORDS, "--job_dir=/mnt/first", "--nofollow") == 0
    full.refuse["POST", "networkpolicies"] = FORBIDDEN  # What was created goes again.
    assert submit(*RUN, "--name=second", "--job_dir=/mnt/second", "--sweep_workers=2") == 2
    full.set_status("jobsets", "first", conditions=[{"type": "Suspended", "status": "True"}])
    uid = full.objects["jobsets", "first"]["metadata"]["uid"]
    waits = workload("jobset-first", "Pending", "insufficient unused quota")
    waits["metadata"]["ownerReferences"][0]["uid"] = uid
    full.put("workloads", waits)
    full.put("pods", pod("first-workers-0-0-x"))
    full.put("jobs", job("old"))
    assert submit("status", "first") == 0
    assert submit("cancel", "old") == 0
    full.put("pods", pod("first-workers-0-0-x", 0, "terminated"))
    full.logs = {"first-workers-0-0-x": [["2026-01-01T00:00:00.000000000Z one"]]}
    failed = {"type": "Failed", "status": "True", "reason": "a", "message": "b"}
    full.watches = [[lambda: full.set_status("jobsets", "first", conditions=[failed])]]
    assert submit("logs", "first", "-f") == 1
    assert submit("resume", "absent") == 2
    assert submit("tensorboard", "first", "--platform=generic") == 1  # This server has no rollout to wait for.
    seen = {entry for entry in full.verbs() if entry[1]} - PEOPLE
    namespaced, of_the_cluster = roles()
    of_nodes = {entry for entry in seen if entry[1] in ("nodes", "priorityclasses")}
    assert of_nodes == of_the_cluster
    assert seen - of_nodes | KUBECTL == namespaced


def roles():
    """Return API group, resource and verb of the role and the cluster role."""
    parts = yaml.safe_load_all((ROOT / "k8s/base/namespace/submit-role.yaml").read_text())
    return [{(group, resource, verb) for rule in part["rules"] for group in rule["apiGroups"]
             for resource in rule["resources"] for verb in rule["verbs"]} for part in parts]  # fmt: skip


@pytest.mark.slow
def test_volumes_secrets_and_amounts_reach_the_pods_that_need_them():
    words = ["--platform=generic", "--sweep_workers=2", "--gpus=2", "--memory=64Gi", "--cpus=12.5",
             "--job_dir=/scratch/j", "--volume=faces:/mnt,nfs://filer/x:/scratch,/disk:/cache",
             "--env_from_secret=wandb,hub:HF_TOKEN",
             "--env=A=1,2,B=x\\,C=3"]  # fmt: skip
    _, objects = rendered(*words)
    for template, memory in zip(pod_templates(objects[0]), ("8Gi", "64Gi"), strict=True):
        pod_spec = template["spec"]
        (container,) = pod_spec["containers"]
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        sources = {places[volume["name"]]: volume for volume in pod_spec["volumes"]}
        assert sources["/mnt"]["persistentVolumeClaim"] == {"claimName": "faces"}
        assert sources["/scratch"]["nfs"] == {"server": "filer", "path": "/x"}
        assert sources["/cache"]["hostPath"] == {"path": "/disk", "type": "Directory"}
        assert not any("secret" in volume for volume in pod_spec["volumes"])  # No bucket, no key.
        variables = {entry["name"]: entry for entry in container["env"]}
        assert (variables["A"]["value"], variables["B"]["value"]) == ("1,2", "x,C=3")
        assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
        assert container["envFrom"] == [{"secretRef": {"name": "wandb"}}]
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] == memory
    assert container["resources"]["requests"]["cpu"] == "12.5"
    for item in objects:
        for version in VERSIONS:
            validate(item, version)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--workers=2"], ["--sweep_workers=2"]])
def test_no_pod_with_gpus_goes_without_the_promise(words, monkeypatch):
    # A component of somebody's own may forget it.
    kustomize = render.kustomize

    def forgetful(*args, **more):
        objects = kustomize(*args, **more)
        for template in pod_templates(objects[0]):
            del template["spec"]["priorityClassName"]
            for container in (*template["spec"].get("initContainers", []), *template["spec"]["containers"]):
                container["env"] = [entry for entry in container["env"] if entry["name"] != "DEEPDETECT_GPUS"]
        return objects

    monkeypatch.setattr(render, "kustomize", forgetful)
    _, objects = rendered(*words, "--gpus=4")
    for template in pod_templates(objects[0]):
        for container in (*template["spec"].get("initContainers", []), *template["spec"]["containers"]):
            values = [entry["value"] for entry in container["env"] if entry["name"] == "DEEPDETECT_GPUS"]
            assert values == (["4"] if "nvidia.com/gpu" in container["resources"]["limits"] else [])
        assert template["spec"]["priorityClassName"] == "deepdetect-default"
