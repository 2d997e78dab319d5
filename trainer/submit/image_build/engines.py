"""What builds and pushes images: docker, podman, buildah, or Google's Cloud Build.

A client may be installed without the engine that it talks to, so each is tried before it is chosen.
"""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import yaml

from trainer.core.errors import JobFailed, RequestError
from trainer.submit.image_build import content
from trainer.submit.image_build.settings import ENGINES

_PROBE_SECONDS = 20.0
_PLATFORM = "--platform=linux/amd64"
_CLOUD = "cloud-build"
_CLOUD_SECONDS = 3600
_GOOGLE = ("pkg.dev", "gcr.io")  # Registries to which Cloud Build may push.
_LOCAL = "localhost/deepdetect"  # Name of an image before it is pushed, so that "inspect" asks the registry alone.
# The program of each engine, and a command that fails or prints nothing if it cannot be used.
_PROBES = {
    "docker": ("docker", "version", "--format={{.Server.Version}}"),
    "podman": ("podman", "info", "--format={{.Version.Version}}"),
    "buildah": ("buildah", "info"),
    _CLOUD: ("gcloud", "config", "get-value", "account"),
}


@dataclasses.dataclass(frozen=True)
class Image:
    """An image to build.

    Attributes:
        reference: its name and tag in the registry.
        target: the stage of the Dockerfile to stop at; empty: the last one.
        base: published image below the code; empty: the Dockerfile's own stage.
    """

    reference: str
    target: str = ""
    base: str = ""

    @property
    def recipe(self) -> str:
        """The file of the staged folder that builds it."""
        return content.CODE_RECIPE if self.base else content.RECIPE


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine that works.

    Attributes:
        name: one of ``settings.ENGINES``.
        links: whether it can put a layer on a base that it has not downloaded (``COPY --link``).
    """

    name: str
    links: bool = False

    def commands(self, image: Image, folder: Path) -> list[list[str]]:
        """Return the commands that build and push an image from a folder with its files."""
        if self.name == _CLOUD:
            return [["gcloud", "builds", "submit", str(folder), f"--config={_write_cloud_file(image, folder)}"]]
        options = [*_options(image), _PLATFORM, f"--file={folder / image.recipe}"]
        if self.name == "docker":
            if self.links:
                return [["docker", "buildx", "build", *options, "--provenance=false", f"--tag={image.reference}",
                         "--push", str(folder)]]  # fmt: skip
            return [["docker", "build", *options, f"--tag={image.reference}", str(folder)],
                    ["docker", "push", image.reference]]  # fmt: skip
        local = f"{_LOCAL}:{image.reference.rpartition(':')[2]}"
        return [[self.name, "build", *options, f"--tag={local}", str(folder)],
                [self.name, "push", local, f"docker://{image.reference}"]]  # fmt: skip

    def inspection(self, reference: str) -> list[str]:
        """Return the command that fails if the registry does not have an image."""
        if self.name == _CLOUD:
            return ["gcloud", "artifacts", "docker", "images", "describe", reference]
        return [self.name, "manifest", "inspect", reference]

    def has(self, reference: str) -> bool:
        """Return whether the registry has an image."""
        return _run(self.inspection(reference)).returncode == 0

    def login(self, registry: str) -> str:
        """Return the command that gives this engine access to a registry."""
        if self.name == _CLOUD:
            return "gcloud auth login"
        if registry.endswith(_GOOGLE) and self.name == "docker":
            return f"gcloud auth configure-docker {registry}"
        if registry.endswith(_GOOGLE):
            login = f"{self.name} login -u oauth2accesstoken --password-stdin {registry}"
            return f"gcloud auth print-access-token | {login}"
        return f"{self.name} login {registry}"


def find(name: str, registry: str) -> tuple[Engine, list[str]]:
    """Return the first engine that works, and a note for each client before it that does not.

    Args:
        name: an engine, or ``auto``.
        registry: host to which images go.

    Raises:
        RequestError: if no client is installed.
        JobFailed: if no client that is installed works.
    """
    notes: list[str] = []
    installed: list[str] = []
    for each in ENGINES if name == "auto" else (name,):
        if not shutil.which(_PROBES[each][0]):
            continue
        installed.append(each)
        problem = _problem(each, registry)
        if not problem:
            return Engine(each, links=each == "docker" and _run(["docker", "buildx", "version"]).returncode == 0), notes
        notes.append(f"{each}: {problem}")
    if not installed:
        wanted = "docker, podman, buildah or gcloud" if name == "auto" else _PROBES[name][0]
        raise RequestError(f"expected {wanted}, which builds the image, found none; install one, or give --image")
    raise JobFailed(f"nothing here can build an image. {'; '.join(notes)}. Start an engine, or give --image")


def _problem(name: str, registry: str) -> str:
    """Return why an engine cannot be used, in its words; empty if it can."""
    if name == _CLOUD and not registry.endswith(_GOOGLE):
        return f"pushes to Google's registries only, not to {registry}"
    done = _run([*_PROBES[name]])
    if done.returncode == 0:
        return "" if done.stdout.strip() else "no account (gcloud auth login)" if name == _CLOUD else "no answer"
    return (done.stderr.strip().splitlines() or ["no answer"])[-1]


def _run(words: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_PROBE_SECONDS)
    except (subprocess.TimeoutExpired, OSError) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))


def _options(image: Image) -> list[str]:
    target = [f"--target={image.target}"] if image.target else []
    return [*target, *([f"--build-arg=BASE={image.base}"] if image.base else [])]


def _write_cloud_file(image: Image, folder: Path) -> Path:
    """Write what Cloud Build is to do."""
    build = {"name": "gcr.io/cloud-builders/docker", "env": ["DOCKER_BUILDKIT=1"],
             "args": ["build", *_options(image), _PLATFORM, f"--file={image.recipe}",
                      f"--tag={image.reference}", "."]}  # fmt: skip
    cloud = {"steps": [build], "images": [image.reference], "timeout": f"{_CLOUD_SECONDS}s"}
    path = folder / f"cloudbuild-{image.target or 'code'}.yaml"
    path.write_text(yaml.safe_dump(cloud), encoding="utf-8")
    return path
