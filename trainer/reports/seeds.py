"""The table of jobs that differ in their seeds alone: on the terminal, and as the page of their group.

Owns: its words.  Does not own: the figures (``sweep/spread.py``), layout and style (``templates/``).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.manifest import TEST, VALIDATION
from trainer.reports import html

_TITLES = {"loss": "loss", "accuracy": "accuracy", "auc": "AUC"}
_ROWS = ("mean", "std", "min", "max")
_NAME_WIDTH = 10  # Holds any seed below 2**32.
_WIDTH = 9  # Of a figure; six of them fit into a terminal of 80 columns.


def columns(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return split and figure of each column that ``seeds.json`` has values for."""
    return [(split, name) for split in (VALIDATION, TEST) for name in _TITLES if name in content.get(split, {})]


def rows(content: Mapping[str, Any]) -> list[tuple[str, Sequence[str]]]:
    """Return name and cells of each seed, then of their mean, sample deviation, minimum and maximum."""
    of_seeds = [
        (str(entry["seed"]), [_cell(entry.get(split, {}).get(name)) for split, name in columns(content)])
        for entry in content["jobs"]
    ]
    summary = [(row, [_cell(content[split][name][row]) for split, name in columns(content)]) for row in _ROWS]
    return [*of_seeds, *(summary if columns(content) else [])]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def as_text(content: Mapping[str, Any]) -> str:
    """Return the table for the terminal, at most 80 columns wide: the splits stand once above their figures."""
    shown = columns(content)
    groups = [(split, len(list(group))) for split, group in itertools.groupby(split for split, _ in shown)]
    # One space in front, so that the longest name fits above a single figure.
    above = " " * _NAME_WIDTH + "".join(f" {split:<{number * (_WIDTH + 2) - 1}}" for split, number in groups)
    heads = ("seed", [_TITLES[name] for _, name in shown])
    lines = [f"{name:<{_NAME_WIDTH}}" + "".join(f"  {cell:>{_WIDTH}}" for cell in cells)
             for name, cells in (heads, *rows(content))]  # fmt: skip
    return "\n".join(line.rstrip() for line in ([above, *lines] if groups else lines))


def render(job_dir: str, content: Mapping[str, Any]) -> str:
    """Return the page of a group; its links lead to the reports of its jobs.

    Args:
        job_dir: of the group.
        content: of ``seeds.json``.
    """
    page = html.templates().get_template("seeds.html")
    return page.render(
        job_dir=job_dir,
        warning=_warning(content),
        sentences=_sentences(content),
        heads=[f"{split} {_TITLES[name]}" for split, name in columns(content)],
        rows=rows(content),
        jobs=[
            {"seed": entry["seed"], "status": entry["status"], "reason": entry["reason"], "tested": TEST in entry}
            for entry in content["jobs"]
        ],
        settings=content["settings"],
    )


def _warning(content: Mapping[str, Any]) -> str:
    """Return the line about the seeds that learned nothing; empty if all learned."""
    jobs = content["jobs"]
    bad = [str(entry["seed"]) for entry in jobs if entry.get("learned") is False]
    return f"{len(bad)} of {len(jobs)} seeds learned nothing: {', '.join(bad)}; their reports say why." if bad else ""


def _sentences(content: Mapping[str, Any]) -> list[str]:
    spread = [
        f"{split} AUC {content[split]['auc']['mean']:.3f}, from {content[split]['auc']['min']:.3f} to "
        f"{content[split]['auc']['max']:.3f}"
        for split, name in columns(content)
        if name == "auc"
    ]
    about = (
        "The spread is the luck of initial weights, order and augmentation; without a Validation folder also that of "
        "the images held out."
    )
    return [*([f"{'; '.join(spread)}, over {len(content['jobs'])} seeds."] if spread else []), about]
