"""Devices and numerical precision."""

import dataclasses

from trainer.core.config.field import AUTO, PATH, setting


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """Devices and numerical precision."""

    precision: str = setting(
        "auto",
        "auto: mixed_bfloat16 where the hardware has it (GPU compute capability 8.0 up, CPU with avx512_bf16 or "
        "amx_bf16), else mixed_float16 on a GPU, else float32; a job that continues keeps that of its checkpoints.",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )
    strategy: str = setting(
        "auto",
        "auto: multi_worker if the environment describes several processes, else all GPUs of this machine, else one "
        "CPU device. single: one device. mirrored: --num_devices devices. multi_worker: --num_devices devices of each "
        "process that TF_CONFIG, Kubernetes or Slurm describes (docs/training.md).",
        choices=("auto", "single", "mirrored", "multi_worker"),
        fixed=False,
    )
    num_devices: int = setting(
        0,
        "Devices to use in each process; 0: all. They are GPUs where DEEPDETECT_GPUS, --require_gpu, "
        "CUDA_VISIBLE_DEVICES or an NVIDIA device says that there are some, and fewer are refused; elsewhere they are "
        "logical devices of the CPU.",
        minimum=0,
        fixed=False,
    )
    require_gpu: bool = setting(
        False,
        "Do not train without a GPU, or with fewer than --num_devices: exit code 75 in a cluster (Kubernetes, Slurm, "
        "several processes, DEEPDETECT_GPUS), else 2.",
        fixed=False,
    )
    xla: bool | str = setting(
        AUTO,
        "Compile the training step with XLA: all of it on one device; on several, what stands between their messages. "
        "auto: on a GPU, except with --deterministic. It is slower on a CPU. If it fails, training continues without.",
        auto=AUTO,
        before=False,
    )
    xla_cache_dir: str = setting(
        AUTO,
        "Folder of this machine for compiled GPU programs, which shorten later starts. auto: deepdetect/xla in "
        "$XDG_CACHE_HOME or ~/.cache, if it can be written; none: no folder.",
        fixed=False,
        path=PATH,
    )
    deterministic: bool = setting(
        False, "Use deterministic kernels (slower; required for bitwise-reproducible GPU runs)."
    )
    allreduce_dtype: str = setting(
        "auto",
        "Type in which gradients are sent between devices. auto: float64 on a CPU and with --deterministic (any "
        "number of devices then gives the same weights), else float32. float16 and bfloat16 halve the bytes of "
        "float32 and round every gradient to 11 or 8 bits before it is added; float16 implies a loss scale.",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    steps_per_execution: int = setting(
        0,
        "Steps in one call of the graph, without the host in between; changes no result, but a stop request waits for "
        "them. auto or 0: 1 on a CPU; 8 on a GPU, fewer if the pixels of so many batches exceed 512 MiB.",
        unit="steps",
        minimum=0,
        fixed=False,
        auto=0,
    )
    peer_timeout_seconds: float = setting(
        60.0,
        "With several processes: one that is silent for this long counts as lost, and all others exit with code 75 "
        "(in a Kubernetes pod 76).",
        unit="seconds",
        minimum=1.0,
        fixed=False,
    )
    startup_timeout_seconds: float = setting(
        600.0,
        "With several processes: how long they wait for each other at startup before they exit with code 75.",
        unit="seconds",
        minimum=1.0,
        fixed=False,
    )
    notify: str = setting(
        "",
        "Tell the end of the job (done or failed): https://URL gets a POST of JSON, mailto:NAME@HOST a mail through "
        "SMTP_HOST. Several with spaces. Empty: what DEEPDETECT_NOTIFY says, where a secret is better kept; it is "
        "stored nowhere.",
        fixed=False,
    )
