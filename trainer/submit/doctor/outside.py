"""Checks from outside: they read, and let the API server try a JobSet without creating it."""

from collections.abc import Iterator, Sequence

from trainer.core.errors import JobFailed, RequestError
from trainer.submit import images, plan, releases, request
from trainer.submit.doctor import access, nodes
from trainer.submit.doctor.findings import MISSING, OK, UNKNOWN, Finding
from trainer.submit.doctor.flags import DoctorFlags
from trainer.submit.kube import preflight, render
from trainer.submit.kube.api import KubeClient, Object, Refused

_PRIORITIES = tuple(f"deepdetect-{level}" for level in ("low", "default", "high"))


def check(own: DoctorFlags, objects: Sequence[Object]) -> Iterator[Finding]:
    """Yield what is there and what is not; ends early if the API server does not answer.

    Args:
        own: the flags.
        objects: of a run that needs what they name; none if kubectl, which builds them, is not installed.
    """
    try:
        client = KubeClient(own.namespace, own.context)
        yield Finding("API server", OK, f"answers, version {client.version() or 'unknown'}")
    except (RequestError, JobFailed) as error:
        yield Finding("API server", MISSING, str(error), "gcloud container clusters get-credentials NAME, on GKE")
        return
    yield access.check(client)
    if not objects:
        yield Finding("kubectl", MISSING, "not installed; it builds the manifests", "install kubectl")
    yield _jobset(client, objects)
    yield from _kueue(client, own.queue)
    yield from _objects(client, own, objects)
    pods = [template["spec"] for item in objects for template in render.pod_templates(item)]
    yield from nodes.check(client, pods[0].get("nodeSelector", {}) if pods else {}, own.gpus)
    yield _data(own)


def objects_of(own: DoctorFlags, checked: request.Request) -> list[Object]:
    """Return the objects of the run; none if kubectl is not installed.

    Raises:
        RequestError: if the accelerator is unknown.
    """
    accelerator = plan.accelerator_of(checked.run, plan.read_table()) if own.gpus else None
    return render.run_objects(checked, accelerator) if render.has_kubectl() else []


def _jobset(client: KubeClient, objects: Sequence[Object]) -> Finding:
    """Let the API server try a JobSet: its controller's webhook takes part in that."""
    remedy = f"kubectl apply --server-side -f {releases.JOBSET}"
    try:
        if not client.serves("JobSet"):
            return Finding("JobSet", MISSING, "not installed; every run needs it", remedy)
        for item in objects[:1]:
            client.create(item, dry_run=True)
    except Refused as error:
        if error.code in (403, 404):  # Said by other lines: no permission, no namespace.
            return Finding("JobSet", UNKNOWN, f"installed; not tried: {error}")
        return Finding("JobSet", MISSING, str(error), f"compare the versions: {remedy}")
    except JobFailed as error:  # Its webhook does not answer.
        return Finding("JobSet", MISSING, str(error), "kubectl -n jobset-system get pods")
    return Finding("JobSet", OK, "accepts a run of two machines" if objects else "installed; not tried")


def _kueue(client: KubeClient, queue: str) -> Iterator[Finding]:
    try:
        is_served = client.serves("LocalQueue")
    except (Refused, JobFailed) as error:
        yield Finding("Kueue", UNKNOWN, str(error))
        return
    if not is_served:
        remedy = f"kubectl apply --server-side -f {releases.KUEUE}, then make a queue (docs/kubernetes.md)"
        yield Finding("Kueue", MISSING if queue else OK, "not installed; only runs with --queue need it",
                      remedy if queue else "")  # fmt: skip
        return
    yield Finding("Kueue", OK, "installed" if queue else "installed; --queue=NAME looks at a queue")
    if queue:
        yield _queue(client, queue)


def _queue(client: KubeClient, queue: str) -> Finding:
    subject, notes = "queue", list[str]()
    item = preflight.look(client, "LocalQueue", queue, notes)
    if item is False:
        return Finding(subject, UNKNOWN, notes[0])
    if item is None:
        return Finding(subject, MISSING, f"no LocalQueue {queue}",
                       "kubectl get localqueues; k8s/components/kueue/queues is an example")  # fmt: skip
    for entry in item.get("status", {}).get("conditions", []):
        if entry["type"] == "Active" and entry["status"] != "True":
            return Finding(subject, MISSING, f"{queue} is stopped: {entry.get('message', '')}",
                           f"kubectl -n {client.namespace} describe localqueue {queue}")  # fmt: skip
    return Finding(subject, OK, queue)


def _objects(client: KubeClient, own: DoctorFlags, objects: Sequence[Object]) -> Iterator[Finding]:
    """Yield the namespace, and what a run's pods and the flag --priority refer to."""
    needs = [preflight.Need("Namespace", own.namespace), preflight.Need("ServiceAccount", "deepdetect")]
    needs += [preflight.Need("PriorityClass", name) for name in dict.fromkeys((*_PRIORITIES, own.priority))]
    needs += [need for item in objects for need in preflight.needs(item) if need.kind != "LocalQueue"]
    classes = []
    for need in dict.fromkeys(needs):
        finding = _need(client, need, own.platform)
        if need.kind == "PriorityClass" and finding.state == OK:
            classes.append(need.name)
        else:
            yield finding
    if classes:
        yield Finding("priority classes", OK, ", ".join(classes))


def _need(client: KubeClient, need: preflight.Need, platform: str) -> Finding:
    subject = {"PersistentVolumeClaim": "claim", "ServiceAccount": "account", "PriorityClass": "priority class"}
    notes: list[str] = []
    item = preflight.look(client, need.kind, need.name, notes)
    name = subject.get(need.kind, need.kind.lower())
    if item is False:
        return Finding(name, UNKNOWN, notes[0])
    if item is None:
        return Finding(name, MISSING, f"no {need.kind} {need.name}", preflight.remedy_of(need, platform))
    return Finding(name, OK, need.name)


def _data(own: DoctorFlags) -> Finding:
    if not own.data_dir:
        return Finding("data_dir", UNKNOWN, "not checked", "give --data_dir, and --pods to look from inside a pod")
    try:
        note = images.require(own.data_dir)
    except RequestError as error:
        return Finding("data_dir", MISSING, str(error))
    return Finding("data_dir", UNKNOWN if note else OK, note or f"{own.data_dir} exists")
