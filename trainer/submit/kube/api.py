"""Requests to the Kubernetes API server, with the official client's configuration, credentials and transport.

Objects are plain dicts, as the manifests are; nothing here knows what a run is.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

from trainer.core import environment, errors
from trainer.core.errors import JobFailed, RequestError

Object = dict[str, Any]

_PLURALS = {
    "ConfigMap": ("api/v1", "configmaps"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "Job": ("apis/batch/v1", "jobs"),
    "Event": ("api/v1", "events"),
    "JobSet": ("apis/jobset.x-k8s.io/v1alpha2", "jobsets"),
    "LocalQueue": ("apis/kueue.x-k8s.io/v1beta2", "localqueues"),
    "Namespace": ("api/v1", "namespaces"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "Node": ("api/v1", "nodes"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Pod": ("api/v1", "pods"),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets"),
    "PriorityClass": ("apis/scheduling.k8s.io/v1", "priorityclasses"),
    "Secret": ("api/v1", "secrets"),
    "SelfSubjectAccessReview": ("apis/authorization.k8s.io/v1", "selfsubjectaccessreviews"),
    "SelfSubjectReview": ("apis/authentication.k8s.io/v1", "selfsubjectreviews"),
    "ServiceAccount": ("api/v1", "serviceaccounts"),
    "Workload": ("apis/kueue.x-k8s.io/v1beta2", "workloads"),
}
# They lie in no namespace.
_OF_THE_CLUSTER = ("Namespace", "Node", "PriorityClass", "SelfSubjectAccessReview", "SelfSubjectReview")
_VISIBILITY = "apis/visibility.kueue.x-k8s.io/v1beta2"  # Of Kueue: what waits in a queue, in order.
_REQUEST_SECONDS = 30.0
_CONNECT_SECONDS = 6.0  # Three times, as it is retried: without a route an answer takes 20 s.
_RETRY_MAY_HELP = (408, 429)
_GONE = 410


class Refused(RequestError):
    """The API server refused a request; the message is the server's."""

    def __init__(self, code: int, message: str) -> None:
        """Create the error with the HTTP status."""
        super().__init__(message)
        self.code = code


class Interrupted(Exception):
    """A stream ended in the middle; what it delivered before is valid."""


class Outdated(Exception):
    """A watch must start again from a new list (410 Gone)."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """Objects, and the version from which a watch continues."""

    items: list[Object]
    version: str


class KubeClient:
    """A client for one namespace of one cluster."""

    def __init__(self, namespace: str, context: str = "") -> None:
        """Read the kubeconfig, or inside a pod its service account.

        Raises:
            RequestError: if there is none, or no such context.
        """
        try:
            from kubernetes import client, config  # Late: --help and a wrong flag do not need it.
        except ImportError as error:
            raise RequestError("expected the package kubernetes, received none; pip install -e .") from error
        configuration = client.Configuration()
        expected = f"a kubeconfig with the context {context!r}" if context else "a kubeconfig"
        in_pod = environment.is_pod() and "KUBECONFIG" not in os.environ
        try:
            if in_pod and not context:
                config.load_incluster_config(client_configuration=configuration)
            else:
                # Passed here, because the client reads the variable only when it is imported.
                config.load_kube_config(
                    os.environ.get("KUBECONFIG") or None, context or None, client_configuration=configuration
                )
        except (config.ConfigException, OSError, TypeError, ValueError) as error:
            raise RequestError(
                f"expected {expected}, received: {error}; on GKE: gcloud container clusters get-credentials NAME"
            ) from error
        configuration.retries = 2
        self._client = client.ApiClient(configuration)
        self.namespace = namespace

    def create(self, item: Object, *, dry_run: bool = False) -> Object:
        """Create an object; unknown fields are refused.

        Raises:
            Refused: with code 409 if the name is taken.
        """
        query = {"fieldValidation": "Strict", "fieldManager": "deepdetect-submit"}
        return self._json("POST", self._path(item["kind"]), {**query, **({"dryRun": "All"} if dry_run else {})}, item)

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None if it or its kind does not exist."""
        try:
            return self._json("GET", self._path(kind, name))
        except Refused as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind: str, selector: str = "", fields: str = "", namespace: str = "") -> Listing:
        """Return the objects that match label and field selectors; none if the kind does not exist."""
        query = {"labelSelector": selector, "fieldSelector": fields}
        path = self._path(kind, namespace=namespace)
        try:
            content = self._json("GET", path, {name: value for name, value in query.items() if value})
        except Refused as error:
            if error.code == 404:
                return Listing([], "")
            raise
        items = [{"kind": kind, **item} for item in content.get("items", [])]
        return Listing(items, content.get("metadata", {}).get("resourceVersion", ""))

    def annotate(self, kind: str, name: str, annotations: dict[str, str]) -> None:
        """Add annotations to an object."""
        self.patch(kind, name, {"metadata": {"annotations": annotations}})

    def patch(self, kind: str, name: str, changes: Object) -> None:
        """Merge changes into an object."""
        self._json("PATCH", self._path(kind, name), {"fieldManager": "deepdetect-submit"}, changes)

    def pending_in(self, queue: str) -> Listing:
        """Return what waits in one of Kueue's LocalQueues, in order."""
        path = f"/{_VISIBILITY}/namespaces/{self.namespace}/localqueues/{queue}/pendingworkloads"
        return Listing(self._json("GET", path).get("items", []), "")

    def user(self) -> str:
        """Return the name by which the API server knows whoever asks."""
        kind, version = "SelfSubjectReview", "authentication.k8s.io/v1"
        answer = self._json("POST", self._path(kind), None, {"kind": kind, "apiVersion": version})
        return str(answer["status"]["userInfo"]["username"])

    def version(self) -> str:
        """Return the API server's version."""
        return str(self._json("GET", "/version").get("gitVersion", ""))

    def serves(self, kind: str) -> bool:
        """Return whether the API server knows a kind."""
        group, plural = _PLURALS[kind]
        try:
            resources = self._json("GET", f"/{group}").get("resources", [])
        except Refused as error:
            if error.code == 404:
                return False
            raise
        return any(entry["name"] == plural for entry in resources)

    def may(self, verb: str, group: str, resource: str, *, in_namespace: bool = True) -> bool:
        """Return whether whoever asks may do something to a kind of object (``pods`` or ``pods/log``)."""
        kind, version = "SelfSubjectAccessReview", "authorization.k8s.io/v1"
        name, _, part = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": name, "subresource": part,
                      **({"namespace": self.namespace} if in_namespace else {})}  # fmt: skip
        body = {"kind": kind, "apiVersion": version, "spec": {"resourceAttributes": attributes}}
        return bool(self._json("POST", self._path(kind), None, body).get("status", {}).get("allowed"))

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object after what it owns (pods get their grace period); return whether it existed."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        try:
            self._json("DELETE", self._path(kind, name), None, body)
        except Refused as error:
            if error.code == 404:
                return False
            raise
        return True

    def watch(self, kind: str, selector: str, version: str, seconds: int) -> Iterator[tuple[str, Object]]:
        """Yield (ADDED, MODIFIED, DELETED or BOOKMARK; object) after a version, for at most ``seconds``.

        Raises:
            Outdated: if the server has forgotten the version.
            Interrupted: if the connection broke.
        """
        query = {"watch": "true", "labelSelector": selector, "resourceVersion": version, "timeoutSeconds": str(seconds),
                 "allowWatchBookmarks": "true"}  # fmt: skip
        try:
            lines = self._lines(self._path(kind), query, seconds + _REQUEST_SECONDS)
            for line in lines:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == _GONE:
                        raise Outdated
                    raise Interrupted(event["object"].get("message", ""))
                yield event["type"], event["object"]
        except Refused as error:
            if error.code == _GONE:
                raise Outdated from error
            raise
        except json.JSONDecodeError as error:
            raise Interrupted("half a line") from error

    def log(self, pod: str, container: str, *, follow: bool, since_seconds: int = 0) -> Iterator[str]:
        """Yield the lines of a container's log, each after its time (RFC 3339, nanoseconds).

        Raises:
            Interrupted: if the connection broke.
        """
        query = {"container": container, "timestamps": "true", "follow": "true" if follow else "false"}
        if since_seconds:
            query["sinceSeconds"] = str(since_seconds)
        yield from self._lines(f"{self._path('Pod', pod)}/log", query, None)

    def _path(self, kind: str, name: str = "", namespace: str = "") -> str:
        group, plural = _PLURALS[kind]
        place = "" if kind in _OF_THE_CLUSTER else f"/namespaces/{namespace or self.namespace}"
        return f"/{group}{place}/{plural}{f'/{name}' if name else ''}"

    def _json(self, method: str, path: str, query: dict[str, str] | None = None, body: Object | None = None) -> Object:
        with _transport_errors():
            response = self._send(method, path, query, body, (_CONNECT_SECONDS, _REQUEST_SECONDS))
            text = response.read()
        if not 200 <= response.status < 300:
            raise _refusal(response.status, text)
        return dict(json.loads(text))

    def _lines(self, path: str, query: dict[str, str], seconds: float | None) -> Iterator[str]:
        import urllib3

        with _transport_errors():
            response = self._send("GET", path, query, None, (_CONNECT_SECONDS, seconds))
            if response.status != 200:
                raise _refusal(response.status, response.read())
        raw, rest = response.response, b""
        try:
            for chunk in raw.stream(65536, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Interrupted(str(error)) from error
        finally:
            raw.close()
        if rest:
            yield rest.decode("utf-8", "replace")

    def _send(self, method: str, path: str, query: dict[str, str] | None, body: Object | None, timeout: Any) -> Any:
        form = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", **({"Content-Type": form} if body else {})}
        words = self._client.param_serialize(
            method, path, query_params=list((query or {}).items()), header_params=headers, body=body,
            auth_settings=["BearerToken"],
        )  # fmt: skip
        return self._client.call_api(*words, _request_timeout=timeout)


@contextlib.contextmanager
def _transport_errors() -> Iterator[None]:
    import urllib3

    try:
        yield
    except (urllib3.exceptions.HTTPError, OSError) as error:
        reason = errors.of_connection(error)
        raise JobFailed(f"the Kubernetes API server does not answer: {reason}; look at the kubeconfig") from error


def _refusal(code: int, text: bytes) -> Exception:
    """Return the error for a refused request, with the server's message in one line."""
    try:
        message = str(json.loads(text).get("message", "")) or text.decode("utf-8", "replace")
    except (ValueError, AttributeError):
        message = text.decode("utf-8", "replace")[:300]
    words = f"the Kubernetes API server said {code}: {' '.join(message.split())}"
    if code >= 500 or code in _RETRY_MAY_HELP:
        return JobFailed(f"{words}; try again")
    return Refused(code, words)
