"""When state is saved, how much of it is kept, and how a job resumes."""

import dataclasses

from trainer.core.config.field import setting


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved besides at the ends of epochs, how much of it is kept, and how a job resumes."""

    checkpoint_every_steps: int = setting(
        0,
        "Also checkpoint every N steps; 0: only after each epoch.",
        unit="steps",
        minimum=0,
        fixed=False,
    )
    checkpoint_every_seconds: float = setting(
        0.0,
        "Also checkpoint every N seconds; 0: never.",
        unit="seconds",
        minimum=0.0,
        fixed=False,
    )
    keep_checkpoints: int = setting(
        3, "Newest checkpoints to keep, in addition to that of the best epoch.", minimum=1, fixed=False
    )
    resume: str = setting(
        "auto",
        "auto: resume from job_dir's newest valid checkpoint, or start. never: move what job_dir holds aside "
        "(nothing is deleted) and start over, once: the same command again continues until the job is done. required: "
        "refuse a job_dir without a checkpoint.",
        choices=("auto", "never", "required"),
        fixed=False,
    )
