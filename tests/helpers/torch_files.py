"""Files as ``torch.save`` writes them, made without torch: every opcode of the pickles is written here."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_TYPES = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<i8": "LongStorage", "<f8": "DoubleStorage"}


class Global(NamedTuple):
    """A name of a module."""

    module: str
    name: str


class Call(NamedTuple):
    """A call of a name."""

    function: Global
    arguments: tuple


class Persistent(NamedTuple):
    """An object outside of the pickle."""

    id: tuple


def tensor(key: str, shape: tuple, strides: tuple, *, kind: str = "FloatStorage", length: int, offset: int = 0) -> Call:
    """Return a tensor as torch pickles it."""
    storage = Persistent(("storage", Global("torch", kind), key, "cpu", length))
    hooks = Call(Global("collections", "OrderedDict"), ())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, False, hooks))


def pickled(value: Any) -> bytes:
    """Return a pickle of protocol 2."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    match value:
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return _opcodes(function) + _opcodes(arguments) + b"R"
        case Persistent(pid):
            return _opcodes(pid) + b"Q"
        case tuple():
            return b"(" + b"".join(map(_opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_opcodes(part) for pair in value.items() for part in pair) + b"u"
    return pickle.dumps(value, 2)[2:-1]


def zip_of(state: Any, storages: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a file of torch >= 1.6."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("net/data.pkl", pickled(state))
        archive.writestr("net/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"net/data/{key}", content)
    return stream.getvalue()


def pickles_of(state: Any, storages: Mapping[str, bytes], *, itemsize: int = 4) -> bytes:
    """Return a file of an older torch."""
    system = {"protocol_version": 1001, "little_endian": True}
    head = [0x1950A86A20F9469CFC6C, 1001, system, state, list(storages)]
    tail = [struct.pack("<q", len(content) // itemsize) + content for content in storages.values()]
    return b"".join([*map(pickled, head), *tail])


def state_dict(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Call], dict[str, bytes]]:
    """Return arrays as tensors and their storages."""
    tensors, storages = {}, {}
    for number, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        kind = _TYPES[array.dtype.str]
        tensors[name] = tensor(str(number), array.shape, strides, kind=kind, length=array.size)
        storages[str(number)] = array.tobytes()
    return tensors, storages
