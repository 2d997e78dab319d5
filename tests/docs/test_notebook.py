"""The notebook: its cells run one after the other, and show pictures of what they made."""

import json
from pathlib import Path

import matplotlib
import pytest

from tests.helpers.jobs import float32_policy  # noqa: F401  (a fixture)
from trainer.reports import evaluation
from trainer.training.exports import exporter, live_report

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "quickstart.ipynb"


def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_no_outputs_are_kept():
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []
    assert len({cell["id"] for cell in cells()}) == len(cells())


@pytest.mark.slow
def test_the_cells_run(tmp_path, monkeypatch, capsys):
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporter.training_report, "write_training_report", lambda *_, **__: None)  # They take seconds.
    monkeypatch.setattr(live_report.LiveReport, "_make", lambda *_: 0.0)
    monkeypatch.setattr(evaluation, "render", lambda *_: "")
    shown = []
    monkeypatch.setattr(
        plt, "show", lambda: shown.append([len(axis.images) + len(axis.lines) for axis in plt.gcf().axes])
    )
    values = {"__name__": "__main__"}
    for number, cell in enumerate(cells()):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), values)
    assert shown == [[1] * 12, [2], [1] * 10]
    result, figures, rows = values["result"], values["figures"], values["rows"]
    assert result.validation == json.loads(Path("quickstart/job/result.json").read_text())["validation"]
    assert figures["n"] == len(rows) == 20
    assert {row["label"] for row in rows} <= {"Fake", "Real"}
    assert [row["error"] for row in rows] == [None] * 20
    assert "Test AUC" in capsys.readouterr().out
    plt.close("all")
