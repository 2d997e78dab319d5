"""The flags of the doctor, and the run whose needs it looks at."""

import dataclasses
import secrets

from trainer.core.config import PATH, setting
from trainer.submit import platforms, request
from trainer.submit.request import ClusterFlags, RunFlags

_ANY_IMAGE = "deepdetect:none"  # Of checks that start no pod.
_ANY_BUCKET = "gs://deepdetect-doctor"  # Stands for a place that was not given, until the request is checked.
_MACHINES = 2

USAGE = """\
Check a cluster: what must be there for runs, what is missing, and what to do.

  python scripts/submit.py doctor [flags]

Nothing is created.

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
    job_dir: str = setting("", "gs:// path, or path below --volume, of runs.", path=PATH)
    volume: str = setting("", "Storage to mount, as for run.")


def to_request(own: DoctorFlags) -> request.Request:
    """Return a checked run that needs what the flags name.

    Raises:
        RequestError: for the first flag that cannot work.
    """
    run = RunFlags(
        name=f"doctor-{secrets.token_hex(3)}",
        image=_ANY_IMAGE,
        data_dir=own.data_dir or f"{_ANY_BUCKET}/faces",
        job_dir=own.job_dir or f"{_ANY_BUCKET}/jobs",
        workers=_MACHINES,
        gpus=max(own.gpus, 1),
        **{name: getattr(own, name) for name in ("namespace", "context", "platform", "accelerator", "spot", "queue",
                                                 "priority", "volume")},
    )  # fmt: skip
    checked = request.build(run, [f"--batch_size={run.gpus_per_model}"])
    given = dataclasses.replace(run, data_dir=own.data_dir, job_dir=own.job_dir)
    return dataclasses.replace(checked, run=given, trainer_words=())
