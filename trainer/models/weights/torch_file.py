"""Read a torch state dict (``.pth``, ``.pt``) without torch, and without running what its pickle asks for.

Both formats are read: the zip of torch >= 1.6, and the row of pickles before it.  A pickle can name any function of
Python; here only those that describe tensors are known, as stand-ins, and any other name is refused.
Owns: both formats.  Does not own: what the names mean (``torch_names.py``).
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from trainer.core.arrays import Arrays
from trainer.core.errors import RequestError, StoppedEarly

# https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_COUNT_BYTES = 8  # Number of elements in front of each storage, in the older format.

# NumPy's type of each storage; bfloat16, which NumPy lacks, is read as its upper 16 bits of a float32.
_BFLOAT16 = "BFloat16Storage"
_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", _BFLOAT16: "<u2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "|b1",
}  # fmt: skip
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # Keys under which training scripts keep the state dict.
_SAVE_AGAIN = "save it again with torch.save(model.state_dict(), path)"


class _StorageType(NamedTuple):
    name: str


class _Storage(NamedTuple):
    type: str
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RebuildTensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``; without attributes, so that a pickle can set none."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        """Return the description of a tensor."""
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
    """Stands for ``torch._utils._rebuild_parameter``."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        """Return the parameter's tensor."""
        return tensor


class _Unpickler(pickle.Unpickler):
    """Knows what a state dict of tensors needs, and nothing else."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name.

        Raises:
            RequestError: for any other name.
        """
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
            ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _STORAGES:
            return _StorageType(name)
        raise RequestError(
            f"expected a state dict of tensors, received a pickle that calls {module}.{name}, which is not run; "
            f"{_SAVE_AGAIN}"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a persistent id describes."""
        kind, storage_type, key, _, count, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise RequestError(f"expected whole storages, received {kind!r} with a view; {_SAVE_AGAIN}")
        storage = _Storage(storage_type.name, str(key), int(count))
        return self.storages.setdefault(storage.key, storage)


def read(content: bytes) -> Arrays:
    """Return the tensors of a state dict as float32 by their names, in torch's layout.

    Raises:
        RequestError: if it is none, is damaged, or names anything but tensors.
    """
    try:
        state, contents = _read_zip(content) if content[:2] == b"PK" else _read_pickles(content)
        return {name: _array(tensor, contents) for name, tensor in _tensors(state).items()}
    except (RequestError, StoppedEarly, MemoryError):
        raise
    except Exception as error:  # Damaged bytes can raise anything in a parser.
        raise RequestError(
            f"expected a torch state dict, received a damaged one ({type(error).__name__}: {error}); fetch it again"
        ) from error


def is_torch_zip(names: list[str]) -> bool:
    """Return whether a zip with these files is one of torch's."""
    return any(name.endswith("/data.pkl") for name in names)


def _read_zip(content: bytes) -> tuple[Any, dict[str, bytes]]:
    """Return the pickled object, and the bytes of each storage by its key."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise RequestError("expected torch's own zip, whose files are not compressed, received another one; "
                               f"{_SAVE_AGAIN}")  # fmt: skip
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist():
            _require_little_endian(archive.read(root + "byteorder") == b"little")
        unpickler = _Unpickler(io.BytesIO(archive.read(root + "data.pkl")))
        state = unpickler.load()
        return state, {key: archive.read(f"{root}data/{key}") for key in unpickler.storages}


def _read_pickles(content: bytes) -> tuple[Any, dict[str, bytes]]:
    """Return the same of the older format: magic number, version, system, state, keys, and the storages in order."""
    stream = io.BytesIO(content)
    if _Unpickler(stream).load() != _MAGIC_NUMBER or _Unpickler(stream).load() != _PROTOCOL_VERSION:
        raise RequestError(f"expected a file of torch.save, received another pickle; {_SAVE_AGAIN}")
    _require_little_endian(_Unpickler(stream).load()["little_endian"])
    unpickler = _Unpickler(stream)
    state = unpickler.load()
    contents = {}
    for key in _Unpickler(stream).load():
        storage = unpickler.storages[str(key)]
        count = int.from_bytes(stream.read(_COUNT_BYTES), "little")
        size = count * np.dtype(_STORAGES[storage.type]).itemsize
        contents[storage.key] = stream.read(size)
    return state, contents


def _require_little_endian(is_little: bool) -> None:
    if not is_little:
        raise RequestError(f"expected little-endian numbers, received big-endian ones; {_SAVE_AGAIN} elsewhere")


def _tensors(state: Any) -> dict[str, _Tensor]:
    """Return the tensors of a state dict, or of the one inside a training script's dictionary."""
    for _ in range(2):
        items = dict.items(state) if isinstance(state, dict) else ()
        tensors = {str(name): value for name, value in items if isinstance(value, _Tensor)}
        if tensors:
            return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        state = next((state[key] for key in _WRAPPERS if isinstance(state, dict) and key in state), None)
    raise RequestError(f"expected a state dict of tensors, received none in this file; {_SAVE_AGAIN}")


def _array(tensor: _Tensor, contents: Mapping[str, bytes]) -> Any:
    """Return a tensor's values as float32, after checking that they lie within its storage."""
    content, kind = contents[tensor.storage.key], tensor.storage.type
    dtype = np.dtype(_STORAGES[kind])
    if len(content) != tensor.storage.length * dtype.itemsize:
        raise RequestError(f"expected {tensor.storage.length} numbers in storage {tensor.storage.key}, received a file "
                           "that is cut short; fetch it again")  # fmt: skip
    shape, strides = tensor.shape, tensor.strides
    count = math.prod(shape)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    numbers = (tensor.offset, *shape, *strides)
    if min(numbers) < 0 or count > tensor.storage.length or (count and last >= tensor.storage.length):
        raise RequestError(f"expected tensors within their storages, received shape {shape} outside; fetch it again")
    if not count:
        return np.zeros(shape, np.float32)
    flat = np.frombuffer(content, dtype)[tensor.offset :]
    view = np.lib.stride_tricks.as_strided(flat, shape, [stride * dtype.itemsize for stride in strides])
    if kind == _BFLOAT16:
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.astype(np.float32)
