"""A request for a run in a cluster: the flags before ``--``, the trainer's after it, and the checks that always hold.

Everything here is checked on the laptop, in a second, without a cluster.  Does not own: what Kubernetes or Slurm alone
wants (``kube/checks.py``, ``slurm/checks.py``).
"""

import dataclasses
import re
from collections.abc import Sequence

from trainer.core.config import PATH, Config, Value, flags, setting
from trainer.core.errors import RequestError
from trainer.distributed import gpu_promise
from trainer.submit import dashboard, environment, platforms, volumes
from trainer.sweep import request as sweep_lib
from trainer.sweep import space
from trainer.sweep.request import SweepConfig

PLATFORMS = (*platforms.names(), platforms.SLURM)

LONGEST_NAME = 40
# "<name>-chief-0-0.<name>" is a label of every pod of a sweep, and a label has 63 characters at most.
LONGEST_SWEEP_NAME = 26
_CHECKPOINT_SECONDS = 300.0
DEFAULT_PRIORITY = "deepdetect-default"
SLURM_ONLY = ("python", "setup", "container", "sbatch", "log_dir")


@dataclasses.dataclass(frozen=True)
class ClusterFlags:
    """The cluster and the namespace."""

    namespace: str = setting("deepdetect", "Namespace of the run, which the overlay created.")
    context: str = setting("", "Context of the kubeconfig; empty: the current one.")
    platform: str = setting(
        platforms.DEFAULT,
        "Kind of cluster: an overlay of k8s/ (generic: any with NVIDIA's plugin), or slurm (docs/slurm.md).",
        choices=PLATFORMS,
    )


@dataclasses.dataclass(frozen=True)
class RunFlags(ClusterFlags):
    """Settings of one run in a cluster."""

    name: str = setting(
        "",
        f"Name of the run: small letters, digits and -, {LONGEST_NAME} at most ({LONGEST_SWEEP_NAME} for a sweep).",
    )
    image: str = setting(
        "",
        "Container image with a digest (NAME@sha256:...) or a tag (NAME:TAG). auto: of this checkout, built and "
        "pushed if its code changed; see build. On Slurm none.",
    )
    repository: str = setting("", "Of --image=auto: where images go, as for build.")
    allow_latest: bool = setting(False, "Accept an image tagged latest, which may change at every restart.")
    data_dir: str = setting(
        "", "gs:// path of the images or of a packed set, or a path below --volume; on Slurm any path.", path=PATH
    )
    job_dir: str = setting(
        "",
        "gs:// path of all state and results, or one below --volume, on Slurm any shared path; one live run at a time.",
        path=PATH,
    )
    accelerator: str = setting("nvidia-l4", "Kind of GPU, as --accelerators names them.")
    gpus: int = setting(1, "GPUs of each machine.", unit="GPUs", minimum=1)
    gpu: str = setting(
        "",
        "Machines to try in this order, instead of --accelerator, --gpus and --zone: NAME[:GPUS][:spot|:on-demand]"
        "[@ZONE], with commas, such as l4:4:spot,l4:4,a100:1@us-central1-a. Without a word, --spot decides.",
    )
    failover_after: float = setting(
        15.0, "How long each of --gpu may wait for all its machines before the next is tried.", unit="minutes",
        minimum=0.0,
    )  # fmt: skip
    zone: str = setting("", "Zone of the machines with GPUs, such as us-central1-a; empty: any.")
    workers: int = setting(1, "Machines that train one model together.", unit="machines", minimum=1, maximum=1000)
    topology: str = setting(
        "",
        "Label of nodes, such as cloud.google.com/gce-topology-block: put --workers close together, on nodes with one "
        "value of it if possible. With --queue its flavour needs a Topology with that level.",
    )
    sweep_workers: int = setting(
        0, "Machines that try hyperparameters in parallel (python -m trainer.tune); 0: no sweep.",
        unit="machines", minimum=0, maximum=1000,
    )  # fmt: skip
    spot: bool = setting(False, "Use spot machines: cheaper, but reclaimed at any time. The run resumes by itself.")
    queue: str = setting(
        "",
        "Kueue's LocalQueue to wait in; empty: none. --spot alone decides about spot machines. On Slurm the partition.",
    )
    priority: str = setting(
        DEFAULT_PRIORITY,
        "PriorityClass of the pods: deepdetect-low, deepdetect-default, deepdetect-high or another. On Slurm the QOS.",
    )
    max_hours: float = setting(
        0.0,
        "End the run when a start has lasted this long, everything saved; 0: no limit. On Slurm the time limit of a "
        "start, after which the run waits in the queue again and continues.",
        unit="hours",
        minimum=0.0,
    )
    env: str = setting(
        "",
        "Environment variables of the trainer: NAME=VALUE,NAME=VALUE. A comma in a value is no separator unless NAME= "
        "follows it; write \\, then. DEEPDETECT_GPUS=0: do not insist on GPUs that work.",
    )
    env_from_secret: str = setting(
        "", "Environment variables from Secrets of the namespace: SECRET (all its keys) or SECRET:KEY, with commas."
    )
    memory: str = setting("", "Memory of each machine with GPUs, such as 64Gi; empty: its GPUs' share of a machine.")
    cpus: float = setting(
        0.0, "CPUs of each machine with GPUs; 0: its GPUs' share of a machine.", unit="CPUs", minimum=0.0
    )
    volume: str = setting(
        "",
        "Storage to mount, with commas: CLAIM:/mnt (PersistentVolumeClaim), nfs://SERVER/PATH:/mnt, or /PATH:/mnt "
        "(folder of the nodes). data_dir and job_dir may lie below it.",
    )
    gcsfuse: bool = setting(False, "Read data_dir as files through GKE's Cloud Storage FUSE driver.")
    python: str = setting("", "Slurm: Python that has deepdetect, on every node; empty: this one.")
    setup: str = setting("", "Slurm: line of shell before the start, such as 'module load cuda'.")
    container: str = setting("", "Slurm: image to run in: FILE.sif by Apptainer, any other by the plugin pyxis.")
    sbatch: str = setting("", "Slurm: more options of sbatch, such as '--account=lab --constraint=a100'.")
    log_dir: str = setting("", "Slurm: folder of logs; empty: slurm/ in job_dir (not of gs://).", path=PATH)
    train_images: int = setting(
        0, "Images in Train, for the plan; 0: read from a packed set's index, else unknown.", unit="images", minimum=0
    )
    accelerators: str = setting("", "YAML file of GPUs, prices and speeds; empty: k8s/accelerators.yaml.", path=PATH)
    dashboard: str = setting(
        "", "Link that status shows, with {namespace}, {name} and {job_dir}; empty: DEEPDETECT_DASHBOARD, if it is set."
    )
    dry_run: str = setting(
        "none",
        "client (or --dry_run alone): print the YAML and submit nothing. server: let the API server check it.",
        choices=("none", "client", "server"),
    )
    notify: str = setting(
        "",
        "While the log is shown: tell the run's end, whatever ends it, to https://URL or mailto:NAME@HOST, several "
        "with spaces; empty: to DEEPDETECT_NOTIFY. It is stored nowhere.",
    )
    follow: bool = setting(True, "Show the log until the run ends; Ctrl-C leaves it running.")

    @property
    def kind(self) -> str:
        """The base in k8s/ from which the run is built."""
        return "sweep" if self.sweep_workers else "multi-worker" if self.workers > 1 else "train"

    @property
    def machines(self) -> int:
        """Machines with GPUs."""
        return self.sweep_workers or self.workers

    @property
    def gpus_per_model(self) -> int:
        """GPUs that train one model together."""
        return self.gpus if self.sweep_workers else self.gpus * self.workers


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked run: its own settings, and the trainer's.

    Attributes:
        run: its own settings.
        config: of the training, or of all trials of a sweep except for what varies.
        trainer_words: the command line of trainer.train or trainer.tune, without data_dir and job_dir.
        sweep: the request as trainer.tune parses it; None for trainer.train.
    """

    run: RunFlags
    config: Config
    trainer_words: tuple[str, ...]
    sweep: sweep_lib.Request | None = None

    @property
    def env(self) -> dict[str, str]:
        """The requested environment variables."""
        return environment.parse(self.run.env)

    @property
    def secrets(self) -> tuple[environment.SecretSource, ...]:
        """The Secrets from which variables are taken."""
        return environment.parse_secrets(self.run.env_from_secret)

    @property
    def volumes(self) -> tuple[volumes.Volume, ...]:
        """The mounted volumes."""
        return volumes.parse(self.run.volume)


def split_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before and after the first ``--``; a bare --dry_run means --dry_run=client."""
    cut = list(argv).index("--") if "--" in argv else len(argv)
    own = flags.with_underscores(argv[:cut], ("dry_run",))
    own = ["--dry_run=client" if word == "--dry_run" else word for word in own]
    return own, list(argv[cut + 1 :])


def complete(run: RunFlags, trainer_words: Sequence[str]) -> Request:
    """Return the request after the checks that hold for every kind of cluster.

    Raises:
        HelpRequested: if ``--help`` is among the trainer's words.
        RequestError: for the first setting that cannot work.
    """
    _check_together(run)
    _check_amounts(run)
    _check_variables(run)
    words = [f"--data_dir={run.data_dir}", f"--job_dir={run.job_dir}", *trainer_words]
    sweep = sweep_lib.parse(words) if run.sweep_workers else None
    config = sweep.base if sweep else flags.train_config(words)
    _check_config(run, config)
    # A spot machine can be lost at any time: make sure that a checkpoint is never far.
    added: dict[str, Value] = {}
    if run.spot and not (config.checkpoint.checkpoint_every_steps or config.checkpoint.checkpoint_every_seconds):
        added["checkpoint_every_seconds"] = _CHECKPOINT_SECONDS
    config = config.replace(**added)
    if sweep:
        return Request(run, config, tuple(_sweep_words(trainer_words, added, sweep.space)), sweep)
    return Request(run, config, tuple(flags.to_argv(config.replace(data_dir="", job_dir=""))))


def check_name(name: str, longest: int = LONGEST_NAME) -> None:
    """Refuse a name that is not a DNS-1123 label, or is too long.

    Raises:
        RequestError: naming the flag.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) or len(name) > longest:
        raise RequestError(
            f"--name: expected a small letter, then small letters, digits and -, at most {longest} characters, "
            f"received {name!r}"
        )


def require_given(run: RunFlags, names: Sequence[str]) -> None:
    """Refuse a run without one of these flags.

    Raises:
        RequestError: naming the flag.
    """
    for name in names:
        if not getattr(run, name):
            raise RequestError(f"expected --{name}, received none; see run --help")


def _check_amounts(run: RunFlags) -> None:
    if run.memory and not re.fullmatch(r"[1-9][0-9]*(Mi|Gi|Ti)", run.memory):
        raise RequestError(f"--memory: expected a number and Mi, Gi or Ti, such as 64Gi, received {run.memory!r}")


def _check_variables(run: RunFlags) -> None:
    dashboard.require(run.dashboard)
    variables = environment.parse(run.env)
    gpu_promise.from_environment(variables)  # Raises if it cannot be read.
    keys = [source.key for source in environment.parse_secrets(run.env_from_secret) if source.key]
    twice = sorted({key for key in keys if key in variables or keys.count(key) > 1 or key == gpu_promise.VARIABLE})
    if twice:
        raise RequestError(f"--env_from_secret: expected each variable once, received {', '.join(twice)} again")


def _check_together(run: RunFlags) -> None:
    if run.sweep_workers and run.workers > 1:
        raise RequestError(
            f"expected --workers or --sweep_workers, received --workers={run.workers} and "
            f"--sweep_workers={run.sweep_workers}; a trial of a sweep trains on one machine"
        )


def _sweep_words(words: Sequence[str], added: dict[str, Value], parameters: space.Space) -> list[str]:
    """Return a command line of ``trainer.tune`` that needs no file of this machine.

    Flags are kept even if they have the default value, since a flag on the command line does not vary.

    Args:
        words: the user's, already checked.
        added: additional settings of the trainer.
        parameters: the space, which replaces its file.
    """
    own = flags.fields_of(SweepConfig)
    values, _ = flags.parse(words, {**own, **flags.train_fields()}, usage="")
    sweep = {name: values.pop(name) for name in list(values) if name in own}
    if sweep.get("space"):
        sweep["space"] = space.to_text(parameters)
    settings = {**flags.given_settings(values), **added}
    return flags.to_words({**{n: v for n, v in settings.items() if n not in ("data_dir", "job_dir")}, **sweep})


def _check_config(run: RunFlags, config: Config) -> None:
    """Refuse trainer settings that cannot work on the requested machines."""
    for flag, own in (("data_dir", run.data_dir), ("job_dir", run.job_dir)):
        if config.flat()[flag] != own:
            raise RequestError(f"expected --{flag} before --, received it after as well")
    if config.loop.seeds > 1 and run.workers > 1:
        raise RequestError(
            f"--seeds: expected one machine, which trains one seed after another, received --workers={run.workers}; "
            "leave --workers out, or start one run for each --seed"
        )
    runtime = config.runtime
    batch = config.data.batch_size
    gpus = run.gpus_per_model
    if runtime.num_devices not in (0, run.gpus):
        raise RequestError(
            f"expected --num_devices to be a machine's GPUs ({run.gpus}), received {runtime.num_devices}; leave it out"
        )
    wrong = ("single", "mirrored") if run.workers > 1 else ("single", "multi_worker") if gpus > 1 else ("multi_worker",)
    if runtime.strategy in wrong:
        raise RequestError(
            f"expected a --strategy for {gpus} GPUs on {run.workers} machines, received {runtime.strategy}; leave it "
            "out"
        )
    if batch % gpus:
        raise RequestError(
            f"expected a --batch_size that divides among {gpus} GPUs, received {batch}; use "
            f"--batch_size={-(-batch // gpus) * gpus}"
        )
