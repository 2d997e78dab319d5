"""The flags of up and down, and their checks."""

import dataclasses
import re

from trainer.core.config import setting
from trainer.core.errors import RequestError

PLATFORMS = ("gke-standard", "gke-autopilot")
# Machine types by GPUs; that for one L4 has room for the run's share of CPU and memory in k8s/components/gpu-l4.
MACHINES = {
    "nvidia-l4": {1: "g2-standard-12", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"},
    "nvidia-tesla-a100": {count: f"a2-highgpu-{count}g" for count in (1, 2, 4, 8)},
    "nvidia-h100-80gb": {count: f"a3-highgpu-{count}g" for count in (1, 2, 4, 8)},
}
_FORMS = {
    "project": (r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project's id"),
    "region": (r"[a-z]+-[a-z]+[0-9]+", "a region such as us-central1"),
    "bucket": (r"[a-z0-9][a-z0-9_.-]{1,220}[a-z0-9]", "a bucket's name without gs://"),
    "cluster": (r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", "small letters, digits and -"),
    "zones": (r"([a-z]+-[a-z]+[0-9]+-[a-z](,[a-z]+-[a-z]+[0-9]+-[a-z])*)?", "zones such as us-central1-a"),
}


@dataclasses.dataclass(frozen=True)
class PlaceFlags:
    """What up and down share."""

    project: str = setting("", "Google Cloud project.")
    region: str = setting("us-central1", "Region of all.")
    bucket: str = setting("", "Name of the bucket for images and jobs.")
    cluster: str = setting("deepdetect", "Name of the cluster.")
    platform: str = setting("gke-standard", "Kind of cluster.", choices=PLATFORMS)
    accelerator: str = setting("nvidia-l4", "Kind of GPU of the node pools.", choices=tuple(MACHINES))
    gpus: int = setting(4, "GPUs of each machine of the node pools.", unit="GPUs", minimum=1, maximum=8)
    pools: str = setting(
        "spot", "Node pools: on-demand, spot or both; they have no machine until a run needs one.",
        choices=("on-demand", "spot"), several=True,
    )  # fmt: skip
    dry_run: bool = setting(False, "Print a shell script that does the same, and do nothing.")


@dataclasses.dataclass(frozen=True)
class UpFlags(PlaceFlags):
    """Settings of up."""

    zones: str = setting("", "Zones of the node pools, with commas, as not all have every GPU; empty: the region's.")
    max_nodes: int = setting(2, "Most machines of each node pool, in each zone.", unit="machines", minimum=1)
    queue: bool = setting(False, "Also install Kueue and the example queue of k8s/components/kueue/queues.")


@dataclasses.dataclass(frozen=True)
class DownFlags(PlaceFlags):
    """Settings of down."""

    delete_bucket: bool = setting(False, "Also delete the bucket with all images and jobs.")
    yes: bool = setting(False, "Delete what is listed; without it nothing is.")


def check(own: PlaceFlags) -> None:
    """Refuse names that Google Cloud would refuse, and machines that do not exist.

    Raises:
        RequestError: naming the flag.
    """
    for name, (form, meaning) in _FORMS.items():
        value = getattr(own, name, "")
        if not re.fullmatch(form, value):
            raise RequestError(f"--{name}: expected {meaning}, received {value or 'none'}")
    sizes = MACHINES[own.accelerator]
    if own.gpus not in sizes:
        counts = ", ".join(map(str, sizes))
        raise RequestError(f"--gpus: expected a machine's number of {own.accelerator} ({counts}), received {own.gpus}")
