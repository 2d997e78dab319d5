"""A request for a sweep: its own settings, the settings of its trials, and its search space.

Owns: the flags of ``trainer.tune``, their checks before anything runs, and ``sweep.json``, which identifies the sweep
when the command is rerun.  Imports no TensorFlow.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.core import checked_json
from trainer.core import config as config_lib
from trainer.core.checked_json import OBJECT, OBJECTS
from trainer.core.config import PATH, Config, Value, flags, setting
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths, SeedPaths, SweepPaths
from trainer.core.storage import files
from trainer.sweep import space
from trainer.training import resume

DEFAULT_TRIALS = 20
_LARGEST_GRID = 100_000

_FIELDS = {"sweep": OBJECT, "space": OBJECTS, "settings": OBJECT}  # Of sweep.json.


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """How to search."""

    tuner: str = setting(
        "random",
        "random: independent draws. bayesian: a Gaussian process over the trials so far. hyperband: many short trials, "
        "of which the best continue where they stopped, up to --epochs (Li et al. 2018). grid: every combination.",
        choices=("random", "bayesian", "hyperband", "grid"),
    )
    max_trials: int = setting(
        0,
        f"Trials of the whole sweep; 0: {DEFAULT_TRIALS}, and all that hyperband or grid make. Raise it to continue.",
        unit="trials",
        minimum=0,
        fixed=False,
    )
    objective: str = setting(
        "auc",
        "Validation metric that ranks trials, at each trial's best epoch by the same metric.",
        choices=("auc", "accuracy", "loss", "val_auc", "val_accuracy", "val_loss"),
    )
    space: str = setting(
        "",
        "YAML or JSON file of the flags that vary (docs/sweeps.md), or its text as [{name: ...}, ...]; empty: "
        "learning_rate, dropout, model, augment and optimizer. All other flags hold for all trials.",
        fixed=False,
        path=PATH,
    )
    keep_trials: int = setting(
        3,
        "Best trials that keep model and checkpoints; the others keep metrics and settings only.",
        unit="trials",
        minimum=1,
        fixed=False,
    )
    isolate_trials: bool = setting(
        False,
        "Run each trial in its own process, so that one that crashes or is killed (out of memory) is a failed trial "
        "and does not end the sweep; costs a start of TensorFlow each.",
        fixed=False,
    )
    max_failures: int = setting(
        3, "Stop (exit code 1) after N failed trials in a row with the same reason; 0: never.",
        unit="trials", minimum=0, fixed=False,
    )  # fmt: skip
    prune: str = setting(
        "none",
        "median: stop a trial after an epoch when its best objective is worse than the median of what the ended trials "
        "had on average up to that epoch (Golovin et al. 2017), once three have ended. none: train all to the end.",
        choices=("none", "median"),
    )
    prune_warmup_epochs: int = setting(2, "Epochs that every trial trains before --prune.", unit="epochs", minimum=1)
    hyperband_factor: int = setting(3, "Hyperband continues one trial in N, for N times as long.", minimum=2)
    retrain_best: int = setting(
        0,
        "After the sweep, train the best settings again with N seeds (the next ones after --seed), and report mean and "
        "spread on Validation and, if there is one, on Test.",
        unit="seeds",
        minimum=0,
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked sweep.

    Attributes:
        sweep: how to search.
        base: settings of every trial, except those that the search chooses; ``job_dir`` is the sweep's.
        space: what varies.
    """

    sweep: SweepConfig
    base: Config
    space: space.Space

    @property
    def metric(self) -> str:
        """The validation metric that ranks trials: auc, accuracy or loss."""
        return self.sweep.objective.removeprefix("val_")

    @property
    def maximizes(self) -> bool:
        """Whether more is better."""
        return self.metric != "loss"

    @property
    def paths(self) -> SweepPaths:
        """Names inside the sweep's folder."""
        return SweepPaths(self.base.loop.job_dir)

    @property
    def max_trials(self) -> int | None:
        """Trials of the whole sweep; None: as many as the tuner makes."""
        if self.sweep.max_trials:
            return self.sweep.max_trials
        return None if self.sweep.tuner in ("hyperband", "grid") else DEFAULT_TRIALS

    @property
    def expected_trials(self) -> int | None:
        """Trials of the whole sweep; None if only the tuner knows."""
        return sum(1 for _ in self.combinations()) if self.sweep.tuner == "grid" else self.max_trials

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Yield the settings of a grid's trials, up to --max_trials."""
        return itertools.islice(space.combinations(self.space), self.max_trials)

    def trial(self, values: dict[str, Value], job_dir: str) -> Config:
        """Return the settings of a trial.

        Raises:
            RequestError: if these values contradict each other.
        """
        return self.base.replace(**values, job_dir=job_dir, resume="auto")

    def write(self) -> None:
        """Write the request, so that a later command can be compared with it."""
        files.write_text(self.paths.request, json.dumps(self._as_json(), indent=1) + "\n")

    def is_begun(self) -> bool:
        """Return whether the folder holds an unfinished sweep of this very request, which a scheduler repeats."""
        if files.exists(self.paths.done) or not files.exists(self.paths.request):
            return False
        try:
            return bool(self._read() == json.loads(json.dumps(self._as_json())))
        except RequestError:
            return False

    def refuse_another(self) -> None:
        """Compare with the request that the sweep in this folder was started with.

        Raises:
            RequestError: naming what differs and would change the sweep, or if the folder holds a job.
        """
        job_dir = self.base.loop.job_dir
        if not files.exists(self.paths.request):
            if files.exists(JobPaths(job_dir).config) or files.exists(SeedPaths(job_dir).group):
                raise RequestError(
                    f"--job_dir: expected the folder of a sweep or a new one, received {job_dir!r}, which holds a job "
                    "of trainer.train; use another --job_dir"
                )
            return
        before, now = self._read(), self._as_json()
        fixed = [field.name for field in dataclasses.fields(SweepConfig) if field.metadata["fixed"]]
        old, new = {**dataclasses.asdict(SweepConfig()), **before["sweep"]}, now["sweep"]  # Older files have fewer.
        differing = [f"--{name} (was {old[name]}, now {new[name]})" for name in fixed if old[name] != new[name]]
        differing += ["search space"] if before["space"] != now["space"] else []
        epochs = [config["settings"].get("epochs") for config in (before, now)]
        if epochs[0] != epochs[1]:
            differing.append(f"--epochs (was {epochs[0]}, now {epochs[1]})")
        if differing:
            raise RequestError(
                f"expected the sweep that {job_dir!r} was started with, received another "
                f"{', '.join(differing)}; use the same again, another --job_dir, or --resume=never to start over"
            )
        resume.refuse_other_settings(self.base, before["settings"], job_dir)

    def positive_class_before(self) -> str | None:
        """Return the setting ``positive_class`` of the sweep in this folder; None without one.

        Raises:
            RequestError: if its request is damaged.
        """
        before = self._read()["settings"].get("positive_class") if files.exists(self.paths.request) else None
        return None if before is None else str(before)

    def _read(self) -> dict[str, Any]:
        remedy = "use another --job_dir, or --resume=never to start over"
        return checked_json.read(self.paths.request, _FIELDS, remedy=remedy, what="the request of a sweep")

    def _as_json(self) -> dict[str, Any]:
        sweep = {**dataclasses.asdict(self.sweep), "objective": self.metric}
        del sweep["space"]  # Its content counts, not its path.
        return {"sweep": sweep, "space": space.to_entries(self.space), "settings": self.base.flat()}


USAGE = """\
Search for the settings that train the best model: each trial is one trainer.train.

  python -m trainer.tune --data_dir=D --job_dir=J --tuner=random --max_trials=20 [flags]

J receives trials/<id>/ (each a job_dir), trials.csv, sweep.html and best_config.json, which trainer.train --config=
takes.  Rerun the same command to resume: finished trials stay, an interrupted one continues at its step.  All flags of
trainer.train are accepted and hold for all trials.

Exit codes: 0 done; 2 the request is wrong; 75 stopped with everything saved, rerun it; 1 anything else."""


def parse(argv: Sequence[str]) -> Request:
    """Turn the command line of ``trainer.tune`` into a checked request.

    Raises:
        HelpRequested: if ``--help`` is among the words.
        RequestError: if flags, their values or the space file are wrong.
    """
    own = flags.fields_of(SweepConfig)
    sections = {"Sweep": list(own), **flags.train_sections()}
    values, rest = flags.parse(argv, {**own, **flags.train_fields()}, usage=USAGE, sections=sections,
                               required=flags.PLACES)  # fmt: skip
    flags.refuse_words(rest)
    sweep = SweepConfig(**{name: values.pop(name) for name in list(values) if name in own})  # type: ignore[arg-type]
    parameters = space.read(sweep.space) if sweep.space else space.built_in()
    prints = bool(values.get("print_config"))
    values = flags.given_settings(values)
    if values.get("monitor") == config_lib.AUTO:
        del values["monitor"]  # The objective, below.
    if not sweep.space:  # A flag overrides the built-in space; together with a file it is a contradiction.
        parameters = tuple(one for one in parameters if one.name not in values)
    defaults: dict[str, Value] = {"monitor": f"val_{sweep.objective.removeprefix('val_')}", "keep_checkpoints": 1}
    request = Request(sweep, flags.config_of({**defaults, **values, "print_config": prints}), parameters)
    _check_together(request, values)
    return request


def _check_together(request: Request, values: dict[str, Any]) -> None:
    names = [one.name for one in request.space]
    both = [name for name in names if name in values]
    if both:
        raise RequestError(f"expected --{both[0]} as a flag or in --space, received both; leave one of them out")
    if not names:
        raise RequestError("expected settings that vary, received flags for all of them; give --space=space.yaml")
    if config_lib.is_auto(config_lib.settings()["batch_size"], request.base.data.batch_size):
        raise RequestError(
            "--batch_size: expected a number for a sweep, whose trials are compared, received auto; train once with "
            "--batch_size=auto and take the number that it logs"
        )
    _check_image_sizes(request)
    if request.sweep.tuner == "grid":
        _check_grid(request)
    if request.sweep.tuner == "hyperband":
        _check_hyperband(request, names)
    if request.sweep.prune != "none":
        _check_prune(request, names)
    if request.base.loop.seeds > 1:
        raise RequestError("expected no --seeds for a sweep, received it; use --retrain_best for other seeds")
    if request.base.loop.max_seconds:
        raise RequestError("expected no --max_seconds for a sweep, received it; stop a sweep by a signal instead")


def _check_image_sizes(request: Request) -> None:
    """Refuse a space whose smallest images are too small for one of its networks."""
    varying = {one.name: one.grid() for one in request.space if not one.condition}
    smallest = min(varying.get("image_size", [request.base.data.image_size]))
    for network in varying.get("model", [request.base.model.model]):
        request.base.replace(model=network, image_size=smallest)


def _check_grid(request: Request) -> None:
    """Refuse a grid that would fill the memory before the first trial, and that nobody would wait for."""
    size = math.prod(len(one.grid()) for one in request.space)  # An upper bound: conditions can leave some out.
    if min(size, request.max_trials or size) > _LARGEST_GRID:
        raise RequestError(
            f"--tuner=grid: expected at most {_LARGEST_GRID} combinations, received {size}; lower points in --space or "
            "give --max_trials"
        )


def _check_prune(request: Request, names: list[str]) -> None:
    """Refuse a pruning that prunes nothing, or twice."""
    if request.sweep.tuner == "hyperband":
        raise RequestError(
            "--tuner=hyperband: expected no --prune, as it stops bad trials early itself, received "
            f"--prune={request.sweep.prune}; leave it out or use another tuner"
        )
    warmup, epochs = request.sweep.prune_warmup_epochs, request.base.loop.epochs
    if warmup >= epochs and "epochs" not in names:
        raise RequestError(
            f"--prune_warmup_epochs: expected fewer than --epochs ({epochs}), or nothing can be pruned, received "
            f"{warmup}; train longer or leave --prune out"
        )


def _check_hyperband(request: Request, names: list[str]) -> None:
    """Refuse what contradicts a trial that continues with more epochs."""
    if "epochs" in names:
        raise RequestError("--tuner=hyperband: expected epochs as a flag, received it in the space; hyperband sets it")
    schedules: set[Any] = {request.base.optim.lr_schedule}
    schedules |= {value for one in request.space if one.name == "lr_schedule" for value in one.values}
    if "cosine" in schedules:
        raise RequestError(
            "--tuner=hyperband: expected lr_schedule plateau or constant, received cosine, whose whole curve depends "
            "on the number of epochs; leave cosine out or use another tuner"
        )


def settings_of(values: dict[str, Any]) -> dict[str, Value]:
    """Return the settings among a tuner's values, floats tidied; hyperband's own entries are left out."""
    names = config_lib.settings()
    return {name: space.tidy(value) for name, value in values.items() if name in names}
