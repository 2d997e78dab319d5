"""The plan of a run: machines, batch arithmetic, steps, and an estimate of hours and cost with its assumptions."""

import dataclasses
import math
from pathlib import Path

import yaml

from trainer.core.config import did_you_mean
from trainer.core.errors import RequestError
from trainer.submit import platforms
from trainer.submit.platforms import SOURCES
from trainer.submit.request import Request, RunFlags
from trainer.sweep.request import DEFAULT_TRIALS

TABLE = SOURCES / "accelerators.yaml"
_CENT = 0.01
_TABLE_PIXELS = 224  # Image size at which the table's speeds hold.


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One kind of GPU.

    Attributes:
        name: the value of --accelerator and of the nodes' label.
        component: of k8s/.
        gpus_per_node: possible numbers of GPUs in a machine.
        price: of one GPU and its share of the machine, per hour, in the table's currency.
        spot_price: the same on a spot machine.
        images_per_second: of one GPU at 224 pixels, by model.
    """

    name: str
    component: str
    gpus_per_node: list[int]
    price: float
    spot_price: float
    images_per_second: dict[str, float]

    def price_of(self, *, spot: bool) -> float:
        """Return the price of one GPU and its share of the machine, per hour."""
        return self.spot_price if spot else self.price


@dataclasses.dataclass(frozen=True)
class Table:
    """The file of accelerators, with the values that apply to all of them."""

    path: str
    date: str
    currency: str
    scaling: float
    accelerators: dict[str, Accelerator]


def read_table(path: str = "") -> Table:
    """Read the file of accelerators.

    Raises:
        RequestError: if it cannot be read as one.
    """
    path = path or str(TABLE)
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        accelerators = {name: Accelerator(name=name, **entry) for name, entry in values["accelerators"].items()}
        return Table(path, str(values["date"]), str(values["currency"]), float(values["scaling"]), accelerators)
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise RequestError(
            f"--accelerators: expected a YAML file such as k8s/accelerators.yaml, received {path!r}: "
            f"{type(error).__name__}: {error}"
        ) from error


def accelerator_of(run: RunFlags, table: Table) -> Accelerator:
    """Return the accelerator of a run.

    Raises:
        RequestError: if the table has no such GPU, or no machine with that number of them.
    """
    name, gpus = run.accelerator, run.gpus
    if name not in table.accelerators:
        raise RequestError(
            f"--accelerator: expected one of {', '.join(table.accelerators)}; received {name!r}"
            f"{did_you_mean(name, table.accelerators)}"
        )
    accelerator = table.accelerators[name]
    if gpus not in accelerator.gpus_per_node and run.platform != platforms.SLURM:  # Whose machines are anybody's own.
        sizes = ", ".join(map(str, accelerator.gpus_per_node))
        raise RequestError(f"--gpus: expected a machine's number of {name} ({sizes}), received {gpus}; see --workers")
    return accelerator


def describe(request: Request, table: Table, images: int) -> list[str]:
    """Return the plan, one line per subject.

    Args:
        request: the run.
        table: the accelerators.
        images: in Train; 0 if unknown.
    """
    run, config = request.run, request.config
    accelerator = accelerator_of(run, table)
    gpus = run.gpus_per_model
    where = f"in namespace {run.namespace}, {run.platform}" if run.platform != platforms.SLURM else "on Slurm"
    chief = run.sweep_workers and run.platform != platforms.SLURM
    lines = [
        f"run        {run.name} ({run.kind}) {where}",
        f"machines   {machines(run)}" + (", and a chief without GPU" if chief else ""),
        _batch(config.data.batch_size, gpus) + (" of a trial" if run.sweep_workers else ""),
    ]
    if run.spot:
        often = config.checkpoint
        every = f"{often.checkpoint_every_seconds:g} s" if often.checkpoint_every_seconds else \
            f"{often.checkpoint_every_steps} steps"  # fmt: skip
        lines.append(f"checkpoint every {every}: what a lost spot machine can cost")
    if not config.data.batch_size:
        return [*lines, "steps      unknown: give --batch_size for steps, hours and cost"]
    if not images:
        return [*lines, "steps      unknown: give --train_images for steps, hours and cost"]
    total, per_epoch = _steps(request, images)
    lines.append(f"steps      {total:,} ({config.loop.epochs} epochs of {per_epoch:,}, {images:,} images)"
                 + (" a trial at most" if run.sweep_workers else ""))  # fmt: skip
    return lines + _estimate(request, accelerator, table, total)


def _batch(size: int, gpus: int) -> str:
    if not size:
        return f"batch      auto: found when the job starts, the largest that fits on {gpus} GPUs"
    return f"batch      {size} images a step, {size // gpus} on each of {gpus} GPUs"


def machines(run: RunFlags) -> str:
    """Return a run's machines with GPUs, in words."""
    spot, zone = "spot, " if run.spot else "", f" in {run.zone}" if run.zone else ""
    return f"{run.machines} x {run.gpus} {run.accelerator} ({spot}{run.machines * run.gpus} GPUs){zone}"


def summary(request: Request, accelerator: Accelerator, table: Table, images: int) -> str:
    """Return hours, cost and price of a run, in one line."""
    at = f"{accelerator.price_of(spot=request.run.spot):g} {table.currency} a GPU and hour"
    if not (images and request.config.data.batch_size):
        return at
    estimate = _estimate_of(request, accelerator, table, _steps(request, images)[0])
    return f"{_cost(estimate, table)} at {at}" if estimate else f"no estimate, {at}"


def _steps(request: Request, images: int) -> tuple[int, int]:
    """Return the steps of a run, and of an epoch."""
    loop = request.config.loop
    per_epoch = loop.steps_of_epoch(images, request.config.data.batch_size)
    return per_epoch * loop.epochs, per_epoch


@dataclasses.dataclass(frozen=True)
class _Estimate:
    """Hours and cost of a run, and the speed (images per second) and number of trials that they assume."""

    hours: float
    cost: float
    speed: float
    trials: int


def _estimate_of(request: Request, accelerator: Accelerator, table: Table, steps: int) -> _Estimate | None:
    """Return the estimate; None if the table has no speed for the model."""
    run, config = request.run, request.config
    speed_of_one = accelerator.images_per_second.get(config.model.model)
    if speed_of_one is None:
        return None
    gpus = run.gpus_per_model
    speed = speed_of_one * (_TABLE_PIXELS / config.data.image_size) ** 2 * gpus * table.scaling ** math.log2(gpus)
    trials = request.sweep.expected_trials or DEFAULT_TRIALS if request.sweep else 1
    hours = steps * config.data.batch_size / speed / 3600 * math.ceil(trials / max(run.sweep_workers, 1))
    if run.max_hours:
        hours = min(hours, run.max_hours)
    cost = hours * accelerator.price_of(spot=run.spot) * run.machines * run.gpus
    return _Estimate(hours, cost, speed, trials)


def _cost(estimate: _Estimate, table: Table) -> str:
    cost = f"{estimate.cost:.2f}" if estimate.cost >= _CENT else f"under {_CENT}"
    return f"{_hours(estimate.hours)}, {cost} {table.currency}"


def _estimate(request: Request, accelerator: Accelerator, table: Table, steps: int) -> list[str]:
    """Return hours and cost, with their assumptions."""
    run, estimate = request.run, _estimate_of(request, accelerator, table, steps)
    if estimate is None:
        model = request.config.model.model
        return [f"estimate   none: {table.path} has no speed for --model={model} on {accelerator.name}"]
    sweep = f", {estimate.trials} trials on {run.sweep_workers} machines" if run.sweep_workers else ""
    return [
        f"estimate   {_cost(estimate, table)}",
        f"           assumes {estimate.speed:,.0f} images/s (not measured) and "
        f"{accelerator.price_of(spot=run.spot):g} {table.currency} a GPU and hour of {table.date}{sweep};",
        f"           without start-up, validation, restarts, storage and traffic. Edit {Path(table.path).name}.",
    ]


def _hours(hours: float) -> str:
    """Return hours in the largest unit of which there is one."""
    if hours * 60 < 1:
        return "under a minute"
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
