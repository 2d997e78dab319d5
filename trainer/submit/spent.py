"""What a run has used so far: GPU-hours from the times in its job_dir, or of its pods, and their cost by the table."""

import dataclasses
import datetime

from trainer.core.errors import RequestError
from trainer.submit import plan, states
from trainer.submit.plan import Table
from trainer.submit.progress import Progress
from trainer.submit.states import Run


@dataclasses.dataclass(frozen=True)
class Spent:
    """GPU-hours and cost of a run so far; None where unknown.

    Attributes:
        gpu_hours: of all starts.
        cost: of them, in the table's currency.
        price: of a GPU and hour.
        currency: of the table; empty without one.
        problem: why something is unknown; empty if nothing is.
    """

    gpu_hours: float | None
    cost: float | None = None
    price: float | None = None
    currency: str = ""
    problem: str = ""


def prices(path: str = "") -> Table | None:
    """Return the table of prices; None if the package was installed without its own.

    Raises:
        RequestError: if a table that the caller names cannot be read.
    """
    try:
        return plan.read_table(path)
    except RequestError:
        if path:
            raise
        return None


def so_far(run: Run, status: Progress, table: Table | None, of_pods: float | None = None) -> Spent:
    """Return what a run has used so far.

    Args:
        run: with its number of GPUs.
        status: with the times in its job_dir.
        table: of prices.
        of_pods: GPU-hours of the pods that the cluster still knows, for runs without times in job_dir.
    """
    gpu_hours = _of_files(run, status)
    gpu_hours = of_pods if gpu_hours is None else gpu_hours
    if gpu_hours is None:
        return Spent(None, problem="no times in job_dir" if not run.is_sweep else "a sweep's folder has no times")
    if not run.accelerator:
        return Spent(gpu_hours, problem="not known which machines the run has")
    accelerator = table.accelerators.get(run.accelerator) if table else None
    if table is None or accelerator is None:
        return Spent(gpu_hours, problem=f"no price of {run.accelerator}; see --accelerators")
    price = accelerator.price_of(spot=run.is_spot)
    return Spent(gpu_hours, gpu_hours * price, price, table.currency)


def line(spent: Spent) -> str:
    """Return it as one line; what is unknown is said to be."""
    hours = "GPU-hours unknown" if spent.gpu_hours is None else f"{spent.gpu_hours:.2f} GPU-hours"
    if spent.cost is None:
        return f"so far: {hours}, cost unknown: {spent.problem}"
    return f"so far: {hours}, {spent.cost:.2f} {spent.currency} at {spent.price:g} a GPU and hour"


def _of_files(run: Run, status: Progress) -> float | None:
    if status.busy_seconds is None or not run.gpus:
        return None
    seconds = status.busy_seconds
    if run.state == states.RUNNING and not status.ended:
        seconds += max((now() - datetime.datetime.fromisoformat(status.newest)).total_seconds(), 0)
    return seconds / 3600 * run.gpus


def now() -> datetime.datetime:
    """Return the time, in UTC."""
    return datetime.datetime.now(datetime.UTC)
