"""Invariant 9 (imports cost what they must), and the one direction in which modules know each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports only what stands in an earlier layer; those of one layer are siblings and do not know each other.
LAYERS = [
    ["trainer", "trainer.audit", "trainer.data", "trainer.evaluation", "trainer.pack", "trainer.processes",
     "trainer.submit", "trainer.sweep"],
    ["trainer.data.audit.measure", "trainer.data.audit.verdicts", "trainer.data.pixels", "trainer.data.reorder_buffer", "trainer.core.errors",
     "trainer.evaluation.bootstrap", "trainer.evaluation.calibration_error", "trainer.evaluation.predictions", "trainer.core.cli",
     "trainer.training.loop", "trainer.training.early_stopping", "trainer.distributed.messages", "trainer.serving.verify_saved_model"],
    ["trainer.data.augment", "trainer.data.decode_batch", "trainer.evaluation.ranking", "trainer.core.storage.gcs_client", "trainer.serving.heatmap",
     "trainer.serving.convert", "trainer.distributed.step_barrier", "trainer.distributed.slurm", "trainer.core.config.field",
     "trainer.core.signals", "trainer.submit.api", "trainer.serving.video"],
    ["trainer.distributed.cluster", "trainer.core.config.sections", "trainer.core.config.sections", "trainer.core.storage.gcs", "trainer.evaluation.metrics"],
    ["trainer.core.config.schema", "trainer.data_service", "trainer.core.storage.files", "trainer.core.storage.lease"],
    ["trainer.data.audit.digest", "trainer.training.checkpoint", "trainer.data.decode", "trainer.data.tfrecord", "trainer.data.bad_images",
     "trainer.evaluation.calibration", "trainer.evaluation.predictions", "trainer.evaluation.request",
     "trainer.evaluation.sources", "trainer.reports.console", "trainer.training.tensorboard", "trainer.core.config.flags", "trainer.core.globs",
     "trainer.models.registry", "trainer.training.optimizers", "trainer.data.pack.request", "trainer.core.job_dir", "trainer.distributed.rendezvous",
     "trainer.training.profiler", "trainer.core.result", "trainer.distributed.strategy", "trainer.sweep.space", "trainer.training.tensorboard",
     "trainer.core.job_dir", "trainer.core.tables"],
    ["trainer.evaluation.training_curves", "trainer.data.decode_batch", "trainer.data.manifest", "trainer.core.cli", "trainer.evaluation.compare",
     "trainer.evaluation.groups", "trainer.serving.grad_cam", "trainer.core.storage.lock", "trainer.data.pack.convert", "trainer.distributed.process_group",
     "trainer.training.resume", "trainer.training.resume", "trainer.training.checkpoint_writer", "trainer.training.selftest", "trainer.serving.exported_model", "trainer.training.train_step"],
    ["trainer.data.audit.scan", "trainer.serving.convert", "trainer.data.readers", "trainer.evaluation.provenance",
     "trainer.training.stop_controller", "trainer.training.metrics_log", "trainer.reports.plots", "trainer.distributed.consistency", "trainer.serving.saved_model",
     "trainer.serving.predictor", "trainer.sweep.request"],
    ["trainer.data.audit.cues", "trainer.data.audit.duplicates", "trainer.serving.video", "trainer.data.cache", "trainer.data.order",
     "trainer.reports.evaluation_plots", "trainer.evaluation.robustness", "trainer.reports.evaluation_plots",
     "trainer.evaluation.predict_split", "trainer.data.pack.writer", "trainer.reports.html", "trainer.training.progress_bar", "trainer.training.train_state",
     "trainer.submit.request", "trainer.sweep.oracles", "trainer.sweep.records"],
    ["trainer.reports.audit", "trainer.data.audit.summary", "trainer.data.image_source", "trainer.reports.metric_titles",
     "trainer.training.checkpoint_manager", "trainer.prepare_data_pack", "trainer.predict", "trainer.reports.training", "trainer.submit.plan",
     "trainer.sweep.importance", "trainer.sweep.pruning"],
    ["trainer.reports.audit", "trainer.data.service_client", "trainer.reports.compare", "trainer.reports.gallery",
     "trainer.reports.evaluation_sections", "trainer.data.preview", "trainer.training.evaluator", "trainer.submit.render",
     "trainer.sweep.report"],
    ["trainer.prepare_data_audit", "trainer.training.tensorboard", "trainer.data.pipeline", "trainer.reports.evaluation", "trainer.reports.model_card",
     "trainer.submit.runs", "trainer.sweep.report"],
    ["trainer.reports.evaluation", "trainer.export", "trainer.training.distributed_input", "trainer.training.exporter", "trainer.submit.follow",
     "trainer.sweep.summary"],
    ["trainer.evaluate", "trainer.submit.launch", "trainer.training.evaluator"],
    ["trainer.training.trainer", "trainer.submit.command"],
    ["trainer.training.trainer"],
    ["trainer.train"],
    ["trainer.sweep.trial"],
    ["trainer.sweep.retrain", "trainer.sweep.tuner"],
    ["trainer.sweep.chief"],
    ["trainer.tune"],
]  # fmt: skip
LAYER = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def modules():
    """Return the path of every module by its name."""
    paths = (ROOT / "trainer").rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(name, path):
    """Yield the names of all modules of this package that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])]) if node.level \
                else node.module  # fmt: skip
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def edges():
    found = modules()
    return {
        name: {target for target in imported(name, path) if target in found and target != name}
        for name, path in found.items()
    }


def test_every_module_has_its_place():
    assert sorted(modules()) == sorted(LAYER)


@pytest.mark.parametrize("name", sorted(LAYER))
def test_a_module_imports_only_what_stands_before_it(name):
    path = modules()[name]
    for target in imported(name, path):
        if target in LAYER and target != name:
            assert LAYER[target] < LAYER[name], f"{name} (layer {LAYER[name]}) imports {target} ({LAYER[target]})"


def test_the_reader_of_imports_sees_them():
    found = edges()
    assert {"trainer.training.trainer", "trainer.core.config.flags", "trainer.data.manifest"} <= found["trainer.train"]
    assert {"trainer.data.augment", "trainer.data.image_source"} <= found["trainer.data.pipeline"]
    assert sum(map(len, found.values())) > 80


def test_no_layer_could_be_moved_forward():
    # Otherwise the list would say less than is true: every layer holds a module that needs the one before it.
    found = edges()
    for number in range(2, len(LAYERS)):
        assert any(LAYER[target] == number - 1 for name in LAYERS[number] for target in found[name]), LAYERS[number]


def test_no_relative_imports():
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), name


LIGHT = ["trainer", "trainer.core.config.schema", "trainer.core.config.flags", "trainer.distributed.cluster", "trainer.core.job_dir", "trainer.core.storage.files",
         "trainer.core.storage.gcs", "trainer.core.storage.gcs_client", "trainer.core.storage.lock", "trainer.core.errors", "trainer.training.early_stopping", "trainer.core.result",
         "trainer.training.resume", "trainer.training.loop", "trainer.core.globs", "trainer.core.signals", "trainer.distributed.messages",
         "trainer.distributed.rendezvous", "trainer.distributed.process_group", "trainer.training.stop_controller", "trainer.distributed.consistency",
         "trainer.data", "trainer.data.manifest", "trainer.data.tfrecord", "trainer.data.readers", "trainer.data.cache",
         "trainer.data.bad_images", "trainer.data.reorder_buffer", "trainer.data_service", "trainer.core.cli", "trainer.training.selftest",
         "trainer.serving.exported_model", "trainer.serving.predictor", "trainer.submit", "trainer.submit.request", "trainer.submit.plan",
         "trainer.submit.render", "trainer.submit.api", "trainer.submit.runs", "trainer.submit.follow",
         "trainer.submit.launch", "trainer.submit.command", "trainer.train", "trainer.sweep.space", "trainer.sweep.request",
         "trainer.sweep.records", "trainer.sweep.pruning", "trainer.sweep.trial", "trainer.tune",
         "trainer.processes", "trainer.core.cli"]  # fmt: skip

CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    heavy = {"tensorflow", "keras", "sklearn", "matplotlib", "scipy", "PIL", "pandas", "kubernetes",
             "keras_tuner"} & set(sys.modules)
    assert not heavy, f"{name} imports {heavy}"
"""


def python(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_what_submits_a_job_imports_no_tensorflow():
    done = python("-c", CODE, *LIGHT)
    assert done.returncode == 0, done.stderr


def test_a_wrong_request_and_help_cost_no_tensorflow(tmp_path):
    code = (
        "import sys\nfrom trainer import entry, train\ncode = entry.run_command(train.main, sys.argv[1:])\n"
        "assert 'tensorflow' not in sys.modules\nsys.exit(code)"
    )
    data = tmp_path / "data"
    (data / "Train" / "Fake").mkdir(parents=True)
    for words, status in (
        (["--help"], 0),
        (["--epochz=3"], 2),
        ([f"--data_dir={data / 'absent'}", f"--job_dir={tmp_path / 'job'}"], 2),
        ([f"--data_dir={data}", f"--job_dir={tmp_path / 'job'}"], 2),
    ):
        done = python("-c", code, *words)
        assert done.returncode == status, (words, done.stderr)
        assert len(done.stderr.splitlines()) == (1 if status else 0)
    assert not (tmp_path / "job").exists()  # Refused before anything is written.
