"""Machines that a run may take, in the order in which they are tried: ``--gpu=l4:4:spot,l4:4,a100:1@us-central1-a``."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core.config import did_you_mean
from trainer.core.errors import RequestError
from trainer.submit import plan
from trainer.submit.kube import checks
from trainer.submit.plan import Accelerator, Table
from trainer.submit.request import Request, RunFlags

_FORM = "NAME[:GPUS][:spot|:on-demand][@ZONE], with commas"
_ENTRY = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.-]*)(:(?P<gpus>[1-9]\d{0,3}))?(:(?P<kind>spot|on-demand))?(@(?P<zone>[a-z0-9-]+))?"
)
_FLAGS = ("accelerator", "gpus", "spot", "zone")  # What an alternative decides.
_REPLACED = ("accelerator", "gpus", "zone")  # Those that say nothing beside --gpu.


@dataclasses.dataclass(frozen=True)
class Alternative:
    """A run on one of the machines that it may take.

    Attributes:
        request: for these machines.
        accelerator: of these machines.
    """

    request: Request
    accelerator: Accelerator

    @property
    def run(self) -> RunFlags:
        """The run's own settings, with these machines."""
        return self.request.run


def of(run: RunFlags, table: Table, trainer_words: Sequence[str]) -> tuple[Alternative, ...]:
    """Return a run's alternatives, each of them checked; without ``--gpu`` the one that the other flags describe.

    Raises:
        RequestError: if one of them cannot work.
    """
    if not run.gpu:
        accelerator = plan.accelerator_of(run, table)  # Before the batch is divided among the GPUs.
        return (Alternative(checks.build(run, trainer_words), accelerator),)
    return tuple(_checked(each, table, trainer_words) for each in _parse(run, table))


def changed(before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded run's flags with changes: flags that name one kind of machine replace its alternatives."""
    kept = dict(before)
    if any(name in values for name in _FLAGS):
        kept.pop("gpu", None)
    if "gpu" in values or "gpu" in kept:  # Which has all that these say.
        kept = {name: value for name, value in kept.items() if name not in _FLAGS}
    return {**kept, **values}


def _parse(run: RunFlags, table: Table) -> list[RunFlags]:
    default = RunFlags()
    if given := [f"--{name}" for name in _REPLACED if getattr(run, name) != getattr(default, name)]:
        raise RequestError(f"expected --gpu or {' '.join(given)}, received both; --gpu={_FORM} says it all")
    entries = [_parse_entry(text, run, table) for text in run.gpu.split(",")]
    words = [_word(entry) for entry in entries]
    if len(set(words)) < len(words):
        raise RequestError(f"--gpu: expected each alternative once, received {run.gpu!r}")
    # Each entry then says all, and a resumed run can be given another --spot without a change of what was meant.
    text = ",".join(words) if len(words) > 1 else ""
    return [dataclasses.replace(entry, gpu=text) for entry in entries]


def _parse_entry(text: str, run: RunFlags, table: Table) -> RunFlags:
    match = _ENTRY.fullmatch(text)
    if not match:
        raise RequestError(f"--gpu: expected {_FORM}, such as l4:4:spot,l4:4,a100:1@us-central1-a, received {text!r}")
    spot = match["kind"] == "spot" if match["kind"] else run.spot
    name = _full_name(match["name"], table)
    return dataclasses.replace(run, accelerator=name, gpus=int(match["gpus"] or 1), spot=spot, zone=match["zone"] or "")


def _full_name(name: str, table: Table) -> str:
    """Return an accelerator's name in the table from a part of it: a100 for nvidia-tesla-a100."""
    names = [full for full in table.accelerators if name == full or name in full.split("-")]
    if len(names) != 1:
        known = ", ".join(names or table.accelerators)
        hint = "; their number is --gpus" if name.isdigit() else did_you_mean(name, table.accelerators)
        raise RequestError(f"--gpu: expected one of {known}, or a word of it, received {name!r}{hint}")
    return names[0]


def _word(run: RunFlags) -> str:
    kind = "spot" if run.spot else "on-demand"
    return f"{run.accelerator}:{run.gpus}:{kind}{f'@{run.zone}' if run.zone else ''}"


def _checked(run: RunFlags, table: Table, trainer_words: Sequence[str]) -> Alternative:
    try:
        accelerator = plan.accelerator_of(run, table)
        return Alternative(checks.build(run, trainer_words), accelerator)
    except RequestError as error:
        raise RequestError(f"{error} (of the alternative {_word(run)})") from error


def describe(every: Sequence[Alternative], table: Table, images: int) -> list[str]:
    """Return the plan: of the first alternative, and a line for each other one."""
    first = every[0]
    lines = plan.describe(first.request, table, images)
    if len(every) == 1:
        return lines
    queue = first.run.queue
    order = f"{first.run.failover_after:g} minutes each, until all its machines are there"
    if are_for_kueue(every):
        order = f"the first flavour of queue {queue} with room, in the queue's order"
    rows = [
        f"or         {plan.machines(each.run)}: {plan.summary(each.request, each.accelerator, table, images)}"
        for each in every[1:]
    ]
    return [*lines, *rows, f"order      {order}"]


def are_for_kueue(every: Sequence[Alternative]) -> bool:
    """Return whether Kueue can choose among alternatives: it changes where pods run, and never what they ask for."""
    return len(every) > 1 and bool(every[0].run.queue) and len({each.run.gpus for each in every}) == 1
