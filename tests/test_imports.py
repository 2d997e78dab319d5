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
    ["trainer.audit.measure", "trainer.audit.verdicts", "trainer.data.pixels", "trainer.data.turns", "trainer.errors",
     "trainer.evaluation.bootstrap", "trainer.evaluation.confidence", "trainer.evaluation.scored", "trainer.logs",
     "trainer.loop", "trainer.patience", "trainer.processes.wire", "trainer.verify_export"],
    ["trainer.data.augment", "trainer.data.jpeg", "trainer.evaluation.ranking", "trainer.gcs_client", "trainer.heatmap",
     "trainer.portable", "trainer.processes.appointment", "trainer.processes.slurm", "trainer.setting",
     "trainer.signals", "trainer.submit.api", "trainer.video"],
    ["trainer.cluster", "trainer.config_learning", "trainer.config_running", "trainer.gcs", "trainer.metrics"],
    ["trainer.config", "trainer.data_service", "trainer.files", "trainer.lease"],
    ["trainer.audit.digest", "trainer.checkpoint", "trainer.data.decode", "trainer.data.packed", "trainer.data.skipped",
     "trainer.evaluation.calibration", "trainer.evaluation.predictions_csv", "trainer.evaluation.request",
     "trainer.evaluation.sources", "trainer.evaluation.terminal", "trainer.events", "trainer.flags", "trainer.inputs",
     "trainer.models", "trainer.optim", "trainer.pack.request", "trainer.paths", "trainer.processes.rendezvous",
     "trainer.profiling", "trainer.result", "trainer.runtime", "trainer.space", "trainer.sweep.hparams",
     "trainer.sweep.paths", "trainer.tables"],
    ["trainer.curves", "trainer.data.loading", "trainer.data.manifest", "trainer.entry", "trainer.evaluation.compare",
     "trainer.evaluation.groups", "trainer.explain", "trainer.lock", "trainer.pack.convert", "trainer.processes.peers",
     "trainer.restarts", "trainer.resume", "trainer.saver", "trainer.selftest", "trainer.serving", "trainer.step"],
    ["trainer.audit.scan", "trainer.comparison", "trainer.data.reading", "trainer.evaluation.provenance",
     "trainer.halt", "trainer.journal", "trainer.plots", "trainer.processes.agreement", "trainer.savedmodel",
     "trainer.scorer", "trainer.sweep.request"],
    ["trainer.audit.cues", "trainer.audit.duplicates", "trainer.clips", "trainer.data.cache", "trainer.data.order",
     "trainer.evaluation.plots", "trainer.evaluation.robustness", "trainer.evaluation.robustness_plots",
     "trainer.evaluation.split_scores", "trainer.pack.writer", "trainer.pages", "trainer.progress", "trainer.state",
     "trainer.submit.request", "trainer.sweep.oracles", "trainer.sweep.records"],
    ["trainer.audit.charts", "trainer.audit.summary", "trainer.data.images", "trainer.evaluation.wording",
     "trainer.keeper", "trainer.pack.command", "trainer.predict", "trainer.report", "trainer.submit.plan",
     "trainer.sweep.importance", "trainer.sweep.pruning"],
    ["trainer.audit.page", "trainer.data.remote", "trainer.evaluation.compare_page", "trainer.evaluation.gallery",
     "trainer.evaluation.sections", "trainer.preview", "trainer.scoring", "trainer.submit.render",
     "trainer.sweep.drawings"],
    ["trainer.audit.command", "trainer.board", "trainer.data.pipeline", "trainer.evaluation.page", "trainer.model_card",
     "trainer.submit.runs", "trainer.sweep.page"],
    ["trainer.evaluation.results", "trainer.export", "trainer.feed", "trainer.handover", "trainer.submit.follow",
     "trainer.sweep.summary"],
    ["trainer.evaluate", "trainer.submit.launch", "trainer.validation"],
    ["trainer.course", "trainer.submit.command"],
    ["trainer.session"],
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
    assert {"trainer.session", "trainer.flags", "trainer.data.manifest"} <= found["trainer.train"]
    assert {"trainer.data.augment", "trainer.data.images"} <= found["trainer.data.pipeline"]
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


LIGHT = ["trainer", "trainer.config", "trainer.flags", "trainer.cluster", "trainer.paths", "trainer.files",
         "trainer.gcs", "trainer.gcs_client", "trainer.lock", "trainer.errors", "trainer.patience", "trainer.result",
         "trainer.resume", "trainer.loop", "trainer.inputs", "trainer.signals", "trainer.processes.wire",
         "trainer.processes.rendezvous", "trainer.processes.peers", "trainer.halt", "trainer.processes.agreement",
         "trainer.data", "trainer.data.manifest", "trainer.data.packed", "trainer.data.reading", "trainer.data.cache",
         "trainer.data.skipped", "trainer.data.turns", "trainer.data_service", "trainer.logs", "trainer.selftest",
         "trainer.serving", "trainer.scorer", "trainer.submit", "trainer.submit.request", "trainer.submit.plan",
         "trainer.submit.render", "trainer.submit.api", "trainer.submit.runs", "trainer.submit.follow",
         "trainer.submit.launch", "trainer.submit.command", "trainer.train", "trainer.space", "trainer.sweep.request",
         "trainer.sweep.records", "trainer.sweep.pruning", "trainer.sweep.trial", "trainer.tune",
         "trainer.processes", "trainer.entry"]  # fmt: skip

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
