"""Read the weights in a file of Keras: ``.keras``, ``.weights.h5``, and ``.h5`` as Keras 1 and 2 wrote it.

Only arrays and names are read: no layer, function or other object of the file is made, so nothing in it can run.
Owns: these formats.  Does not own: which of a model's variables an array is for (``match.py``).
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trainer.core.arrays import Arrays
from trainer.core.errors import RequestError, StoppedEarly

_INNER = "model.weights.h5"  # In a .keras file.

# Files of Keras 3 number a layer's variables; their names follow from the layer's class, which the group is named by.
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_VARIABLES = {
    "batch_normalization": _NORM, "layer_normalization": ("gamma", "beta"), "layer_scale": ("gamma",),
    "shard_batch_norm": ("gamma", "beta", "moving"), "normalization": ("mean", "variance", "count"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
}  # fmt: skip
_KERNEL_AND_BIAS = ("kernel", "bias")
# Switches of a layer's config that leave a variable out.
_SWITCHES = {"gamma": "scale", "beta": "center", "bias": "use_bias"}


def is_keras_zip(names: list[str]) -> bool:
    """Return whether a zip with these files is one of Keras's."""
    return _INNER in names


def read(content: bytes) -> Arrays:
    """Return the arrays as ``layer/variable``.

    Raises:
        RequestError: if the file is damaged, holds no weights, or points to other files.
    """
    try:
        if content[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return _read_hdf5(archive.read(_INNER), _layer_configs(json.loads(archive.read("config.json"))))
        return _read_hdf5(content, {})
    except (RequestError, StoppedEarly, MemoryError):
        raise
    except Exception as error:  # Damaged bytes can raise anything in a parser.
        raise RequestError(
            f"expected weights that Keras wrote, received a damaged file ({type(error).__name__}: {error}); fetch it "
            "again"
        ) from error


def _read_hdf5(content: bytes, configs: Mapping[str, Mapping[str, Any]]) -> Arrays:
    import h5py  # Late: only this needs it.

    with h5py.File(io.BytesIO(content), "r") as file:
        _refuse_links(h5py, file)
        root = file.get("model_weights", file)
        pairs = _legacy(root) if _attribute(root, "layer_names") else _numbered(h5py, file, configs)
        arrays = {name: _array(name, dataset, len(content)) for name, dataset in pairs}
    if not arrays:
        raise RequestError("expected weights that Keras wrote, received an HDF5 file without any; save the model again")
    return arrays


def _refuse_links(h5py: Any, group: Any) -> None:
    """Refuse what would make HDF5 open other files, or visit a group twice."""
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise RequestError(f"expected arrays in the file itself, received a link named {name!r}; save it again")
        if isinstance(group[name], h5py.Group):
            _refuse_links(h5py, group[name])


def _array(name: str, dataset: Any, file_bytes: int) -> Any:
    """Return a dataset's values as float32; Keras stores them plainly, so they cannot be larger than the file."""
    if dataset.external or dataset.is_virtual or dataset.nbytes > file_bytes:
        raise RequestError(f"expected {name!r} to be stored plainly in the file, received {dataset.nbytes} bytes "
                           f"elsewhere or compressed, in a file of {file_bytes}; save it again with Keras")  # fmt: skip
    values = np.asarray(dataset)
    if dataset.attrs.get("dtype") == "bfloat16":
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _texts(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _attribute(group: Any, name: str) -> list[str]:
    """Return a list of names; Keras splits a long one into ``name0``, ``name1`` ..."""
    if name in group.attrs:
        return _texts(group.attrs[name])
    parts: list[str] = []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(f"{name}{len(parts)}")
    return [text for part in parts for text in _texts(group.attrs[part])]


def _legacy(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of the older format: one group for each layer, which lists its weights by name."""
    for layer in _attribute(root, "layer_names"):
        names = _attribute(root[layer], "weight_names")
        owners = {name: re.sub(r":\d+$", "", name).rpartition("/") for name in names}
        is_nested = len({owner for owner, _, _ in owners.values()}) > 1
        for name, (owner, _, leaf) in owners.items():
            inner = owner.rpartition("/")[2] if is_nested else layer.replace("/", "_")
            yield f"{inner}/{leaf}", root[layer][name]


def _numbered(h5py: Any, file: Any, configs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of Keras 3: groups named by class and number, with the layer's name as an attribute."""
    groups: list[tuple[str, Any]] = []
    file.visititems(lambda path, item: groups.append((path, item)) if isinstance(item, h5py.Group) else None)
    for path, group in groups:
        if not path.endswith("/vars") or path.startswith("optimizer") or not len(group):
            continue
        kind = re.sub(r"_\d+$", "", path.split("/")[-2])
        layer = str(group.attrs.get("name", path.split("/")[-2]))
        names = _variable_names(kind, len(group), configs.get(layer, {}))
        for number in group:
            leaf = names[int(number)] if number.isdigit() and int(number) < len(names) else number
            yield f"{layer}/{leaf}", group[number]


def _variable_names(kind: str, count: int, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a layer's variables in order; empty if they cannot be told from their number."""
    names = _VARIABLES.get(kind, _KERNEL_AND_BIAS)
    present = tuple(name for name in names if config.get(_SWITCHES.get(name, ""), True))
    if len(present) == count:
        return present
    return names[:count] if names[-1] == "bias" and count == len(names) - 1 else ()


def _layer_configs(config: Any) -> dict[str, Mapping[str, Any]]:
    """Return the settings of every layer by its name, of nested models too."""
    layers: dict[str, Mapping[str, Any]] = {}
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            inner = value.get("config")
            if "class_name" in value and isinstance(inner, dict) and "name" in inner:
                layers[str(inner["name"])] = inner
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return layers
