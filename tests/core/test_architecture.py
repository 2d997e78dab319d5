"""Imports cost what they must (invariant 9), and packages know each other in one direction."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A package imports only packages that stand before it; the commands, modules directly in trainer/, come last.
PACKAGES = [
    "core", "data", "models", "distributed", "serving", "server", "evaluation", "reports", "training", "sweep",
    "submit", "commands",
]  # fmt: skip
# Packages and modules that answer before TensorFlow is loaded; a package stands for all its modules.
WITHOUT_TENSORFLOW = [
    "trainer.core", "trainer.submit", "trainer.data.manifest", "trainer.training.run", "trainer.train", "trainer.tune",
    "trainer.prepare_data", "trainer.data_service", "trainer.serve", "trainer.models.registry",
    "trainer.training.optimizers",
]  # fmt: skip
HEAVY = {"tensorflow", "keras", "sklearn", "matplotlib", "scipy", "PIL", "pandas", "kubernetes", "keras_tuner"}
LARGEST_FOLDER = 25  # Modules.


@functools.cache
def modules():
    """Return the path of every module by its name."""
    paths = (ROOT / "trainer").rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(path):
    """Yield the names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rank(name):
    """Return the place of a module's package in the one direction; the commands' is last."""
    parts = name.split(".")
    return PACKAGES.index(parts[1]) if parts[1:] and parts[1] in PACKAGES else len(PACKAGES) * (len(parts) > 1)


def violations(edges):
    """Return the imports that go against the direction, and those of commands by each other."""
    return [
        f"{name} imports {target}"
        for name, target in edges
        if rank(target) > rank(name) or (rank(target) == rank(name) == len(PACKAGES) and target != name)
    ]


@functools.cache
def edges():
    known = modules()
    return [(name, target) for name, path in known.items() for target in imported(path) if target in known]


def test_packages_import_in_one_direction():
    assert violations(edges()) == []


def test_every_package_has_its_place():
    assert sorted(PACKAGES) == sorted(path.parent.name for path in (ROOT / "trainer").glob("*/__init__.py"))


def test_the_rule_sees_an_import_that_goes_back():
    assert len(edges()) > 300
    assert violations([("trainer.core.cli", "trainer.data.order"), ("trainer.train", "trainer.tune")])
    assert not violations([("trainer.data.order", "trainer.core.cli"), ("trainer.tune", "trainer.sweep.chief")])


def test_no_two_modules_import_each_other():
    def reach(start):
        seen, waiting = set(), [start]
        while waiting:
            for target in direct.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    direct = {}
    for name, target in edges():
        if modules()[target].name != "__init__.py":  # A package's face imports its modules.
            direct.setdefault(name, set()).add(target)
    assert [name for name in direct if name in reach(name)] == []


def test_no_folder_has_too_many_modules():
    for folder in {path.parent for path in modules().values()}:
        assert len(set(folder.glob("*.py")) - {folder / "__init__.py"}) <= LARGEST_FOLDER, folder


CODE = f"""
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    heavy = {HEAVY} & set(sys.modules)
    assert not heavy, f"{{name}} imports {{heavy}}"
"""


def python(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_what_submits_a_job_imports_no_tensorflow():
    light = [name for name in modules() for start in WITHOUT_TENSORFLOW if f"{name}.".startswith(f"{start}.")]
    assert len(light) > 30
    done = python("-c", CODE, *light)
    assert done.returncode == 0, done.stderr


def test_a_wrong_request_and_help_cost_no_tensorflow(tmp_path):
    code = """
import sys
from trainer import train
from trainer.core import cli
for words in eval(sys.argv[1]):
    try:
        code = cli.run_command(train.main, words)
    except SystemExit as end:
        code = end.code
    assert "tensorflow" not in sys.modules
    print("ended with", code, file=sys.stderr, flush=True)
"""
    data = tmp_path / "data"
    (data / "Train" / "Fake").mkdir(parents=True)
    commands = [
        ["--help"],
        ["--epochz=3"],
        [f"--data_dir={data / 'absent'}", f"--job_dir={tmp_path / 'job'}"],
        [f"--data_dir={data}", f"--job_dir={tmp_path / 'job'}"],
    ]
    lines = python("-c", code, repr(commands)).stderr.splitlines()
    # Before each end but that of the help, one line says what is wrong.
    assert (lines[:1], lines[2::2], len(lines)) == (["ended with 0"], ["ended with 2"] * 3, 7), lines
    assert not (tmp_path / "job").exists()  # Refused before anything is written.
