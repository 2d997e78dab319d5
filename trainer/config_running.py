"""The settings of a run: on which devices, which of its states are kept, and what is handed over at the end.

See ``config.py``.  Imports no TensorFlow.
"""

import dataclasses

from trainer.setting import Value, setting


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """Which devices, in which arithmetic."""

    precision: str = setting(
        "auto",
        "auto: mixed_bfloat16 where the hardware has it (GPU compute capability 8.0 up, CPU with avx512_bf16 or "
        "amx_bf16), else mixed_float16 on a GPU, else float32.",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )
    strategy: str = setting(
        "auto",
        "auto: multi_worker if the environment describes several processes, else all GPUs of this machine, else one "
        "CPU device. single: one device. mirrored: --num_devices devices. multi_worker: --num_devices devices of each "
        "process that TF_CONFIG, Kubernetes or Slurm describes (README, Several machines).",
        choices=("auto", "single", "mirrored", "multi_worker"),
        fixed=False,
    )
    num_devices: int = setting(
        0,
        "Devices to use in each process; 0: all. Without a GPU it makes that many logical CPU devices.",
        minimum=0,
        fixed=False,
    )
    xla: bool = setting(False, "Compile the forward and backward pass with XLA (faster on a GPU, slower on a CPU).")
    deterministic: bool = setting(
        False, "Ask TensorFlow for deterministic kernels: on a GPU needed for bitwise equal runs, and slower."
    )
    allreduce_dtype: str = setting(
        "auto",
        "Numbers in which gradients travel between devices. auto: float64 on a CPU and with --deterministic (any "
        "number of devices then gives the same weights), else float32. float16 and bfloat16 halve the bytes of "
        "float32 and round every gradient to 11 or 8 bits before it is added; float16 brings a loss scale.",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    peer_timeout_seconds: float = setting(
        60.0,
        "With several processes: one that is silent for so long is lost, and all others exit with code 75.",
        unit="seconds",
        minimum=1.0,
        fixed=False,
    )
    startup_timeout_seconds: float = setting(
        600.0,
        "With several processes: how long they wait for each other at the start before they exit with code 75.",
        unit="seconds",
        minimum=1.0,
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved beside the ends of epochs, how much of it is kept, and how it is used again."""

    checkpoint_every_steps: int = setting(
        0,
        "Also checkpoint every so many steps; 0: only after each epoch.",
        unit="steps",
        minimum=0,
        fixed=False,
    )
    checkpoint_every_seconds: float = setting(
        0.0,
        "Also checkpoint when so many seconds have passed; 0: never.",
        unit="seconds",
        minimum=0.0,
        fixed=False,
    )
    keep_checkpoints: int = setting(
        3, "Newest checkpoints to keep; the one of the best epoch stays beside them.", minimum=1, fixed=False
    )
    resume: str = setting(
        "auto",
        "auto: continue from job_dir's newest good checkpoint, or start. never: move what job_dir holds aside "
        "(nothing is deleted) and start. required: refuse a job_dir without a checkpoint.",
        choices=("auto", "never", "required"),
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What is handed over at the end."""

    export: str = setting(
        "best",
        "Which weights become SavedModels: best epoch, last step, both (all), or none.",
        choices=("best", "last", "all", "none"),
        fixed=False,
    )
    positive_class: str = setting(
        "",
        "Class that p_fake is the probability of; empty: Fake if there is such a class, else the first one.",
    )
    threshold_by: str = setting(
        "accuracy",
        "How the exported model's threshold is chosen on Validation (two classes). accuracy, balanced_accuracy: the "
        "best there. eer: misses and false alarms equally frequent. fpr: most found with --threshold_fpr. none: 0.5, "
        "as also with fewer than ten images of a class.",
        choices=("accuracy", "balanced_accuracy", "eer", "fpr", "none"),
        fixed=False,
    )
    threshold_fpr: float = setting(
        0.01,
        "Largest false positive rate on Validation, for --threshold_by=fpr.",
        minimum=0.0,
        maximum=1.0,
        exclusive=True,
        fixed=False,
    )
    calibrate: bool = setting(
        False,
        "Fit a temperature to the exported model's probabilities on Validation (Guo et al. 2017) before the threshold "
        "is chosen.",
        fixed=False,
    )

    @property
    def decision(self) -> dict[str, Value]:
        """The settings that decide what an export answers, those without effect left out."""
        limit = {"threshold_fpr": self.threshold_fpr} if self.threshold_by == "fpr" else {}
        return {"threshold_by": self.threshold_by, **limit, "calibrate": self.calibrate}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The exports asked for, by folder name."""
        return {"all": ("best", "last"), "none": ()}.get(self.export, (self.export,))
