"""The flags of the doctor, and the run whose needs it looks at."""

import dataclasses
import secrets

from trainer.core.config import PATH, setting
from trainer.submit import platforms, request
from trainer.submit.kube import checks
from trainer.submit.request import ClusterFlags, RunFlags

_ANY_IMAGE = "deepdetect:none"  # Of checks that start no pod.
_ANY_BUCKET = "gs://deepdetect-doctor"  # Stands for a place that was not given, until the request is checked.
_MACHINES = 2

USAGE = """\
Check a cluster: what must be there for runs, what is missing, and what to do.

  python scripts/submit.py doctor [flags]
  python scripts/submit.py doctor --pods --image=I --data_dir=gs://.. --job_dir=gs://.. [flags]

Nothing is created without --pods. With it, two pods on two nodes test GPUs, storage, names and an all-reduce; they are
deleted at the end, also after Ctrl-C.

Exit codes: 0 nothing is missing; 1 something is; 2 the request is wrong."""


@dataclasses.dataclass(frozen=True)
class DoctorFlags(ClusterFlags):
    """Settings of doctor."""

    platform: str = setting(platforms.DEFAULT, "Kind of cluster, as for run.", choices=request.PLATFORMS)
    accelerator: str = setting("nvidia-l4", "Kind of GPU, as for run.")
    gpus: int = setting(1, "GPUs of each machine; 0: look for none.", unit="GPUs", minimum=0)
    spot: bool = setting(False, "Look for spot machines.")
    queue: str = setting("", "Kueue's LocalQueue to look for; empty: none.")
    priority: str = setting(request.DEFAULT_PRIORITY, "PriorityClass of the pods.")
    data_dir: str = setting("", "gs:// path, or path below --volume, that must be readable.", path=PATH)
    job_dir: str = setting("", "gs:// path, or path below --volume, that must be writable.", path=PATH)
    volume: str = setting("", "Storage to mount, as for run.")
    pods: bool = setting(False, "Also start two pods, which use --gpus each for a few minutes.")
    image: str = setting("", "Image of the pods, with a tag or digest; auto: what run --image=auto builds.")
    repository: str = setting("", "With --image=auto: where images go, as for run.")
    wait_minutes: float = setting(
        15.0, "Wait this long for machines and for the pods' results.", unit="minutes", minimum=0.0, exclusive=True
    )


def to_request(own: DoctorFlags) -> request.Request:
    """Return a checked run that needs what the flags name.

    Raises:
        RequestError: for the first flag that cannot work.
    """
    run = RunFlags(
        name=f"doctor-{secrets.token_hex(3)}",
        image=own.image or _ANY_IMAGE,
        data_dir=own.data_dir or f"{_ANY_BUCKET}/faces",
        job_dir=own.job_dir or f"{_ANY_BUCKET}/jobs",
        workers=_MACHINES,
        gpus=max(own.gpus, 1),
        max_hours=own.wait_minutes / 60,
        **{name: getattr(own, name) for name in ("namespace", "context", "platform", "accelerator", "spot", "queue",
                                                 "priority", "volume")},
    )  # fmt: skip
    checked = checks.build(run, [f"--batch_size={run.gpus_per_model}"])
    given = dataclasses.replace(run, data_dir=own.data_dir, job_dir=own.job_dir)
    return dataclasses.replace(checked, run=given, trainer_words=())
