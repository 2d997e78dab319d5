"""What ``up`` makes on Google Cloud, in order, as shell commands that ask, make and delete.

What it makes carries a mark, so that ``down`` leaves alone what somebody else made under the same name.
"""

import dataclasses
import shlex
from collections.abc import Iterator

from trainer.submit import releases
from trainer.submit.cloud.flags import MACHINES, DownFlags, PlaceFlags, UpFlags
from trainer.submit.platforms import SOURCES

_MARK = "deepdetect=up"  # Label of what "up" made.
_LABEL = "deepdetect"
_ACCOUNT = "deepdetect"  # As overlays/gke-*/kustomization.yaml name it.
_REPOSITORY = "images"
_SERVICES = ("container.googleapis.com", "artifactregistry.googleapis.com", "cloudbuild.googleapis.com")
# Of the overlay: with a part of them only, it is applied again.
_OBJECTS = ("serviceaccount/deepdetect", "role/deepdetect-user", "networkpolicy/deny-ingress",
            "priorityclass/deepdetect-low", "priorityclass/deepdetect-default",
            "priorityclass/deepdetect-high")  # fmt: skip
_WORKLOADS = "[deepdetect/deepdetect]"  # Namespace and account of the pods.


@dataclasses.dataclass(frozen=True)
class Resource:
    """One thing of the cloud.

    Attributes:
        name: for people.
        ask: command that prints something if it is there.
        make: commands that make it.
        ask_own: command that prints something if it is there and ``up`` made it; empty: nothing is to be deleted.
        delete: commands that delete it.
    """

    name: str
    ask: str
    make: tuple[str, ...]
    ask_own: str = ""
    delete: tuple[str, ...] = ()


def of_up(own: UpFlags) -> Iterator[Resource]:
    """Yield what up makes, in order."""
    cloud = _Cloud(own)
    yield cloud.services()
    yield cloud.cluster()
    if own.platform == "gke-standard":
        for kind in own.pools.split(","):
            yield cloud.pool(kind, own.zones, own.max_nodes)
    yield cloud.credentials()
    yield cloud.controller("JobSet", "jobset-system", "jobset-controller-manager", releases.JOBSET)
    if own.queue:
        yield cloud.controller("Kueue", "kueue-system", "kueue-controller-manager", releases.KUEUE)
    yield cloud.bucket()
    yield cloud.account()
    yield cloud.access_to_bucket()
    yield cloud.identity()
    yield cloud.namespace()
    if own.queue:
        yield cloud.queue()
    yield cloud.repository()


def of_down(own: DownFlags) -> Iterator[Resource]:
    """Yield what down deletes, in order; what lies in a cluster goes with it."""
    cloud = _Cloud(own)
    yield cloud.cluster()
    if own.platform == "gke-standard":  # Of a cluster that somebody else made.
        for kind in own.pools.split(","):
            yield cloud.pool(kind, "", 1)
    yield cloud.access_to_bucket()
    yield cloud.account()
    yield cloud.repository()
    if own.delete_bucket:
        yield cloud.bucket()


class _Cloud:
    """The commands for one project, region and cluster."""

    def __init__(self, own: PlaceFlags) -> None:
        self.own = own
        self.member = f"{_ACCOUNT}@{own.project}.iam.gserviceaccount.com"
        self.context = f"gke_{own.project}_{own.region}_{own.cluster}"

    def services(self) -> Resource:
        shown = self._gcloud("services", "list", "--enabled", "--format=value(config.name)")
        ask = f"{shown} | grep -xE {shlex.quote('|'.join(_SERVICES))} | {_all(len(_SERVICES))}"
        return Resource("services", ask, (self._gcloud("services", "enable", *_SERVICES),))

    def cluster(self) -> Resource:
        own, name = self.own, self.own.cluster
        where = f"--region={own.region}"
        if own.platform == "gke-autopilot":
            make = self._gcloud("container", "clusters", "create-auto", name, where, f"--labels={_MARK}")
        else:
            make = self._gcloud("container", "clusters", "create", name, where, "--num-nodes=1",
                                "--enable-dataplane-v2", f"--workload-pool={own.project}.svc.id.goog",
                                "--addons=GcsFuseCsiDriver", f"--labels={_MARK}")  # fmt: skip
        ask = ("container", "clusters", "describe", name, where)
        return Resource(
            f"cluster {name}", self._gcloud(*ask, "--format=value(name)"), (make,),
            self._gcloud(*ask, f"--format=value(resourceLabels.{_LABEL})"),
            (self._gcloud("container", "clusters", "delete", name, where, "--quiet"),),
        )  # fmt: skip

    def pool(self, kind: str, zones: str, max_nodes: int) -> Resource:
        own, is_spot = self.own, kind == "spot"
        name = f"{own.accelerator.removeprefix('nvidia-')}-{own.gpus}{'-spot' if is_spot else ''}"
        where = (f"--cluster={own.cluster}", f"--region={own.region}")
        spot = ("--spot", "--node-taints=cloud.google.com/gke-spot=true:NoSchedule") if is_spot else ()
        make = self._gcloud(
            "container", "node-pools", "create", name, *where,
            f"--machine-type={MACHINES[own.accelerator][own.gpus]}",
            f"--accelerator=type={own.accelerator},count={own.gpus},gpu-driver-version=latest", *spot,
            "--workload-metadata=GKE_METADATA", "--num-nodes=0", "--enable-autoscaling", "--min-nodes=0",
            f"--max-nodes={max_nodes}", *((f"--node-locations={zones}",) if zones else ()), f"--labels={_MARK}",
        )  # fmt: skip
        ask = ("container", "node-pools", "describe", name, *where)
        return Resource(
            f"node pool {name}", self._gcloud(*ask, "--format=value(name)"), (make,),
            self._gcloud(*ask, f"--format=value(config.resourceLabels.{_LABEL})"),
            (self._gcloud("container", "node-pools", "delete", name, *where, "--quiet"),),
        )  # fmt: skip

    def credentials(self) -> Resource:
        own = self.own
        make = self._gcloud("container", "clusters", "get-credentials", own.cluster, f"--region={own.region}")
        return Resource("kubeconfig", shlex.join(["kubectl", "config", "get-contexts", "-o", "name", self.context]),
                        (make,))  # fmt: skip

    def controller(self, name: str, namespace: str, deployment: str, url: str) -> Resource:
        target = f"deployment/{deployment}"
        return Resource(
            name, self._kubectl("-n", namespace, "get", target, "-o", "name"),
            (self._kubectl("apply", "--server-side", "-f", url),
             self._kubectl("-n", namespace, "rollout", "status", target, "--timeout=5m")),
        )  # fmt: skip

    def bucket(self) -> Resource:
        url = f"gs://{self.own.bucket}"
        ask = ("storage", "buckets", "describe", url)
        return Resource(
            f"bucket {url}", self._gcloud(*ask, "--format=value(name)"),
            (self._gcloud("storage", "buckets", "create", url, f"--location={self.own.region}",
                          "--uniform-bucket-level-access"),),
            self._gcloud(*ask, "--format=value(name)"),  # Whoever says --delete_bucket means it.
            (self._gcloud("storage", "rm", "--recursive", url, "--quiet"),),
        )  # fmt: skip

    def account(self) -> Resource:
        ask = ("iam", "service-accounts", "describe", self.member)
        return Resource(
            f"account {self.member}", self._gcloud(*ask, "--format=value(email)"),
            (self._gcloud("iam", "service-accounts", "create", _ACCOUNT, f"--description={_MARK}"),),
            f"{self._gcloud(*ask, '--format=value(description)')} | grep -x {_MARK}",
            (self._gcloud("iam", "service-accounts", "delete", self.member, "--quiet"),),
        )  # fmt: skip

    def access_to_bucket(self) -> Resource:
        url, member = f"gs://{self.own.bucket}", f"serviceAccount:{self.member}"
        role = "roles/storage.objectUser"
        words = (url, f"--role={role}", f"--member={member}")
        ask = self._bound(("storage", "buckets"), url, role, member)
        return Resource(
            "access to the bucket", ask, (self._gcloud("storage", "buckets", "add-iam-policy-binding", *words),),
            f"{self.account().ask_own} > /dev/null && {ask}",  # A binding has no mark: that of its account counts.
            (self._gcloud("storage", "buckets", "remove-iam-policy-binding", *words),),
        )  # fmt: skip

    def identity(self) -> Resource:
        role, member = "roles/iam.workloadIdentityUser", f"serviceAccount:{self.own.project}.svc.id.goog{_WORKLOADS}"
        group = ("iam", "service-accounts")
        words = (self.member, f"--role={role}", f"--member={member}")
        return Resource("Workload Identity", self._bound(group, self.member, role, member),
                        (self._gcloud(*group, "add-iam-policy-binding", *words),))  # fmt: skip

    def namespace(self) -> Resource:
        overlay = shlex.quote(str(SOURCES / "overlays" / self.own.platform))
        project = shlex.quote(f"s/PROJECT_ID/{self.own.project}/")
        shown = self._kubectl("get", *_OBJECTS, "-n", "deepdetect", "-o", "name", "--ignore-not-found")
        return Resource(
            "namespace deepdetect",
            f"{shown} | {_all(len(_OBJECTS))}",
            (f"kubectl kustomize {overlay} | sed {project} | {self._kubectl('apply', '-f', '-')}",),
        )

    def queue(self) -> Resource:
        folder = str(SOURCES / "components" / "kueue" / "queues")
        ask = self._kubectl("get", "localqueue", "deepdetect", "-n", "deepdetect", "-o", "name")
        return Resource("queue deepdetect", ask, (self._kubectl("apply", "-k", folder),))

    def repository(self) -> Resource:
        where = f"--location={self.own.region}"
        ask = ("artifacts", "repositories", "describe", _REPOSITORY, where)
        return Resource(
            f"repository {self.own.region}-docker.pkg.dev/{self.own.project}/{_REPOSITORY}",
            self._gcloud(*ask, "--format=value(name)"),
            (self._gcloud("artifacts", "repositories", "create", _REPOSITORY, where, "--repository-format=docker",
                          f"--labels={_MARK}"),),
            self._gcloud(*ask, f"--format=value(labels.{_LABEL})"),
            (self._gcloud("artifacts", "repositories", "delete", _REPOSITORY, where, "--quiet"),),
        )  # fmt: skip

    def _bound(self, group: tuple[str, ...], name: str, role: str, member: str) -> str:
        """Return the command that prints a line if somebody has a role."""
        shown = self._gcloud(*group, "get-iam-policy", name, "--flatten=bindings[].members",
                             "--format=csv[no-heading](bindings.role,bindings.members)")  # fmt: skip
        return f"{shown} | grep -xF {shlex.quote(f'{role},{member}')}"

    def _gcloud(self, *words: str) -> str:
        return shlex.join(["gcloud", *words, f"--project={self.own.project}"])

    def _kubectl(self, *words: str) -> str:
        return shlex.join(["kubectl", f"--context={self.context}", *words])


def _all(count: int) -> str:
    """Return the command that prints a line if it reads so many lines."""
    return f"grep -c . | grep -x {count}"
