"""Where machines are: topology, zones, flex-start's duration; and Kubeflow's runtime, whose pods find each other."""

import copy
import re
import shutil

import pytest
import yaml

from tests.helpers.commands import refusal
from tests.helpers.k8s_schemas import ROOT, VERSIONS, pod_templates, require_restricted, validate
from tests.helpers.kube_objects import RUN, submit
from trainer.core.config import flags
from trainer.distributed import cluster
from trainer.submit import command

BLOCK = "cloud.google.com/gce-topology-block"
KUBEFLOW = ROOT / "k8s/components/kubeflow"

needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def jobset_of(capsys, *words):
    assert submit(*RUN, "--dry_run", *words) == 0
    return next(yaml.safe_load_all(capsys.readouterr().out))


@needs_kubectl
def test_kueue_is_told_the_level_and_the_duration(capsys):
    item = jobset_of(capsys, "--workers=4", f"--topology={BLOCK}", "--queue=deepdetect-close", "--max_hours=1.5")
    assert item["metadata"]["annotations"] == {"provreq.kueue.x-k8s.io/maxRunDurationSeconds": "5400"}
    (template,) = pod_templates(item)
    assert template["metadata"]["annotations"]["kueue.x-k8s.io/podset-preferred-topology"] == BLOCK
    for version in VERSIONS:
        validate(item, version)


@pytest.mark.slow
@needs_kubectl
def test_without_a_queue_pods_prefer_a_node_near_their_peers(capsys):
    item = jobset_of(capsys, "--workers=4", f"--topology={BLOCK}", "--max_hours=1", "--zone=us-central1-a")
    assert "annotations" not in item["metadata"]
    (template,) = pod_templates(item)
    terms = template["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    near = {term["podAffinityTerm"]["topologyKey"]: term["podAffinityTerm"]["labelSelector"] for term in terms}
    assert near.keys() == {"topology.kubernetes.io/zone", BLOCK}
    assert near[BLOCK] == {"matchLabels": {"app.kubernetes.io/instance": "first"}}
    assert template["spec"]["nodeSelector"]["topology.kubernetes.io/zone"] == "us-central1-a"
    for version in VERSIONS:
        validate(item, version)


def test_topology_needs_several_machines_and_a_label(capsys):
    assert "expected --workers=2 or more with --topology" in refusal(capsys, command.main, *RUN, f"--topology={BLOCK}")
    assert "--topology: expected a label" in refusal(capsys, command.main, *RUN, "--workers=2", "--topology=a b")


def pod_of(train_job, runtime, index):
    """Return the environment of a TrainJob's pod as Trainer v2.3 (policy jax), JobSet and the kubelet make it."""
    trainer = train_job["spec"]["trainer"]
    (template,) = pod_templates(runtime)
    name, count = train_job["metadata"]["name"], str(trainer["numNodes"])
    entries = copy.deepcopy(template["spec"]["containers"][0]["env"])
    for entry in (*trainer.get("env", []), {"name": "JAX_NUM_PROCESSES", "value": count},
                  {"name": "JAX_PROCESS_ID", "value": str(index)}):  # fmt: skip
        place = next((at for at, old in enumerate(entries) if old["name"] == entry["name"]), len(entries))
        entries[place : place + 1] = [entry]  # In its place, or else last.
    values = {"HOSTNAME": f"{name}-node-0-{index}", "JOB_COMPLETION_INDEX": str(index)}
    labels = {"metadata.labels['jobset.sigs.k8s.io/jobset-name']": name}
    known = {}
    for entry in entries:
        text = entry.get("value") or labels[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        known[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: known.get(match[1], match[0]), text)
    return {**values, **known}


def test_pods_of_a_trainjob_find_each_other():
    runtime = next(yaml.safe_load_all((KUBEFLOW / "runtime.yaml").read_text()))
    train_job = yaml.safe_load((KUBEFLOW / "trainjob.yaml").read_text())
    for nodes in (3, 1):
        train_job["spec"]["trainer"]["numNodes"] = nodes
        described = cluster.from_environment(pod_of(train_job, runtime, nodes - 1))
        assert described.addresses == tuple(f"first-node-0-{index}.first:2222" for index in range(nodes))
        assert (described.num_workers, described.worker_index, described.peer_port) == (nodes, nodes - 1, 3222)
    words = [word.replace("BUCKET", "bucket") for word in train_job["spec"]["trainer"]["args"]]
    assert flags.train_config(words).data.batch_size == 64
    # A TrainJob may ask for more GPUs than its pods are promised, but the example does not.
    gpus = train_job["spec"]["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    assert {"name": "DEEPDETECT_GPUS", "value": gpus} in train_job["spec"]["trainer"]["env"]
    (template,) = pod_templates(runtime)
    require_restricted(template["spec"])
    validate(train_job, VERSIONS[0])


def test_the_runtime_restarts_as_several_workers_do():
    runtime = next(yaml.safe_load_all((KUBEFLOW / "runtime.yaml").read_text()))["spec"]["template"]["spec"]
    base = yaml.safe_load((ROOT / "k8s/base/multi-worker/jobset.yaml").read_text())["spec"]
    for name in ("failurePolicy", "successPolicy", "network"):
        assert runtime[name] == base[name]
    theirs, ours = (spec["replicatedJobs"][0]["template"]["spec"] for spec in (base, runtime))
    text = yaml.safe_dump(theirs["podFailurePolicy"]).replace("containerName: trainer", "containerName: node")
    assert yaml.safe_load(text) == ours["podFailurePolicy"]
