"""The Kubernetes objects of a run: kustomize builds them from ``k8s/``, then the run's values are filled in.

``k8s/`` is the only source: its overlays are the same files with placeholders.
"""

import copy
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainer.core.errors import JobFailed, RequestError
from trainer.distributed import gpu_promise
from trainer.submit import environment, volumes
from trainer.submit.kube import placement
from trainer.submit.plan import Accelerator
from trainer.submit.platforms import SOURCES
from trainer.submit.request import DEFAULT_PRIORITY, Request

INSTANCE = "app.kubernetes.io/instance"
GPU = "nvidia.com/gpu"
QUEUE = "kueue.x-k8s.io/queue-name"
_MOUNT = "/data"  # Of components/gcsfuse.
_TRAINER = "trainer"  # The container beside which the self-test is another one.

Object = dict[str, Any]


def run_objects(request: Request, accelerator: Accelerator | None) -> list[Object]:
    """Return the objects of a run, the Job or JobSet first; without an accelerator its pods get no GPU.

    Raises:
        RequestError: if kubectl is not installed.
    """
    run = request.run
    components = [*_of_platform(run.platform, trainer_words(request))]
    components += [accelerator.component] if accelerator else []
    components += [name for name, flag in (("spot", run.spot), ("gcsfuse", run.gcsfuse), ("kueue", run.queue)) if flag]
    objects = kustomize(run.platform, run.namespace, components, base=run.kind)
    for item in objects:
        _fill(item, request)
    return sorted(objects, key=lambda item: item["kind"] not in ("Job", "JobSet"))


def tensorboard_objects(
    platform: str, namespace: str, name: str, image: str, job_dir: str, mounted: Sequence[volumes.Volume] = ()
) -> list[Object]:
    """Return the objects of a TensorBoard for a run's job_dir."""
    objects = kustomize(platform, namespace, ["tensorboard", *_of_platform(platform, [job_dir])])
    for item in objects:
        item["metadata"]["name"] = f"{name}-tensorboard"
        _set_label(item, name)
        container = item["spec"]["template"]["spec"]["containers"][0]
        container["image"] = image
        container["args"][0] = f"--logdir={job_dir}"
        volumes.mount(item["spec"]["template"]["spec"], mounted)
    return objects


def _of_platform(platform: str, words: Sequence[str]) -> list[str]:
    """Return a platform's own components for every run, and that for buckets if a word names one."""
    overlay = SOURCES / "overlays" / platform
    names = ["platform", *(["bucket"] if any("gs://" in word for word in words) else [])]
    return [name for name in names if (overlay / name / "kustomization.yaml").is_file()]


def has_kubectl() -> bool:
    """Return whether manifests can be built here."""
    return shutil.which("kubectl") is not None


def kustomize(platform: str, namespace: str, components: Sequence[str], base: str = "") -> list[Object]:
    """Build a base of ``k8s/`` with components in order; a platform's own version of a component has precedence.

    Raises:
        RequestError: if kubectl or the manifests are missing.
        JobFailed: if kustomize refuses the sources.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise RequestError("expected kubectl, which builds the manifests, received none; install it")
    if not SOURCES.is_dir():
        raise RequestError(
            f"expected the manifests in {SOURCES}, found none; install deepdetect anew, or run it from a checkout"
        )
    with tempfile.TemporaryDirectory() as scratch:
        sources = os.path.relpath(SOURCES, os.path.realpath(scratch))
        own = SOURCES / "overlays" / platform
        paths = [f"{sources}/overlays/{platform}/{name}" if (own / name).is_dir() else f"{sources}/components/{name}"
                  for name in components]  # fmt: skip
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": namespace,
            "resources": [f"{sources}/base/{base}"] if base else [],
            "components": paths,
        }
        Path(scratch, "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        # Some builds of kubectl ask the cluster for its version first; this needs no cluster.
        environment = {**os.environ, "KUBECONFIG": os.devnull}
        done = subprocess.run(
            [kubectl, "kustomize", scratch], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise JobFailed(f"kubectl kustomize refused {SOURCES}: {done.stderr.strip()}")
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def to_yaml(objects: Sequence[Object]) -> str:
    """Return the objects as one YAML stream for ``kubectl apply -f -``."""
    return "---\n".join(yaml.safe_dump(item, sort_keys=False, width=120) for item in objects)


def pod_templates(item: Object) -> Iterator[Object]:
    """Yield the pod templates of a Job, JobSet or Deployment."""
    if item["kind"] == "JobSet":
        for one in item["spec"]["replicatedJobs"]:
            yield one["template"]["spec"]["template"]
    elif "template" in item.get("spec", {}):
        yield item["spec"]["template"]


def gpus_of(item: Object) -> int:
    """Return the GPUs of all pods of a Job or JobSet."""
    return sum(
        int(job["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {}).get(GPU, 0))
        * job.get("parallelism", 1)
        for job in _job_specs(item)
    )


def trainer_words(request: Request) -> list[str]:
    """Return the arguments of the container."""
    run = request.run
    data_dir = run.data_dir
    if run.gcsfuse:
        path = data_dir.removeprefix("gs://").partition("/")[2].rstrip("/")
        data_dir = f"{_MOUNT}/{path}" if path else _MOUNT
    return [f"--data_dir={data_dir}", f"--job_dir={run.job_dir}", *request.trainer_words]


def _fill(item: Object, request: Request) -> None:
    run = request.run
    item["metadata"]["name"] = run.name
    _set_label(item, run.name)
    if item["kind"] not in ("Job", "JobSet"):
        return
    if run.queue:
        item["metadata"]["labels"][QUEUE] = run.queue
    for template in pod_templates(item):
        _fill_pod(template["spec"], request)
        if has_gpu(template["spec"]):
            placement.apply(template, run)
    placement.tell_duration(item, run)
    for job in _job_specs(item):
        if run.max_hours:
            job["activeDeadlineSeconds"] = max(round(run.max_hours * 3600), 1)
        if has_gpu(job["template"]["spec"]):
            job["completions"] = job["parallelism"] = run.machines


def _job_specs(item: Object) -> Iterator[Object]:
    if item["kind"] == "JobSet":
        yield from (one["template"]["spec"] for one in item["spec"]["replicatedJobs"])
    else:
        yield item["spec"]


def has_gpu(pod: Object) -> bool:
    """Return whether a pod asks for GPUs."""
    return GPU in pod["containers"][0]["resources"]["limits"]


def _fill_pod(pod: Object, request: Request) -> None:
    run, container = request.run, pod["containers"][0]
    container["args"] = [word.replace("$(", "$$(") for word in trainer_words(request)]
    for each in (*pod.get("initContainers", []), container):
        each["image"] = run.image
        _fill_gpus(each, request)
    pod["priorityClassName"] = run.priority or DEFAULT_PRIORITY
    _fill_variables(container, request)
    volumes.mount(pod, request.volumes)
    for volume in pod["volumes"]:
        if run.gcsfuse and volume["name"] == "data":
            volume["csi"]["volumeAttributes"]["bucketName"] = run.data_dir.removeprefix("gs://").partition("/")[0]
        if volume["name"] == "shm":
            volume["emptyDir"]["sizeLimit"] = _times(volume["emptyDir"]["sizeLimit"], run.gpus)


def _fill_variables(container: Object, request: Request) -> None:
    variables = {entry["name"]: entry for entry in container["env"]}
    if "DEEPDETECT_NUM_WORKERS" in variables:
        variables["DEEPDETECT_NUM_WORKERS"]["value"] = str(request.run.workers)
    for name in (*request.env, *(source.key for source in request.secrets)):
        if name in variables and name != gpu_promise.VARIABLE:
            raise RequestError(f"--env: expected variables that the run does not set itself, received {name}")
    for name, value in request.env.items():
        if name != gpu_promise.VARIABLE:
            # Kubernetes would replace $(NAME) in a value; $$ stands for one $.
            container["env"].append({"name": name, "value": value.replace("$(", "$$(")})
    environment.add_secrets(container, request.secrets)


def _fill_gpus(container: Object, request: Request) -> None:
    """Multiply a container's resources by the number of GPUs, and promise it that number, or the one in --env.

    A component of somebody's own that forgets the promise gets it here: no pod with GPUs trains without them.
    """
    gpus = request.run.gpus
    if GPU not in container["resources"]["limits"]:
        return
    resources = copy.deepcopy(container["resources"])
    for amounts in resources.values():
        amounts |= {name: _times(amounts[name], gpus) for name in ("cpu", "memory", GPU) if name in amounts}
    container["resources"] = resources
    if container["name"] == _TRAINER:
        _fill_amounts(resources, request)
    promise = {"name": gpu_promise.VARIABLE, "value": request.env.get(gpu_promise.VARIABLE, str(gpus))}
    others = [entry for entry in container.get("env", []) if entry["name"] != gpu_promise.VARIABLE]
    container["env"] = [*others, promise]


def _fill_amounts(resources: Object, request: Request) -> None:
    """Set what --memory and --cpus say."""
    run = request.run
    if run.memory:
        resources["requests"]["memory"] = resources["limits"]["memory"] = run.memory
    if run.cpus:
        resources["requests"]["cpu"] = f"{run.cpus:g}"


def _times(quantity: str, factor: int) -> str:
    """Multiply an amount such as 36Gi."""
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", quantity)
    assert match, quantity
    return f"{int(match[1]) * factor}{match[2]}"


def _set_label(value: Any, name: str) -> None:
    """Set the run's label wherever it occurs: in metadata, selectors and affinities."""
    if isinstance(value, list):
        for entry in value:
            _set_label(entry, name)
    elif isinstance(value, dict):
        if INSTANCE in value:
            value[INSTANCE] = name
        for entry in value.values():
            _set_label(entry, name)
