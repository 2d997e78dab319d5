"""What the Dockerfile copies and deletes, by its own script and on small trees."""

import re
import shutil
import subprocess
from pathlib import Path

from trainer.core import installed

ROOT = Path(__file__).resolve().parents[2]
KEPT = (
    "tensorflow/libtensorflow_cc.so.2", "tensorflow/python/module.py", "tensorflow/python/testing/module.py",
    "nvidia/cuda_nvcc/bin/ptxas", "nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc", "nvidia/cudnn/lib/libcudnn.so.9",
    "nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "nvidia/cusolver/lib/libcusolver.so.11", "keras/src/layers/test.json",
    "tensorflow-2.21.0.dist-info/METADATA", "mylab/include/module.py",
)  # fmt: skip
DELETED = (
    "tensorflow/include/tensorflow/core/a.proto", "nvidia/cudnn/include/cudnn.txt", "numpy/_core/lib/libnpymath.a",
    "scipy/stats/tests/data/x.csv", "keras/__pycache__/x.pyc", "clang/native/libclang.so", "setuptools/__init__.py",
    "setuptools-84.2.1.dist-info/METADATA", "nvidia/cuda_nvcc/nvvm/lib64/libnvvm.so", "a/b.pyi",
    "nvidia/cusolver/lib/libcusolverMg.so.11", "nvidia/cuda_nvrtc/lib/libnvrtc.alt.so.12",
)  # fmt: skip


def test_trimming_keeps_what_xla_and_cuda_load(tmp_path):
    for name in (*KEPT, *DELETED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(2):  # Each layer has a part of the packages, so everything may be absent.
        subprocess.run([ROOT / "scripts" / "trim_packages.sh", tmp_path], check=True)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == set(KEPT)


def test_the_build_has_every_file_that_it_copies():
    lines = re.findall(r"^COPY (?!--from)(\S+) ", (ROOT / "Dockerfile").read_text(), re.M)
    assert lines
    context = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in lines:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) for pattern in context), source


def test_the_recipes_lie_where_the_image_looks_for_them(tmp_path, monkeypatch):
    target = re.search(r"^COPY recipes /code/trainer/(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)[1]
    shutil.copytree(ROOT / "recipes", tmp_path / target)
    monkeypatch.setattr(installed, "_PACKAGE", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert Path(installed.recipe("recipes/fast.yaml")).read_text() == (ROOT / "recipes" / "fast.yaml").read_text()
