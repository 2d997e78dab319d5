"""The one command ``deepdetect``: its help, its names of flags, what it does without parts of an installation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import trainer
from tests.evaluation import test_compare
from tests.helpers.commands import answer, refusal
from trainer.commands import completion, demo, dispatch
from trainer.commands.demo import summary
from trainer.commands.table import COMMANDS
from trainer.core import installed

ROOT = Path(__file__).resolve().parents[2]
WITH_PAGE = [name for name in COMMANDS if completion.page_of(name)]

# Nothing that these words print needs TensorFlow, nor what a command loads besides.
LIGHT = """
import sys
from trainer import __main__
from trainer.commands import dispatch
from trainer.core import cli
for words in sys.argv[1:]:
    assert cli.run_command(dispatch.main, words.split()) == 0, words
heavy = {"tensorflow", "keras", "sklearn", "matplotlib", "scipy", "kubernetes", "cv2"} & set(sys.modules)
assert not heavy, heavy
"""


def deepdetect(capsys, *words):
    return answer(capsys, dispatch.main, *words)


def test_version_help_and_settings_load_no_tensorflow():
    words = ["--version", "help", "help all", "train --help", "train --help=all", "predict -h", "train --print_config",
             "completion bash"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"deepdetect {trainer.__version__}\n")


@pytest.mark.parametrize("words", [(), ("help",), ("--help",), ("-h",)])
def test_the_first_page_has_ten_lines_and_every_command(capsys, words):
    code, out, err = deepdetect(capsys, *words)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 12
    assert max(map(len, out.splitlines())) <= 80
    assert all(f" {name}" in out for name in COMMANDS)


@pytest.mark.parametrize("words", [("help", "all"), ("--help=all",), ("help", "--help=all")])
def test_the_whole_list_says_what_each_command_is_for(capsys, words):
    code, out, _ = deepdetect(capsys, *words)
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert code == 0
    assert lines.keys() == COMMANDS.keys()
    assert all(command.summary in lines[name] for name, command in COMMANDS.items())


@pytest.mark.parametrize(
    ("word", "near"), [("trian", "train"), ("evalute", "evaluate"), ("data-servise", "data-service")]
)
def test_an_unknown_command_is_refused_with_the_nearest_one(capsys, word, near):
    message = refusal(capsys, dispatch.main, word, "--data_dir=D")
    assert f"expected a command, received '{word}'; did you mean '{near}'?" in message
    assert "did you mean" not in refusal(capsys, dispatch.main, "qqqqqq")
    assert f"did you mean '{near}'?" in refusal(capsys, dispatch.main, "help", word)


def test_a_wrong_request_of_a_command_stays_one_line(capsys):
    assert "expected --job_dir, received none" in refusal(capsys, dispatch.main, "train", "--data-dir=D")


def test_the_words_of_the_contract_stand_for_the_commands(capsys):
    assert set(COMMANDS) >= {
        "train", "evaluate", "predict", "tune", "export", "audit", "pack", "faces", "compare", "submit", "data-service",
        "selftest", "demo", "benchmark",
    }  # fmt: skip
    assert len(WITH_PAGE) == 12
    assert all(callable(command.load()) for command in COMMANDS.values())
    assert deepdetect(capsys, "submit", "--help")[1].splitlines()[2].startswith("  deepdetect submit run --name=N")
    assert "--forget" in deepdetect(capsys, "submit", "cancel", "--help")[1]


@pytest.mark.parametrize("name", WITH_PAGE)
def test_help_shows_what_people_need_first_and_all_on_request(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    command, page = COMMANDS[name], completion.page_of(name)
    _, short, _ = deepdetect(capsys, name, "--help")
    assert set(command.flags) <= page.fields.keys()
    shown = [line.split()[0].partition("=")[0][2:] for line in short.splitlines() if line.startswith("  --")]
    assert sorted(shown) == sorted(command.flags or page.fields)
    assert shown[: len(page.required)] == list(page.required)
    assert short.count(" (required)") == len(page.required)
    assert len(short.splitlines()) <= 26
    own = [line for line in short.splitlines() if line.startswith("  --") or "--help=" in line]
    assert max(map(len, own)) <= 80
    assert f"deepdetect {name} --help=all explains all {len(page.fields)} flags" in short
    whole = deepdetect(capsys, name, "--help=all")
    assert whole == deepdetect(capsys, name, "--helpfull") == deepdetect(capsys, "help", name, "--help=all")
    assert all(f"\n  --{flag}" in whole[1] for flag in page.fields)
    assert f"  deepdetect {name}" in whole[1]
    assert whole[1].count("(required)") == len(page.required)
    assert "python -m trainer" not in short


def test_a_section_of_the_help(capsys):
    _, out, _ = deepdetect(capsys, "train", "--help=optim")
    flags = [line.split("=")[0].split()[0] for line in out.splitlines() if line.startswith("  --")]
    assert flags[:2] == ["--optimizer", "--learning_rate"]
    assert "--data_dir" not in flags
    message = refusal(capsys, dispatch.main, "train", "--help=optimizer")
    assert "expected one of all, data, layout," in message
    assert "did you mean 'optim'?" in message


def test_compare_takes_its_folders_as_words(capsys, tmp_path):
    for seed, name in enumerate("ab"):
        labels, p_fake = test_compare.made(seed)
        test_compare.write_evaluation(tmp_path / name, test_compare.PATHS, labels, test_compare.of_fake(p_fake))
    folders = [tmp_path / "a", tmp_path / "b"]
    code, out, _ = deepdetect(
        capsys, "compare", f"--out={tmp_path / 'one'}", "--group-by=none", *folders, "--bootstrap=0"
    )
    assert code == 0
    words = ["evaluate", f"--compare={folders[0]},{folders[1]}", f"--out={tmp_path / 'two'}", "--group_by=none",
             "--bootstrap=0"]  # fmt: skip
    assert deepdetect(capsys, *words)[1] == out.replace(str(tmp_path / "one"), str(tmp_path / "two"))
    one, two = ((tmp_path / name / "compare.json").read_text() for name in ("one", "two"))
    assert one == two
    message = refusal(capsys, dispatch.main, "compare", folders[0], f"--out={tmp_path / 'three'}")
    assert "expected two folders of evaluations or more, received 1" in message


def test_an_installation_without_a_part_says_what_to_install(capsys, tmp_path, monkeypatch):
    monkeypatch.delattr(demo, "make_data", raising=False)  # As if no test had imported it.
    for module in [name for name in sys.modules if name.startswith(f"{demo.__name__}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cv2", None)
    message = refusal(capsys, dispatch.main, "demo", tmp_path / "demo")
    assert "expected the package cv2" in message
    assert "pip install 'deepdetect[all]'" in message
    assert not (tmp_path / "demo").exists()


def test_a_benchmark_without_a_checkout_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(installed, "CHECKOUT", tmp_path)
    assert "expected a checkout of the project" in refusal(capsys, dispatch.main, "benchmark", "step")


def test_the_demo_refuses_a_wrong_flag_before_it_draws(capsys, tmp_path):
    assert "'epochs'" in refusal(capsys, dispatch.main, "demo", tmp_path / "demo", "--train-per-class=2", "--epoch=3")
    assert not (tmp_path / "demo").exists()


CHATTY = """
import logging, subprocess, sys
from pathlib import Path
from trainer.commands.demo import digest
from trainer.core import cli

cli.run_command(lambda _: 0, [])
print("before", flush=True)
with digest.running("training", Path(sys.argv[1])):
    print("on output")
    logging.getLogger("trainer").info("in the log")
    subprocess.run("echo of a child; echo its error >&2", shell=True, check=True)
print("after")
"""


def test_what_the_demos_training_says_goes_to_a_file_its_children_included(tmp_path):
    out = run([sys.executable, "-c", CHATTY, tmp_path / "log"], cwd=ROOT, stderr=subprocess.STDOUT)
    assert out == "before\nafter\n"
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["in the log", "its error", "of a child", "on output"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_figures_of_the_demo_fit_a_terminal_and_end_with_a_path(tmp_path, seeds):
    figures = dict.fromkeys(("mean", "std", "min", "max"), 0.98765)
    result = {
        "validation": {"accuracy": 0.5, "auc": None}, "exports": {"best": "/somewhere/export/best/6"}, "num_devices": 1,
        "images_per_second": 12.3, "device_kind": "CPU", "precision": "float32", "learned": True,
    }  # fmt: skip
    (tmp_path / "job").mkdir()
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "job/result.json").write_text(json.dumps(result))
    (tmp_path / "evaluation/metrics.json").write_text(json.dumps({"accuracy": 0.75, "auc": 0.875}))
    if seeds > 1:
        group = {"jobs": [{"job_dir": str(tmp_path / "job")}] * seeds, "Test": {"accuracy": figures, "auc": figures}}
        (tmp_path / "job/seeds.json").write_text(json.dumps(group))
    lines = summary.summary(tmp_path).splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines[:3])) <= 80
    assert lines[-1].endswith(f"{tmp_path}/job/report/index.html" if seeds > 1 else "/evaluation/report.html")
    assert ("0.9877 +- 0.9877 (0.9877..0.9877)" in "".join(lines)) == (seeds > 1)


def run(words, **options):
    options = {"stderr": subprocess.PIPE, **options}
    done = subprocess.run(
        [str(word) for word in words], stdout=subprocess.PIPE, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, (words, done.stdout[-2000:], (done.stderr or "")[-2000:])
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the folder into which the wheel of a copy of the checkout is installed; it is built from the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    run(["git", "clone", "-q", "--depth=1", f"file://{ROOT}", folder / "checkout"])
    for name in run(["git", "ls-files", "-m", "-o", "--exclude-standard"], cwd=ROOT).splitlines():
        if (ROOT / name).is_file():  # What is not committed yet.
            (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "checkout" / name).write_bytes((ROOT / name).read_bytes())
    run([sys.executable, "-m", "build", "--outdir", folder, folder / "checkout"])
    (built,) = folder.glob("*.whl")
    run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder / "site", built])
    return folder / "site"


@pytest.mark.slow
def test_an_installed_wheel_has_all_that_its_commands_need(wheel, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(wheel), "KUBECONFIG": os.devnull}

    def installed_run(*words):
        return run([sys.executable, wheel / "bin" / "deepdetect", *words], cwd=tmp_path, env=environment)

    assert installed_run("--version") == f"deepdetect {trainer.__version__}\n"
    assert installed_run("help") == dispatch.overview() + "\n"
    assert 'monitor: "val_auc"' in installed_run("train", "--config=recipes/fast.yaml", "--print_config")
    assert "gke-standard|gke-autopilot|generic" in installed_run("submit", "run", "--help")
    installed_run("demo", "draw", "--out=data", "--size=64", "--workers=1", "--train_per_class=1",
                  "--validation-per-class=1", "--test_per_class=1")  # fmt: skip
    assert len(list((tmp_path / "data").rglob("*.jpg"))) == 6
    audit = installed_run("audit", "--data_dir=data", "--out=audit", "--workers=1")
    assert "audit.html" in audit
    assert "<html" in (tmp_path / "audit" / "audit.html").read_text()  # Made of a template.
    metadata = next(wheel.glob("deepdetect-*.dist-info/METADATA")).read_text()
    assert "\nSummary: " in metadata
    assert "\nClassifier: Operating System :: POSIX :: Linux\n" in metadata
    assert "\n# deepdetect\n" in metadata
    own = {
        path.relative_to(wheel / "trainer/_files") for path in (wheel / "trainer/_files").rglob("*") if path.is_file()
    }
    tracked = run(["git", "ls-files", "k8s", "recipes"], cwd=ROOT).split()
    assert own == set(map(Path, tracked))


@pytest.mark.thorough
def test_the_demo_of_an_installed_wheel(wheel, tmp_path):
    words = ["demo", "out", "--train-per-class=8", "--validation-per-class=4", "--test-per-class=4", "--size=64",
             "--image_size=64", "--batch_size=8", "--epochs=1", "--seeds=1", "--num_devices=1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    out = run([sys.executable, wheel / "bin" / "deepdetect", *words], cwd=tmp_path, env=environment,
              stderr=subprocess.STDOUT)  # fmt: skip
    assert len(out.splitlines()) <= 40
    assert "ensor" not in out.replace(str(tmp_path), "")
    assert out.splitlines()[-1] == f"test report      {tmp_path}/out/evaluation/report.html"
    log = (tmp_path / "out/demo.log").read_text()
    assert "epoch 1/1  loss " in log
    assert "cpu_feature_guard" not in log
