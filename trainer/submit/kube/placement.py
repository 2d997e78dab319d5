"""Where the machines of a run are: their zone, and how close to each other those that train one model are."""

import copy

from trainer.submit.kube.api import Object
from trainer.submit.request import RunFlags

ZONE = "topology.kubernetes.io/zone"
_PREFERRED = "kueue.x-k8s.io/podset-preferred-topology"
_DURATION = "provreq.kueue.x-k8s.io/maxRunDurationSeconds"


def apply(template: Object, run: RunFlags) -> None:
    """Place the pods with GPUs of a run."""
    if run.zone:
        template["spec"].setdefault("nodeSelector", {})[ZONE] = run.zone
    if not run.topology:
        return
    if run.queue:
        template["metadata"].setdefault("annotations", {})[_PREFERRED] = run.topology
        return
    # The base prefers one zone; one more term of the same kind prefers what is closer.
    terms = template["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    term = copy.deepcopy(terms[0])
    term["podAffinityTerm"]["topologyKey"] = run.topology
    terms.append(term)


def tell_duration(item: Object, run: RunFlags) -> None:
    """Tell a queue that provisions machines how long a run needs them."""
    if run.queue and run.max_hours:
        item["metadata"].setdefault("annotations", {})[_DURATION] = str(max(round(run.max_hours * 3600), 1))
