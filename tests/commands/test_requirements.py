"""The lock files hold one version of every package, within the bounds of setup.py; the image has no cluster client."""

import functools
import importlib.metadata
import re
import runpy
import tomllib
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
DEV = ("dev.txt",)
IMAGE = ("image-cuda.txt", "image-tensorflow.txt", "image.txt")
IMAGE_EXTRAS = ("gpu", "tensorboard", "serve", "storage")


@functools.cache
def setup_words():
    """Return what setup.py passes to setuptools."""
    words = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **given: words.update(given))
        runpy.run_path(str(ROOT / "setup.py"))
    return words


def required(*extras):
    """Return what setup.py asks for with these extras."""
    words = setup_words()
    texts = [*words["install_requires"], *(text for extra in extras for text in words["extras_require"][extra])]
    return [Requirement(text) for text in texts]


def environment(python):
    return {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux", "extra": "",
            "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
            "platform_python_implementation": "CPython", "implementation_name": "cpython"}  # fmt: skip


@functools.cache
def entries(*files):
    """Return the entries of lock files: requirement and number of hashes."""
    text = "\n".join((FOLDER / name).read_text() for name in files).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.partition("--hash")[0]), line.count("--hash=sha256:")) for line in lines]


@functools.cache
def pins(files, python):
    """Return the version of every package that these files install on Linux."""
    found = {}
    for entry, _ in entries(*files):
        if entry.marker is None or entry.marker.evaluate(environment(python)):
            name = canonicalize_name(entry.name)
            assert name not in found, f"{name} has two versions"
            (pin,) = entry.specifier
            assert pin.operator == "=="
            found[name] = Version(pin.version)
    return found


def missing(requirements, locked):
    """Return the requirements that a lock does not fulfil."""
    return [
        str(each)
        for each in requirements
        if canonicalize_name(each.name) not in locked or locked[canonicalize_name(each.name)] not in each.specifier
    ]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_environment_of_ci_is_within_the_bounds(python):
    assert missing(required("all", "dev"), pins(DEV, python)) == []
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert missing(map(Requirement, build), pins(DEV, python)) == []


def test_the_image_is_within_the_bounds_and_has_no_client():
    locked = pins(IMAGE, "3.12")
    wanted = required(*IMAGE_EXTRAS)
    assert missing([each for each in wanted if each.name != "kubernetes"], locked) == []
    assert "kubernetes" not in locked


def test_changed_bounds_and_new_packages_are_noticed():
    locked = pins(DEV, "3.11")
    texts = ["tensorflow>=2.22,<2.23", "keras<3.15", "a-new-package>=1"]
    assert missing(map(Requirement, texts), locked) == [str(Requirement(text)) for text in texts]


@pytest.mark.parametrize("name", [*DEV, *IMAGE])
def test_every_package_has_hashes_and_no_place(name):
    assert all(hashes for _, hashes in entries(name))
    text = (FOLDER / name).read_text()
    assert not re.search(r"https?:|^\s*-(?!-hash=)|\s@\s", text, re.M)
    assert not {"torch", "torchvision"} & set(pins((name,), "3.12"))


def test_the_parts_of_the_image_are_its_layers():
    cuda, tensorflow, rest = (set(pins((name,), "3.12")) for name in IMAGE)
    assert all(name.startswith("nvidia-") for name in cuda)
    assert {"nvidia-cudnn-cu12", "nvidia-nccl-cu12"} <= cuda
    assert "tensorflow" in tensorflow
    assert not any(name.startswith("nvidia-") for name in tensorflow | rest)


@pytest.mark.parametrize("files", [DEV, IMAGE], ids=["environment", "image"])
def test_what_the_packages_need_is_there(files):
    """The image's are installed with --no-deps, so pip does not look."""
    locked = pins(files, "3.12")
    for name in locked:
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = [
            each for each in map(Requirement, texts) if not each.marker or each.marker.evaluate(environment("3.12"))
        ]
        if importlib.metadata.version(name) == str(locked[name]):
            assert missing(wanted, locked) == [], name
