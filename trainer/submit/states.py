"""States of a run, and what every kind of cluster tells of one."""

import dataclasses

QUEUED, PENDING, RUNNING, STOPPING = "queued", "pending", "running", "stopping"
DONE, FAILED = "done", "failed"
# Of a run whose objects are no longer in the cluster: by cancel, by age, or for a reason that nobody noted.
CANCELLED, EXPIRED, GONE = "cancelled", "expired", "gone"
OVER = (DONE, FAILED, CANCELLED, EXPIRED, GONE)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: of the run.
        kind: Job or JobSet; empty if only its record is left in the cluster.
        state: one of ``states``.
        detail: the reason in the cluster's words; may be empty.
        job_dir: of the trainer.
        image: of the container.
        created: time of creation (RFC 3339); empty if unknown.
        gpus: of all its machines; 0 if unknown.
        queue: Kueue's LocalQueue; may be empty.
        owner: who submitted it; may be empty.
        is_sweep: whether it searches for settings.
        max_trials: of a sweep; 0 if unknown.
        accelerator: kind of its GPUs; empty if unknown.
        is_spot: whether its machines are spot machines.
        uid: of its object.
        is_noted: whether its record says how it ended.
    """

    name: str
    kind: str
    state: str
    detail: str
    job_dir: str
    image: str
    created: str = ""
    gpus: int = 0
    queue: str = ""
    owner: str = ""
    is_sweep: bool = False
    max_trials: int = 0
    accelerator: str = ""
    is_spot: bool = False
    uid: str = ""
    is_noted: bool = False

    @property
    def is_live(self) -> bool:
        """Whether its pods may still write into job_dir."""
        return self.state not in OVER


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a namespace.

    Attributes:
        items: the runs by name.
        notes: what could not be read of them.
        names: that are in use, also by runs that cannot be read.
    """

    items: list[Run]
    notes: list[str]
    names: frozenset[str]
