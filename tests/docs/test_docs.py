"""The documentation is true where a program can tell: links, anchors, flags, modules and paths exist."""

import atexit
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

PAGES = sorted(path for pattern in ("*.md", "docs/**/*.md", "k8s/**/*.md") for path in ROOT.glob(pattern))
# The changelog names what a version had, which a later one may have moved.
TIMELESS = [path for path in PAGES if path.name != "CHANGELOG.md"]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--([a-zA-Z][\w-]*)")
CONSOLE = re.compile(
    r"deepdetect[ -](train|evaluate|export|predict|tune|audit|pack|faces|compare|submit|selftest|demo|benchmark)\b"
)
COMMAND = re.compile(r"(?:python|bin/python) (?:-m (trainer(?:\.\w+)+)|(scripts/\w+\.py))|" + CONSOLE.pattern)
DOTTED = re.compile(r"(?<![\w/.])trainer(?:\.(?!py\b)[a-z]\w*)+\b(?!\()")
BENCHMARKS = ("recipes", "notebook", "roofline", "gpu", "job")  # With flags of their own.
FOREIGN = re.compile(r"^(gcloud|kubectl|docker|helm|curl|scripts/\w+\.sh|pip|tensorboard|srun|sbatch|apptainer)$")


def prose(text):
    """Return Markdown without its code blocks."""
    return FENCE.sub("", text)


def slugs(text):
    """Return the anchors that GitHub gives the headings of a page."""
    seen, anchors = {}, set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        anchors.add(f"{slug}-{count}" if count else slug)
    return anchors


def test_slugs_are_those_of_github():
    assert slugs("# A `b` & c!\n## metrics.jsonl\n## x_y-z\n## x_y-z\n```\n# no heading\n```\n") == {
        "a-b--c", "metricsjsonl", "x_y-z", "x_y-z-1",
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_resolve(page):
    broken = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page.read_text()))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.exists() and target.is_relative_to(ROOT)
        if not is_there or (anchor and (target.suffix != ".md" or anchor not in slugs(target.read_text()))):
            broken.append(link)
    assert not broken


def test_the_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert "Rerun the same command to resume." in text
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    reached, todo = set(), ["README.md"]
    while todo:
        page = todo.pop()
        for link in LINK.findall(prose((ROOT / page).read_text())):
            target = ((ROOT / page).parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target.is_relative_to(ROOT):
                name = target.relative_to(ROOT).as_posix()
                if name not in reached:
                    reached.add(name)
                    todo.append(name)
    assert pages <= reached


def command_lines(text):
    """Yield the shell lines of a page's code blocks, continued ones joined, each with its comment."""
    for language, block in FENCE.findall(text):
        if language in ("", "sh", "bash", "console"):
            yield from re.sub(r"\\\n\s*", " ", block).splitlines()


def inline_commands(text):
    """Yield what stands in backticks and looks like a command."""
    for words in re.findall(r"`([^`]+)`", prose(text)):
        words = " ".join(words.split())
        if COMMAND.search(words):
            yield words


@functools.cache
def without_tensorflow():
    """Return an environment where TensorFlow, which takes seconds to load, cannot be loaded."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    (folder / "tensorflow.py").write_text("raise SystemExit('--help loads TensorFlow')\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


@functools.cache
def flags_of(*words):
    """Return the flags that a command's ``--help`` names, with the forms that switch a bool off."""
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, env=without_tensorflow(), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stderr)
    names = set(FLAG.findall(done.stdout))
    return names | {f"no{name}" for name in re.findall(r"--no(\w+) switches it off", done.stdout)} | {"help"}


def console_target(name):
    """Return the command with the whole page of ``deepdetect NAME``."""
    if name in ("audit", "pack", "faces"):
        return ("scripts/prepare_data.py", name)
    if name in ("submit", "benchmark"):
        return (f"scripts/{name}.py",)
    targets = {"selftest": ("-m", "trainer.train", "--selftest"), "compare": ("-m", "trainer", "compare"),
               "demo": ("scripts/make_demo_data.py",)}  # fmt: skip
    return targets.get(name, ("-m", f"trainer.{name}"))


def parts(line):
    """Yield (command, flags) for each of our commands in a line; a command after ``--`` counts for itself."""
    found = list(COMMAND.finditer(line))
    ends = [match.start() for match in found[1:]] + [len(line)]
    for match, end in zip(found, ends, strict=False):
        rest = line[match.end() : end]
        rest = re.split(r"\s\|\s|\s\|$|&&|;(?=\s)", rest, maxsplit=1)[0]
        module, script, console = match.groups()
        command = ("-m", module) if module else (script,) if script else console_target(console)
        own, _, passed = re.sub(r"^--(?= )", " -- ", rest).partition(" -- ")
        yield command, own, passed


def wrong_flags(line):
    """Return the flags of a line that their command does not have."""
    wrong = []
    for command, own, passed in parts(line):
        words = own.split("#")[0].split()
        sub = [words[0]] if words and re.fullmatch(r"[a-z_]+", words[0]) else []
        trains = command[0] == "scripts/benchmark.py" and sub and sub[0] in BENCHMARKS
        if (
            command[0] in ("scripts/prepare_data.py", "scripts/submit.py")
            or command[-1].endswith("prepare_data")
            or trains
        ):
            command = (*command, *sub)
        known = flags_of(*command)
        if "--selftest" in own:
            known = known | flags_of(*command, "--selftest")
        if command[0] == "scripts/submit.py" or command[0] == "scripts/local_cluster.py":
            own, comment = own.split("#")[0], (own + passed).partition("#")[2]
            passed = passed.split("#")[0]
            sweep = "--sweep" in own
            target = flags_of("-m", "trainer.tune" if sweep else "trainer.train")
            wrong += [f"{command[-1]} -- --{name}" for name in FLAG.findall(passed) if name not in target]
            wrong += [f"{command[-1]} # --{name}" for name in FLAG.findall(comment) if name not in known | target]
        else:
            own = f"{own} {passed}"
        wrong += [f"{' '.join(command)} --{name}" for name in FLAG.findall(own) if name not in known]
    return wrong


def test_a_wrong_flag_in_a_command_is_noticed():
    assert wrong_flags("python -m trainer.train --data_dir=D --epoch=3  # or --nonsense")
    assert wrong_flags("python scripts/submit.py run --name=a -- --gpus=4")
    assert wrong_flags("deepdetect train --data_dir=D --epoch=3")
    assert wrong_flags("deepdetect audit --data_dir=D --epochs=3")
    assert not wrong_flags("deepdetect submit run --name=a -- --batch_size=4 --help=all")
    assert not wrong_flags("python scripts/submit.py run --name=a -- --batch_size=4 # --dry_run")
    assert not wrong_flags("TF_CONFIG='{}' python -m trainer.train --noxla | head --lines=3")


@pytest.mark.slow
@pytest.mark.parametrize("page", TIMELESS, ids=[str(path.relative_to(ROOT)) for path in TIMELESS])
def test_flags_of_commands_exist(page):
    text = page.read_text()
    wrong = [flag for line in [*command_lines(text), *inline_commands(text)] for flag in wrong_flags(line)]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("page", TIMELESS, ids=[str(path.relative_to(ROOT)) for path in TIMELESS])
def test_flags_in_prose_exist(page):
    known = {"fast", "thorough", "gpus", "version", "build-arg", "user"}  # Of scripts/test.sh, docker and deepdetect.
    for command in ("train", "evaluate", "predict", "tune", "export", "data_service", "serve"):
        known |= flags_of("-m", f"trainer.{command}")
    for script in ("local_cluster", "benchmark", "benchmark_scale", "benchmark_sweep", "chaos", "chaos_sweep",
                   "multi_worker", "make_demo_data", "check_gpu"):  # fmt: skip
        known |= flags_of(f"scripts/{script}.py")
    for name in BENCHMARKS:
        known |= flags_of("scripts/benchmark.py", name)
    known |= flags_of("-m", "trainer.train", "--selftest")
    for command in ("audit", "pack", "faces"):
        known |= flags_of("scripts/prepare_data.py", command)
    for command in ("run", "list", "logs", "status", "cancel", "resume", "tensorboard", "doctor", "build", "up",
                    "down"):  # fmt: skip
        known |= flags_of("scripts/submit.py", command)
    words = [
        words for words in re.findall(r"`([^`\n]+)`", prose(page.read_text())) if not FOREIGN.match(words.split()[0])
    ]
    absent = sorted({name for word in words for name in FLAG.findall(word)} - known)
    assert not [name for name in absent if not name.startswith("hook")]


@pytest.mark.parametrize("page", TIMELESS, ids=[str(path.relative_to(ROOT)) for path in TIMELESS])
def test_modules_and_paths_exist(page):
    text = page.read_text()
    absent = {name for name in re.findall(r"\btrainer(?:/\w+)+(?:\.py\b|/)", text) if not (ROOT / name).exists()}
    absent |= {
        name
        for name in re.findall(r"\b(?:scripts|tests)/[\w/]+\.(?:py|sh)\b", text)
        if not (ROOT / name).exists() and not (ROOT / "tests").joinpath(name).exists()
    }
    absent |= {name for name in DOTTED.findall(text) if not is_module(name)}
    # Test files are named without their folder.
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    absent |= {name for name in re.findall(r"(?<!/)\btest_\w+\.py\b", text) if name not in tests}
    assert not sorted(absent)


def is_module(name):
    """Return whether a dotted name is a module, or a name that its module mentions."""
    try:
        if importlib.util.find_spec(name):
            return True
        parent, _, last = name.rpartition(".")
        spec = importlib.util.find_spec(parent)
    except ModuleNotFoundError:
        return False
    return bool(spec and spec.origin and re.search(rf"\b{last}\b", Path(spec.origin).read_text()))


def test_classes_are_in_their_modules():
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `([A-Z]\w+)` \| `(trainer/[\w/]+\.py)` \|", text, re.MULTILINE)
    assert len(rows) > 5
    assert not [row for row in rows if f"class {row[0]}" not in (ROOT / row[1]).read_text()]


def test_the_sockets_are_described_once_each():
    text = (ROOT / "docs/architecture.md").read_text()
    headings = re.findall(r"^## How to add (?:an?|a) (.+)$", text, re.MULTILINE)
    assert headings == ["optimizer", "network", "augmentation", "layout", "metric", "storage", "Kubernetes platform"]
