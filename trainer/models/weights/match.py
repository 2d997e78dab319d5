"""Which array of a file belongs to which variable of a model: by name, and only with an equal shape.

Names differ in spelling (``functional_3/stem_bn/gamma:0``, ``Conv/BatchNorm/gamma``), so they are compared by layer and
variable, without what Keras puts around them.  Layers that Keras named by itself (``conv2d_4``) are compared by their
shapes, if these fit one layer alone.  The order of layers never decides.
Owns: that comparison.  Does not own: files (``source.py``), what is done about leftovers.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from trainer.core.arrays import Arrays

CLASSIFIER = "logits"
_CONTAINER = re.compile(r"(functional|model|sequential)(_\d+)?")
_AUTOMATIC = re.compile(r"(conv2d|convolution2d|depthwise_conv2d|separable_conv2d|batch_normalization|"
                        r"layer_normalization|dense)(_\d+)?")  # fmt: skip
_ALSO = {"kernel": "depthwise_kernel", "depthwise_kernel": "kernel"}  # Keras 2 and 3, of depthwise convolutions.
_MOVING = ("moving_mean", "moving_variance")  # The two rows of ``ShardBatchNorm.moving``.

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Name:
    """A variable's name in parts: the innermost layer, that layer with the models around it, the variable."""

    layer: str
    whole: str
    leaf: str


@dataclasses.dataclass(frozen=True)
class Difference:
    """A variable whose namesake in the file has another shape."""

    variable: str
    expected: Shape
    name: str
    received: Shape

    def __str__(self) -> str:
        return f"{self.variable} {list(self.expected)} (file: {list(self.received)})"


@dataclasses.dataclass(frozen=True)
class Match:
    """The outcome of a comparison.

    Attributes:
        values: what each variable that has a counterpart gets.
        taken: the names in the file that it comes from, by variable.
        differing: namesakes of other shapes; they are in ``missing`` and ``unused`` as well.
        missing: variables without a counterpart.
        unused: names in the file that no variable takes.
    """

    values: Arrays
    taken: dict[str, list[str]]
    differing: list[Difference]
    missing: list[str]
    unused: list[str]

    @property
    def missing_besides_classifier(self) -> list[str]:
        """Missing variables of the network itself; the classifier of other classes is expected to be left out."""
        return [name for name in self.missing if parse(name).layer != CLASSIFIER]


def parse(name: str) -> Name:
    """Return the parts of a name, in the spelling in which they are compared."""
    *layers, leaf = re.sub(r":\d+$", "", name).lower().split("/")
    inside = [layer for layer in layers if not _CONTAINER.fullmatch(layer)] or layers or [""]
    inside = [layer.replace("_batchnorm", "_bn") for layer in inside]
    return Name(inside[-1], "_".join(inside), leaf)


def match(variables: Mapping[str, Shape], arrays: Arrays) -> Match:
    """Compare a model's variables with a file's arrays.

    Args:
        variables: shapes by path.
        arrays: of the file, by name.
    """
    file = _File(arrays)
    needs = {path: _needs(path, shape, file) for path, shape in variables.items()}
    shorts = collections.Counter((name.layer, name.leaf) for names in needs.values() for name in names)
    pairs = {
        path: [file.find(name, unique=shorts[name.layer, name.leaf] == 1) for name in names]
        for path, names in needs.items()
    }
    _pair_lone_variables(pairs, needs, file)
    if 2 * sum(all(names) for names in pairs.values()) >= len(pairs):  # Else it is another network.
        _pair_automatic_layers(pairs, needs, variables, file)
    return _outcome(variables, arrays, pairs)


class _File:
    """A file's arrays, found by the parts of their names."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.names = {name: parse(name) for name in arrays}
        self._wholes = _index(((name.whole, name.leaf), key) for key, name in self.names.items())
        self._shorts = _index(((name.layer, name.leaf), key) for key, name in self.names.items())

    def find(self, name: Name, *, unique: bool) -> str:
        """Return the key of an array with this name; empty without one, or with several.

        Args:
            name: of a variable.
            unique: whether no other variable of the model has this layer and leaf.
        """
        for leaf in (name.leaf, _ALSO.get(name.leaf, "")):
            keys = self._wholes[name.whole, leaf] or (self._shorts[name.layer, leaf] if unique else [])
            if len(keys) == 1:
                return keys[0]
        return ""


def _index(pairs: Iterable[tuple[Any, str]]) -> dict[Any, list[str]]:
    index = collections.defaultdict(list)
    for key, value in pairs:
        index[key].append(value)
    return index


def _needs(path: str, shape: Shape, file: _File) -> list[Name]:
    """Return the names that a variable takes its value from: one, or mean and variance of ``moving [2, C]``."""
    name = parse(path)
    if name.leaf == "moving" and len(shape) == 2 and not file.find(name, unique=True):
        return [dataclasses.replace(name, leaf=leaf) for leaf in _MOVING]
    return [name]


def _pair_lone_variables(pairs: dict[str, list[str]], needs: Mapping[str, list[Name]], file: _File) -> None:
    """Pair layers of one name that have a single variable each, whatever that is called."""
    owned = _index((name.layer, path) for path, names in needs.items() for name in names)
    held = _index((name.layer, key) for key, name in file.names.items())
    for path, names in needs.items():
        layer = names[0].layer
        if pairs[path] == [""] and len(owned[layer]) == len(held[layer]) == 1:
            pairs[path] = [held[layer][0]]


def _pair_automatic_layers(
    pairs: dict[str, list[str]], needs: Mapping[str, list[Name]], variables: Mapping[str, Shape], file: _File
) -> None:
    """Pair what is left of the model with layers that Keras named, where the shapes leave no choice."""
    used = {key for keys in pairs.values() for key in keys}
    offers: dict[str, dict[str, tuple[Shape, str]]] = collections.defaultdict(dict)
    for key, name in file.names.items():
        if key not in used and _AUTOMATIC.fullmatch(name.layer):
            offers[name.layer][name.leaf] = (file.arrays[key].shape, key)
    wants: dict[str, dict[str, Shape]] = collections.defaultdict(dict)
    for path, names in needs.items():
        if not any(pairs[path]) and names[0].layer != CLASSIFIER:
            wants[names[0].whole] |= {name.leaf: variables[path][len(names) - 1 :] for name in names}
    offering = _index((_signature({leaf: shape for leaf, (shape, _) in offers[layer].items()}), layer)
                      for layer in offers)  # fmt: skip
    wanting = _index((_signature(leaves), whole) for whole, leaves in wants.items())
    for path, names in needs.items():
        signature = _signature(wants.get(names[0].whole, {}))
        if not any(pairs[path]) and len(offering[signature]) == len(wanting[signature]) == 1:
            pairs[path] = [offers[offering[signature][0]][name.leaf][1] for name in names]


def _signature(leaves: Mapping[str, Shape]) -> tuple[tuple[str, Shape], ...]:
    return tuple(sorted(leaves.items()))


def _outcome(variables: Mapping[str, Shape], arrays: Arrays, pairs: Mapping[str, list[str]]) -> Match:
    """Take the pairs of equal shapes, and list the rest."""
    values: Arrays = {}
    differing = []
    for path, keys in pairs.items():
        if not all(keys):
            continue
        shape = tuple(variables[path])
        value = _as_depthwise(arrays[keys[0]], shape) if len(keys) == 1 else _stacked([arrays[key] for key in keys])
        if value is not None and value.shape == shape:
            values[path] = value
        else:
            differing.append(Difference(path, shape, keys[0], arrays[keys[0]].shape))
    taken = {path: pairs[path] for path in values}
    used = set(_flat(taken.values()))
    missing = [path for path in variables if path not in values]
    return Match(values, taken, differing, missing, [name for name in arrays if name not in used])


def _as_depthwise(array: Any, shape: Shape) -> Any:
    """Return the kernel ``[H, W, 1, C]`` of a convolution with C groups as that of a depthwise one, ``[H, W, C, 1]``.

    Keras's ConvNeXt has the one, ours the other; they compute the same.
    """
    if array.ndim == len(shape) == 4 and array.shape[2] == shape[-1] == 1 and array.shape[3] == shape[2]:
        return array.swapaxes(2, 3)
    return array


def _stacked(rows: list[Any]) -> Any:
    return np.stack(rows) if len({row.shape for row in rows}) == 1 else None


def _flat(lists: Iterable[list[str]]) -> Iterator[str]:
    for names in lists:
        yield from names
