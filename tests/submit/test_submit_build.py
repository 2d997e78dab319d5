"""Images by content, built by whatever works here: the engines are stand-ins, the hashes and the commands are real."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.fake_programs import Programs
from tests.helpers.kube_objects import RUN, submit
from trainer.submit.image_build.content import Source

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "us-docker.pkg.dev/p/images/deepdetect"
BUILD = ["build", f"--repository={REPOSITORY}"]

# As the real ones: "manifest inspect" asks the registry, a push may be denied, and a client may lack its engine.
DOCKER = """
case "$all" in
"version "*) [ -e "$STATE/docker-runs" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }; echo 28.2;;
"buildx version") [ -e "$STATE/buildx" ] || exit 1;;
"manifest inspect "*) grep -qxF "$3" "$STATE/registry" 2>/dev/null || { echo "no such manifest" >&2; exit 1; };;
*"--push"*) [ ! -e "$STATE/denied" ] || { echo "denied: Permission" >&2; exit 1; }
  for word; do case "$word" in --tag=*) echo "${word#--tag=}" >> "$STATE/registry";; esac; done
  for word; do folder=$word; done; cat "$folder/Dockerfile.code" > "$STATE/recipe";;
"push "*) [ ! -e "$STATE/denied" ] || { echo "denied: Permission" >&2; exit 1; }; echo "$2" >> "$STATE/registry";;
esac
"""
PODMAN = """
case "$all" in
info*) [ -e "$STATE/podman-runs" ] || { echo "Cannot connect to Podman" >&2; exit 125; }; echo 5;;
"manifest inspect "*) grep -qxF "$3" "$STATE/registry" 2>/dev/null || exit 125;;
"push "*) echo "${3#docker://}" >> "$STATE/registry";;
esac
"""
BUILDAH = PODMAN.replace('[ -e "$STATE/podman-runs" ]', "true")
GCLOUD = """
case "$all" in
"config get-value account") [ ! -e "$STATE/account" ] || cat "$STATE/account";;
"artifacts docker images describe "*) grep -qxF "$5" "$STATE/registry" 2>/dev/null || exit 1;;
"builds submit "*) cat "${4#--config=}" > "$STATE/cloud";;
esac
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Programs(tmp_path, monkeypatch)


@pytest.fixture
def docker(programs):
    programs.add("docker", DOCKER)
    for name in ("docker-runs", "buildx"):
        (programs.state / name).touch()
    return programs


@pytest.fixture
def checkout(tmp_path):
    """Return a small checkout."""
    root = tmp_path / "checkout"
    for name in ("Dockerfile", "trainer/a.py", "trainer/core/b.py", "recipes/fast.yaml", "requirements/image.txt",
                 "requirements/image-cuda.txt", "requirements/dev.txt", "scripts/trim_packages.sh",
                 "README.md"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}")
    return root


def test_a_tag_says_what_the_image_holds(checkout, tmp_path):
    base, code = Source(checkout).base_tag(), Source(checkout).code_tag("b:1")
    copy = tmp_path / "copy"
    for path in sorted(checkout.rglob("*"), reverse=True):  # In another order, at another time, for another owner.
        if path.is_file():
            (copy / path.relative_to(checkout)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / path.relative_to(checkout))
            os.utime(copy / path.relative_to(checkout), (1, 1))
    for name in ("README.md", "requirements/dev.txt", "trainer/__pycache__/a.cpython-312.pyc", "trainer/.DS_Store",
                 "jobs/first/model.keras", ".git/index"):  # fmt: skip
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("not shipped")
    assert (Source(copy).base_tag(), Source(copy).code_tag("b:1")) == (base, code)
    assert Source(copy).code_tag("b:2") != code
    (copy / "trainer/core/b.py").write_text("content of trainer/core/c.py")  # Of equal length.
    assert Source(copy).base_tag() == base  # The 7 GB stay.
    changed = Source(copy).code_tag("b:1")
    (copy / "trainer/core/b.py").rename(copy / "trainer/core/c.py")
    assert len({code, changed, Source(copy).code_tag("b:1")}) == 3
    (copy / "requirements/image-cuda.txt").write_text("tensorrt")
    assert Source(copy).base_tag() != base


def test_what_reaches_an_engine_is_what_the_dockerfile_copies(tmp_path):
    source = Source(ROOT)
    source.stage(tmp_path / "context")
    staged = {path.relative_to(tmp_path / "context") for path in (tmp_path / "context").rglob("*") if path.is_file()}
    staged.remove(Path("Dockerfile.code"))
    assert staged == {path.relative_to(ROOT) for path in (*source.packages, *source.code, ROOT / "Dockerfile")}
    tops = {str(path.parts[0]) for path in staged}
    assert tops == {"Dockerfile", "requirements", "scripts", "trainer", "recipes"}
    text = (ROOT / "Dockerfile").read_text()
    recipe = (tmp_path / "context" / "Dockerfile.code").read_text()
    stages = re.findall(r"^FROM .*$", recipe, re.M)
    assert stages == ["FROM ${PYTHON} AS build", "FROM build AS code", "FROM ${BASE}"]  # No packages.
    assert {"COPY trainer /code/trainer", "COPY --from=code /code /opt/code"} < set(recipe.splitlines())
    assert recipe.startswith(text[: text.index("FROM ")])
    assert text.count("FROM ${BASE}") == text.count("ARG BASE=base") == text.count(" AS base") == 1


def test_only_what_the_registry_lacks_is_built(docker, capfd):
    assert submit(*BUILD) == 0
    image = capfd.readouterr().out.strip()
    assert image.startswith(f"{REPOSITORY}:code-")
    built = [line for line in docker.calls() if " build " in line]
    assert ["--target=base" in line for line in built] == [True, False]
    base = next(word for word in built[0].split() if word.startswith("--tag="))[6:]
    assert f"--build-arg=BASE={base} --platform=linux/amd64" in built[1]
    assert f"--tag={image} --push" in built[1]
    assert ["Dockerfile.code" in line for line in built] == [False, True]
    assert "COPY --link --from=code /code /opt/code" in (docker.state / "recipe").read_text()
    assert submit(*BUILD) == 0
    output = capfd.readouterr()
    assert output.out.strip() == image
    assert "nothing to build" in output.err
    assert not [line for line in docker.calls() if " build " in line]
    (docker.state / "registry").write_text(base)  # As after a change of the code alone.
    assert submit(*BUILD) == 0
    assert len([line for line in docker.calls() if " build " in line]) == 1
    assert not list((docker.state.parent / "cache").rglob("Dockerfile"))


def test_dry_run_prints_commands_that_work_later(docker, capfd):
    assert submit(*BUILD, "--base=registry.example/base:1", "--dry_run") == 0
    output = capfd.readouterr()
    calls = docker.calls()
    assert not [line for line in calls if " build " in line]
    (command,) = [line for line in output.err.splitlines() if " build " in line]
    assert "--build-arg=BASE=registry.example/base:1" in command
    assert subprocess.run(["sh", "-c", command]).returncode == 0
    assert (docker.state / "registry").read_text().strip() == output.out.strip()


@pytest.mark.slow
def test_a_client_without_an_engine_is_passed_over(programs, capfd):
    assert submit(*BUILD) == 2
    assert "expected docker, podman, buildah or gcloud" in capfd.readouterr().err
    programs.add("docker", DOCKER)
    assert submit(*BUILD) == 1
    assert "docker: Cannot connect to the Docker daemon" in capfd.readouterr().err
    programs.add("podman", PODMAN)
    programs.add("gcloud", GCLOUD)
    assert submit(*BUILD) == 1
    assert "cloud-build: no account (gcloud auth login)" in capfd.readouterr().err
    (programs.state / "account").write_text("jo@example.com\n")
    programs.calls()
    assert submit(*BUILD) == 0  # Cloud Build is the last one.
    assert "not used: podman: Cannot connect to Podman" in capfd.readouterr().err
    assert len([line for line in programs.calls() if line.startswith("gcloud builds submit ")]) == 2
    cloud = yaml.safe_load((programs.state / "cloud").read_text())
    assert cloud["images"][0].startswith(f"{REPOSITORY}:code-")
    assert f"--tag={cloud['images'][0]}" in cloud["steps"][0]["args"]
    assert submit("build", "--repository=registry.example/x") == 1
    assert "pushes to Google's registries only, not to registry.example" in capfd.readouterr().err
    programs.add("buildah", BUILDAH)
    assert submit("build", "--repository=registry.example/x") == 0
    pushes = [line.split() for line in programs.calls() if line.startswith("buildah push ")]
    assert [target.partition(":code-")[0] for *_, target in pushes][1] == "docker://registry.example/x"
    assert all(words[2].startswith("localhost/deepdetect:") for words in pushes)
    (programs.state / "podman-runs").touch()
    assert submit("build", "--repository=registry.example/y") == 0
    assert [line for line in programs.calls() if line.startswith("podman push ")]


@pytest.mark.slow
def test_a_denied_push_fails_with_the_way_in(docker, capfd):
    (docker.state / "denied").touch()
    for buildx in (True, False):
        if not buildx:
            (docker.state / "buildx").unlink()
        assert submit(*BUILD) == 1
        error = capfd.readouterr().err
        assert "denied: Permission" in error
        assert "gcloud auth configure-docker us-docker.pkg.dev" in error


@pytest.mark.slow
def test_a_small_file_keeps_where_images_go(docker, tmp_path, capfd):
    assert submit("build") == 2
    assert "config/deepdetect/submit.yaml" in capfd.readouterr().err
    (tmp_path / "config/deepdetect").mkdir(parents=True)
    (tmp_path / "config/deepdetect/submit.yaml").write_text(f"repository: {REPOSITORY}\nbase: registry.example/b:1\n")
    assert submit("build") == 0
    assert "BASE=registry.example/b:1" in capfd.readouterr().err
    for wrong in ("--repository=x", f"--repository={REPOSITORY}:1", "--base=registry.example/b:latest"):
        assert submit("build", wrong) == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_a_run_builds_its_image_only_when_it_is_submitted(docker, server, capfd):
    (docker.folder / "kubectl").symlink_to(REAL_KUBECTL)
    words = [word for word in RUN if not word.startswith("--image=")]
    words += ["--image=auto", f"--repository={REPOSITORY}", "--nofollow"]
    assert submit(*words, "--dry_run=client") == 0
    assert submit(*words, "--gpus=3") == 2  # Not a machine's number.
    assert not docker.calls()
    image = yaml.safe_load(capfd.readouterr().out)["spec"]["replicatedJobs"][0]
    assert submit(*words) == 0
    assert len([line for line in docker.calls() if " build " in line]) == 2
    (pod,) = [item for (plural, _), item in server.objects.items() if plural == "jobsets"]
    container = pod["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == image["template"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert container["image"] in (docker.state / "registry").read_text().split()


REAL_KUBECTL = shutil.which("kubectl")
