"""The pods of the doctor: those of a run on two machines, which run the self-test in place of the trainer."""

import copy
from collections.abc import Sequence

from trainer.submit.doctor.flags import DoctorFlags
from trainer.submit.kube.api import Object
from trainer.submit.kube.render import INSTANCE, pod_templates

_KEPT_SECONDS = 600  # If this machine cannot delete it.
# A failed check must not end the other pod, whose result is wanted as well.
_RUN = ["sh", "-c", 'python -m trainer.train --selftest "$@" || true', "selftest"]
_MEET_SHARE = 0.5  # Of the time: the two pods may start minutes apart.


def of_test(own: DoctorFlags, objects: Sequence[Object]) -> list[Object]:
    """Return a run's objects, changed to test two nodes once."""
    made = copy.deepcopy(list(objects))
    jobset = made[0]
    name = jobset["metadata"]["name"]
    jobset["spec"]["failurePolicy"] = {"maxRestarts": 0}
    jobset["spec"]["ttlSecondsAfterFinished"] = _KEPT_SECONDS
    for template in pod_templates(jobset):
        pod = template["spec"]
        # Else two pods that fit on one node would test nothing between nodes.
        pod.setdefault("affinity", {})["podAntiAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {INSTANCE: name}}}
            ]
        }
        for container in pod.get("initContainers", []):
            container["command"], container["args"] = _RUN, []
        pod["containers"][0]["command"], pod["containers"][0]["args"] = _RUN, _words(own)
    return made


def _words(own: DoctorFlags) -> list[str]:
    words = [f"--cluster_seconds={own.wait_minutes * 60 * _MEET_SHARE:g}"]
    words += [f"--{flag}={getattr(own, flag)}" for flag in ("data_dir", "job_dir") if getattr(own, flag)]
    return [word.replace("$(", "$$(") for word in words]
