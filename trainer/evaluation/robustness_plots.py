"""Curves of figures against the strength of a distortion, readable without colour."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainer import plots


def title(kind: str) -> str:
    """Return the name of a kind of distortion as a heading."""
    return "JPEG" if kind == "jpeg" else kind.capitalize()


def curves(kind: str, what: Mapping[str, Any], clean: Mapping[str, Any]) -> Figure:
    """Draw AUC and accuracy of one kind of distortion, with intervals; the undistorted images come first."""
    figure = plots.new_figure()
    axes = plots.new_axes(figure, title=title(kind), x=what["unit"], y="AUC, accuracy")
    points = [clean, *what["results"]]
    names = ["as is", *(f"{result['strength']:g}" for result in what["results"])]
    for name, label, colour, style, shift in (
        ("auc", "AUC", plots.WARM, "o-", -0.04),
        ("accuracy", "accuracy", plots.COOL, "s--", 0.04),
    ):
        values = np.array([np.nan if point[name] is None else point[name] for point in points])
        if np.isfinite(values).any():
            spans = np.array(
                [point["ci95"][name] or (value, value) for point, value in zip(points, values, strict=True)]
            )
            error = np.abs(spans.T - values)
            axes.errorbar(
                np.arange(len(points)) + shift, values, error, fmt=style, color=colour, capsize=3, label=label
            )
    axes.set_xticks(range(len(points)), names)
    axes.set_ylim(-0.02, 1.04)
    plots.legend(axes, "lower left")
    return figure
