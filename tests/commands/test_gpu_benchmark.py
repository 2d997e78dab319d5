"""What a user runs on a GPU, here on the CPU: scripts/check_gpu.py, scripts/benchmark.py gpu, and the roofline."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import benchmark_gpu
import benchmark_job
import benchmark_roofline as roofline
import benchmark_ways as ways
import benchmark_worker
import check_gpu
import check_gpu_rows as gpu_rows
from benchmark_table import Table
from benchmark_ways import Way
from benchmark_worker import Measured, Worker

from trainer.distributed import accelerators

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_the_docs_is_that_of_the_code():
    text = (ROOT / "docs/performance.md").read_text()
    table = text.partition(roofline.BEGIN)[2].partition("<!-- end of the table -->")[0].strip()
    assert table.splitlines() == roofline.page()


def test_flops_and_bytes_of_the_notebooks_network():
    layers = {cost.name: cost for cost in roofline.costs_of("cnn", 224, 256)}
    # Of conv2 by hand: 109 x 109 outputs, kernels of 3 x 3 x 32 for 32 filters; input 111 x 111 x 32; 2 bytes each.
    product = 2 * 109 * 109 * 9 * 32 * 32
    assert layers["conv2"].forward.flops == product
    assert layers["conv2"].backward.flops == 2 * product
    ends, kernel = 109 * 109 * 32, 9 * 32 * 32 / 256
    assert layers["conv2"].forward.bytes == 2 * (111 * 111 * 32 + ends + kernel)
    assert layers["conv2"].backward.bytes == 2 * (2 * ends + 2 * 111 * 111 * 32 + 2 * kernel)
    # The pixels need no gradient.
    assert layers["conv1"].backward.flops == layers["conv1"].forward.flops
    assert layers["Adam"].output == (4_821_858,)
    assert "dropout" not in layers


def test_the_bound_is_the_larger_of_arithmetic_and_memory():
    layer = roofline.LayerCost("layer", (1,), roofline.Work(100.0, 10.0), roofline.Work(10.0, 100.0))
    assert roofline.bound([layer], 10.0, 10.0) == 20.0
    assert roofline.bound([layer], 1e9, 10.0) == 11.0


def test_batch_normalisation_moves_bytes():
    assert (
        roofline.total(roofline.costs_of("cnn_bn", 64, 8)).bytes > roofline.total(roofline.costs_of("cnn", 64, 8)).bytes
    )


def answers_of(runner, *requests):
    """Return the greeting of a worker and its answers."""
    lines = "".join(json.dumps({"way": vars(way), "sizes": vars(ways.FAST)}) + "\n" for way in requests)
    answers = io.StringIO()
    benchmark_worker.serve(runner, io.StringIO(lines), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_a_worker_measures_and_survives_a_way_that_fails():
    hello, broken, product, copy = answers_of(
        ways.TENSORFLOW, Way(ways.STEP, "mixed_float99"), Way(ways.PRODUCT, ways.FLOAT32), Way(ways.COPY)
    )
    assert hello["versions"]["tensorflow"]
    assert "mixed_float99" in broken["error"]
    assert product["rate"] > 0
    assert copy["rate"] > 0
    assert not product["error"]


def test_a_missing_pytorch_is_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # As if it were not installed, wherever this runs.
    monkeypatch.delitem(sys.modules, "benchmark_torch", raising=False)
    assert [list(answer) for answer in answers_of(ways.TORCH, Way(ways.MODULE, ways.BFLOAT16))] == [["error"]]


def test_a_process_that_dies_costs_its_own_row_alone(tmp_path):
    worker = Worker("tensorflow", tmp_path / "log")
    worker._words = [sys.executable, "-c", "print('{}', flush=True); input(); raise SystemExit(3)"]
    assert "code 3" in worker.measure(Way(ways.COPY), ways.FAST, 30.0).error
    worker._words = [
        sys.executable, "-c", "print('{}', flush=True); input(); print('{\"rate\": 2.0}', flush=True); "
        "import time; time.sleep(60)",
    ]  # fmt: skip
    assert worker.measure(Way(ways.COPY), ways.FAST, 30.0) == Measured(2.0)
    assert "no answer" in worker.measure(Way(ways.COPY), ways.FAST, 0.1).error


def a_table(device=""):
    table = Table("gpu", {"command": "`x`"}, 64, 8, device)
    table.add(Way(ways.PRODUCT, ways.FLOAT32), Measured(1e12))
    table.add(Way(ways.COPY), Measured(1e11))
    for rate in (100.0, 900.0, 200.0):
        table.add(Way(ways.STEP, ways.FLOAT32), Measured(rate, 1.5))
    table.add(Way(ways.MODULE, ways.BFLOAT16), Measured(error="not installed: x | y"))
    table.add(Way(ways.TRAIN, ways.FLOAT32, False, ways.FILES), Measured(90.0, note="data wait 5%"))
    table.add(Way(ways.TRAIN, ways.FLOAT32, False, ways.MEMORY), Measured(180.0))
    return table


def test_the_page_has_medians_ranges_shares_and_errors(tmp_path):
    table = a_table()
    table.write(tmp_path / "gpu")
    rows = [line.strip("| ").split(" | ") for line in (tmp_path / "gpu.md").read_text().splitlines() if "| " in line]
    step = next(row for row in rows if row[0] == "our step, float32")
    flops = roofline.total(roofline.costs_of("cnn", 64, 8)).flops
    assert step[1:6] == ["200", "100 to 900", "1.5", f"{200 * flops / 1e12:.3f}", f"{200 * flops / 1e12:.1%}"]
    assert any(row[0].startswith("PyTorch") and "not installed" in row[-1] for row in rows)
    assert any(row[0] == "our job from files, float32" and row[-1] == "data wait 5%" for row in rows)
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["ratios"] == {"job from files / cached job": 0.5}
    assert [row["median"] for row in written["rows"]] == [1e12, 1e11, 200.0, 0.0, 90.0, 180.0]


def test_peaks_are_those_of_the_data_sheet_where_there_is_one():
    card = accelerators.find("NVIDIA H200")
    peaks = a_table("NVIDIA H200").peaks()
    assert peaks.flops[ways.FLOAT32] == card.tf32_tflops * 1e12
    assert peaks.flops[ways.BFLOAT16] == peaks.flops[ways.FLOAT16] == card.half_tflops * 1e12
    assert peaks.bytes == card.memory_gb_per_s * 1e9
    assert a_table("NVIDIA L40S").peaks().flops == {ways.FLOAT32: 1e12}


def test_every_way_has_a_name_of_its_own():
    precisions = ways.precisions_of(True, True)
    names = [way.name for way in (*ways.limits(precisions), *ways.steps(precisions), *ways.jobs(precisions, gpu=True))]
    assert len(names) == len(set(names))
    assert ways.precisions_of(False, False) == (ways.FLOAT32,)
    assert [way.kind for way in ways.chosen(ways.limits(precisions), ["copy"])] == [ways.COPY]
    assert [way.name for way in ways.chosen(ways.steps(precisions), ["our step, float32"])] == ["our step, float32"]


@pytest.mark.slow
def test_the_command_measures_steps_and_jobs(tmp_path, image_set):
    names = ["our step, float32", "Keras train_on_batch, float32, jit_compile off", "our job from memory, float32"]
    words = ["--fast", f"--out={tmp_path}", f"--data_dir={image_set}", *(f"--ways={name}" for name in names)]
    assert benchmark_gpu.main(words) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [(row["name"], row["measurements"][0]["error"]) for row in rows] == [(name, "") for name in names]
    assert all(row["median"] > 0 for row in rows)


@pytest.mark.slow
def test_the_notebooks_job_is_measured(image_set):
    measured = benchmark_job.notebook_rate(image_set, 64, 8, 2)
    assert 0 < measured.rate < 1e5
    assert measured.first_seconds > 16 / measured.rate


def test_check_refuses_rows_that_do_not_exist(tmp_path, capsys):
    assert check_gpu.main([f"--out={tmp_path / 'check'}", "--fast", "--rows=files,nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert not (tmp_path / "check").exists()


@pytest.mark.slow
def test_check_passes_on_the_cpu(tmp_path):
    out = tmp_path / "check"
    done = subprocess.run(
        [sys.executable, "scripts/check_gpu.py", f"--out={out}"], cwd=ROOT, env={**os.environ, "FAST": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    failures = out / "failures.txt"
    assert done.returncode == 0, failures.read_text() if failures.exists() else done.stderr[-2000:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    rows = {row[0]: row for row in cells}
    assert {rows[name][1] for name in ("self-test", "exact1", "killed", "mirrored-exact", "exported", "evaluate")} == {
        "0"
    }
    assert len({rows[name][6] for name in ("exact1", "killed", "mirrored-exact")}) == 1
    assert re.search(r"the weights of exact1, killed, mirrored-exact are equal", (out / "check.md").read_text())


@pytest.mark.parametrize("trouble", ["other weights", "exit code"])
def test_check_fails_if_a_row_does(tmp_path, monkeypatch, trouble):
    """Rows that cost nothing stand in for jobs: what is judged is what they leave."""

    def run(module, words, log):
        job = Path(next(word for word in words if word.startswith("--job_dir=")).partition("=")[2])
        job.mkdir(parents=True)
        weights = "a" if "--seed=1" in words and trouble == "other weights" else "b"
        (job / "result.json").write_text(json.dumps({"weights_sha256": weights}))
        log.write_text("the last words\n")
        os._exit(1 if "--seed=1" in words and trouble == "exit code" else 0)

    monkeypatch.setattr(check_gpu, "_run", run)
    check = check_gpu.Check(tmp_path, gpu_rows.FAST, fast=True, limit=60.0)
    check.measure(gpu_rows.Row(gpu_rows.EXACT))
    check.measure(gpu_rows.Row("same", equal=True))
    assert check.finish() == 0
    check.measure(gpu_rows.Row("other", ("--seed=1",), equal=True))
    assert check.finish() == 1
    assert "failed: other" in (tmp_path / "check.md").read_text()
    assert "the last words" in (tmp_path / "failures.txt").read_text()
