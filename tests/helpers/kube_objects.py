"""Objects in the form in which the API server returns them, and the command that reads them."""

from trainer.core import cli
from trainer.submit import command

# The images lie on a claim, so that no bucket is asked.
RUN = ["run", "--name=first", "--image=registry.example/deepdetect:1", "--volume=faces:/mnt", "--data_dir=/mnt/faces",
       "--job_dir=gs://bucket/jobs/first", "--train_images=1000"]  # fmt: skip


def submit(*words):
    """Run a sub-command of scripts/submit.py; return its exit code."""
    return cli.run_command(command.main, list(words))


def job(name="first", job_dir="gs://bucket/jobs/first", **status):
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "deepdetect",
                                              "app.kubernetes.io/instance": name}},
        "spec": {"template": {"spec": {"containers": [
            {"name": "trainer", "image": "registry.example/deepdetect:1", "args": [f"--job_dir={job_dir}"]}]}}},
        "status": status,
    }  # fmt: skip


def pod(name, index=None, state="running", run="first", **more):
    annotations = {} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "uid": f"uid-{name}", "annotations": annotations, "resourceVersion": "7",
                     "labels": {"app.kubernetes.io/name": "deepdetect", "app.kubernetes.io/instance": run}},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": {state: {}}}], **more},
    }  # fmt: skip


def event(reason, message, kind, name, time="2026-01-01T00:00:00Z", type="Warning"):
    return {"metadata": {"name": f"{name}.{reason}"}, "type": type, "reason": reason, "message": message,
            "lastTimestamp": time, "involvedObject": {"kind": kind, "name": name}}  # fmt: skip


def jobset(name="first", command="trainer.train", words=(), labels=(), gpus=0, machines=1, **status):
    """Return a JobSet with one replicated job, as submit makes it and the controller reports on it."""
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container = {"name": "trainer", "image": "registry.example/deepdetect:1", "command": ["python", "-m", command],
                 "args": list(words), "resources": {"limits": limits}}  # fmt: skip
    job_spec = {"parallelism": machines, "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet",
        "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z",
                     "labels": {"app.kubernetes.io/name": "deepdetect", "app.kubernetes.io/instance": name,
                                **dict(labels)}},
        "spec": {"replicatedJobs": [{"name": "workers", "template": {"spec": job_spec}}]},
        "status": status,
    }  # fmt: skip


def workload(name, reason, message, type="QuotaReserved", status="False", owner="first"):
    """Return a Workload as Kueue writes it."""
    condition = {"type": type, "status": status, "reason": reason, "message": message}
    return {
        "metadata": {"name": name, "ownerReferences": [{"kind": "JobSet", "name": owner, "uid": f"uid-{owner}"}]},
        "status": {"conditions": [condition]},
    }
