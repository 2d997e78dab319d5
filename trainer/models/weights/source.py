"""A file with weights of another model -> its arrays by name; its first bytes decide the format.

Owns: which reader a file gets, and its checksum.  Does not own: jobs and exports of this package, which are folders
(``training/start/weights_source.py``).  Imports neither Keras nor TensorFlow.
"""

import dataclasses
import hashlib
import io
import zipfile

from trainer.core.arrays import Arrays
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.core.storage.transient import may_pass, reason
from trainer.models.weights import keras_file, torch_file, torch_names

_HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKLE = b"\x80"


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights and where they come from.

    Attributes:
        kind: ``keras file``, ``torch file``, ``job`` or ``export``.
        path: of the file or folder itself.
        sha256: of a file's bytes; of a job or export, of its arrays.
        arrays: by name, ``layer/variable``.
        class_names: of the classifier; empty if unknown.
    """

    kind: str
    path: str
    sha256: str
    arrays: Arrays
    class_names: tuple[str, ...] = ()


def read_file(path: str) -> Source:
    """Return the weights in a file.

    Raises:
        RequestError: if it cannot be read, or is of no known format.
    """
    content = _content(path)
    try:
        if _is_keras(content):
            kind, arrays = "keras file", keras_file.read(content)
        else:
            kind, arrays = "torch file", torch_names.to_keras(torch_file.read(content))
    except RequestError as error:
        raise RequestError(f"--weights={path}: {error}") from error
    return Source(kind, path, hashlib.sha256(content).hexdigest(), arrays)


def sha256_of(path: str) -> str:
    """Return the checksum of a local file.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(path: str) -> bytes:
    try:
        return files.read_bytes(path)
    except OSError as error:
        if may_pass(error):
            raise
        raise RequestError(
            f"--weights: expected a file that can be read, received {path!r}: {reason(error)}; check the path and its "
            "permissions"
        ) from error


def _is_keras(content: bytes) -> bool:
    """Return whether a file is one of Keras's rather than of torch's.

    Raises:
        RequestError: if it is neither.
    """
    if content.startswith(_HDF5):
        return True
    if content.startswith(_PICKLE):
        return False
    names = _zip_names(content)
    if keras_file.is_keras_zip(names) or torch_file.is_torch_zip(names):
        return keras_file.is_keras_zip(names)
    raise RequestError(
        f"expected a Keras file (.keras, .h5) or a torch state dict (.pth, .pt), received one that begins with "
        f"{content[:8]!r}; convert it, see docs/weights.md"
    )


def _zip_names(content: bytes) -> list[str]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        return []
