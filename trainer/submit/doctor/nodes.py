"""Nodes with GPUs: the device plugin, what it advertises, and whether pods can be placed there."""

from trainer.submit.doctor.findings import MISSING, OK, UNKNOWN, Finding
from trainer.submit.kube.api import KubeClient, Object, Refused
from trainer.submit.kube.render import GPU

_PLUGIN = "device plugin"
_NODES = "GPU nodes"
# Labels of GKE, and of NVIDIA's feature discovery.
_SIGNS = ("cloud.google.com/gke-accelerator", "nvidia.com/gpu.product", "nvidia.com/gpu.present")


def check(client: KubeClient, selector: dict[str, str], gpus: int) -> list[Finding]:
    """Return what the nodes have for pods with this selector and number of GPUs."""
    if not gpus:
        return []
    try:
        nodes = client.list("Node").items
    except Refused as error:
        return [Finding(_NODES, UNKNOWN, f"not looked at: {error}", "ask for the ClusterRole deepdetect-user")]
    with_gpus = [node for node in nodes if _has_gpu(node)]
    if not with_gpus:
        text = f"none of {len(nodes)} nodes has a GPU now"
        return [Finding(_NODES, UNKNOWN, text, "nothing if an autoscaler adds them (--pods lets it); else add some")]
    return [_plugin(with_gpus), _fitting(with_gpus, selector, gpus)]


def _has_gpu(node: Object) -> bool:
    labels = node["metadata"].get("labels", {})
    return any(sign in labels for sign in _SIGNS) or _allocatable(node) > 0


def _plugin(nodes: list[Object]) -> Finding:
    without = [node["metadata"]["name"] for node in nodes if not _allocatable(node)]
    if not without:
        return Finding(_PLUGIN, OK, f"advertises GPUs on {len(nodes)} of {len(nodes)} nodes with GPUs")
    state = MISSING if len(without) == len(nodes) else UNKNOWN
    return Finding(
        _PLUGIN, state, f"{len(without)} of {len(nodes)} nodes with GPUs advertise none ({', '.join(without[:3])})",
        "look at the driver and the plugin there: kubectl get pods -A -o wide | grep -E 'nvidia|gpu'",
    )  # fmt: skip


def _fitting(nodes: list[Object], selector: dict[str, str], gpus: int) -> Finding:
    fitting = [node for node in nodes if selector.items() <= node["metadata"].get("labels", {}).items()]
    large = [node for node in fitting if _allocatable(node) >= gpus]
    usable = [node for node in large if not _reason(node)]
    words = f"{len(usable)} with {gpus} GPUs each" if usable else _why(nodes, fitting, large, selector, gpus)
    if len(usable) > 1:
        return Finding(_NODES, OK, words)
    if usable:
        return Finding(_NODES, OK, f"{words}; --workers=2 needs one more")
    return Finding(_NODES, UNKNOWN, words, "nothing if an autoscaler adds them (--pods lets it); else add some")


def _why(nodes: list[Object], fitting: list[Object], large: list[Object], selector: dict[str, str], gpus: int) -> str:
    """Return why no node can be used."""
    if not fitting:
        absent = [f"{name}={value}" for name, value in selector.items()
                  if not any(node["metadata"].get("labels", {}).get(name) == value for node in nodes)]  # fmt: skip
        return f"no node with GPUs has {', '.join(absent or [f'{n}={v}' for n, v in selector.items()])}"
    if not large:
        return f"none that fits has {gpus} GPUs (at most {max(map(_allocatable, fitting))})"
    return "; ".join(f"{node['metadata']['name']} {_reason(node)}" for node in large[:3])


def _reason(node: Object) -> str:
    """Return why no pod starts on a node; empty if pods do."""
    if node.get("spec", {}).get("unschedulable"):
        return "is cordoned: kubectl uncordon"
    conditions = {entry["type"]: entry["status"] for entry in node.get("status", {}).get("conditions", [])}
    return "is not ready" if conditions.get("Ready", "True") != "True" else ""


def _allocatable(node: Object) -> int:
    return int(node.get("status", {}).get("allocatable", {}).get(GPU, 0))
