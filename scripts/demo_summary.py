"""Print the results of ``demo.sh``: validation and test figures, speed, and the paths of model and reports."""

import json
import sys
from pathlib import Path


def summary(out: Path) -> str:
    """Return the table for a folder that holds ``job/`` and ``evaluation/``."""
    result = json.loads((out / "job/result.json").read_text())
    test = json.loads((out / "evaluation/metrics.json").read_text())
    rows = [
        ("", "accuracy", "AUC"),
        ("Validation", _figure(result["validation"]["accuracy"]), _figure(result["validation"]["auc"])),
        ("Test", _figure(test["accuracy"]), _figure(test["auc"])),
    ]
    lines = [f"{name:<12}{accuracy:>10}{auc:>10}" for name, accuracy, auc in rows]
    lines += [
        "",
        f"training speed   {result['images_per_second']:.0f} images/s on {result['num_devices']} x "
        f"{result['device_kind']}, {result['precision']}",
        f"model            {result['exports']['best']}",
        f"training report  {out / 'job/report/index.html'}",
        f"test report      {out / 'evaluation/report.html'}",
    ]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    print(f"\n{summary(Path(sys.argv[1]))}")
