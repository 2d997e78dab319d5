"""Named implementations that can be listed without importing them: the choices of a flag and the code behind each.

There are two forms.  In a ``FolderRegistry`` each module of a package is an entry, so adding a file adds a choice.  Its
facts are constants read from the source (as setuptools reads ``attr:``), because running it may load TensorFlow.  In a
``TableRegistry`` the entries are a dictionary that names its implementations as ``module:function``.
Both are read on demand, never at import.
Owns: how entries are found, ordered and loaded.  Does not own: which there are, what they do.  Imports no TensorFlow.
"""

import abc
import ast
import dataclasses
import functools
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import FileFinder
from pathlib import Path
from typing import Any, overload

# Entries that set no ORDER follow those that do, by name.
LAST = 1000
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One named implementation, as far as it is known without importing it.

    Attributes:
        help: what ``--help`` says about it; empty: its name says it all.
        order: its place among the choices.
        searched: whether a sweep without a space of its own tries it.
        facts: other constants of its module, by name.
    """

    help: str = ""
    order: int = LAST
    searched: bool = True
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Registry(Sequence[str], abc.ABC):
    """The names of all entries in their order; a sequence, so that it can be the choices of a setting."""

    @abc.abstractmethod
    def entries(self) -> dict[str, Entry]:
        """Return every entry by name, in order."""

    @property
    def searched(self) -> list[str]:
        """The names that a sweep without a space of its own tries."""
        return [name for name, entry in self.entries().items() if entry.searched]

    @property
    def help(self) -> str:
        """What ``--help`` says about the entries, a sentence for each; empty if none has any help."""
        entries = self.entries()
        if not any(entry.help for entry in entries.values()):
            return ""
        return " ".join(f"{name}: {entry.help}" if entry.help else f"{name}." for name, entry in entries.items())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """Return one name, or several."""
        return list(self.entries())[index]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names; the entries are looked up once."""
        return iter(self.entries())

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self.entries())


class FolderRegistry(Registry):
    """The modules of a package; ``HELP``, ``ORDER`` and ``SEARCHED`` of a module describe its entry."""

    def __init__(self, package: str) -> None:
        """Set where the modules are.

        Args:
            package: dotted name; its ``__init__`` must be free of costly imports.
        """
        self.package = package

    def entries(self) -> dict[str, Entry]:
        """Return an entry for each module on the package's path, by order and name."""
        entries = {name: _entry(path) for name, path in _modules(self.package)}
        return dict(sorted(entries.items(), key=lambda pair: (pair[1].order, pair[0])))

    def load(self, name: str) -> Any:
        """Import and return the module of an entry."""
        assert name in self, f"{name} is not in {self.package}"
        return importlib.import_module(f"{self.package}.{name}")


class TableRegistry(Registry):
    """A dictionary of entries in a module, in its own order."""

    def __init__(self, table: str) -> None:
        """Set where the dictionary is.

        Args:
            table: ``module:NAME`` of a ``dict[str, Entry]``; the module must be free of costly imports.
        """
        self.table = table

    def entries(self) -> dict[str, Entry]:
        """Return the dictionary."""
        entries: dict[str, Entry] = load(self.table)
        return entries


def is_dotted(name: str) -> bool:
    """Return whether a name has the form ``module:function``."""
    return bool(_DOTTED.fullmatch(name))


def load(dotted: str) -> Any:
    """Import a module and return one of its names.

    Args:
        dotted: ``module:name``.

    Raises:
        ImportError: if there is no such module, or it cannot be imported.
        AttributeError: if the module has no such name.
    """
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    """Yield name and file of each module on a package's path."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        assert isinstance(module.module_finder, FileFinder), "a package of files, not an archive"
        yield module.name, Path(module.module_finder.path, f"{module.name}.py")


@functools.cache
def _entry(path: Path) -> Entry:
    facts = _constants(path)
    return Entry(facts.get("HELP", ""), facts.get("ORDER", LAST), facts.get("SEARCHED", True), facts)


def _constants(path: Path) -> dict[str, Any]:
    """Return the module-level constants whose values are literals, without running the module."""
    constants = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            try:
                constants[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # Computed: not a fact that can be read without running the module.
                continue
    return constants
