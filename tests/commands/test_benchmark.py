"""The parts of a step that scripts/benchmark.py measures; tests/commands/test_gpu_benchmark.py has the rest."""

import re
import sys
from pathlib import Path

import pytest

from tests.helpers.jobs import float32_policy  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import benchmark
import benchmark_parts


def test_the_dispatcher_knows_all_parts_without_loading_them():
    assert tuple(benchmark_parts.PARTS) == benchmark.PARTS


@pytest.mark.slow
@pytest.mark.parametrize("part", ["augment", "input", "step", "checkpoint"])
def test_a_part_is_measured_beside_others(part, monkeypatch, capsys):
    words = [part, "--image_size=64", "--batch_size=4", "--images=8", "--rounds=1"]
    monkeypatch.setattr(sys, "argv", ["scripts/benchmark.py", *words])
    benchmark.main()
    machine, command, blank, *rows = capsys.readouterr().out.splitlines()
    assert "tensorflow 2." in machine
    assert command == f"command: python scripts/benchmark.py {' '.join(words)}"
    assert not blank
    assert len(rows) >= 3
    unit = r" s +\d+\.\d\d of the first" if part == "checkpoint" else r" images/s +\d+\.\d{3} CPU-ms an image .* x"
    assert all(re.search(unit, row) or row.startswith("Found 8 images") for row in rows)
