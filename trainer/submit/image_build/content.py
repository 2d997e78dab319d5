"""The files that an image is made of, and tags that say what they hold.

Equal content gives an equal tag: neither times, nor owners, nor the order of files count, nor does any file that is
not shipped.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.core import installed
from trainer.core.errors import RequestError

_DIGITS = 16  # Of a tag: 64 bits.
RECIPE = "Dockerfile"
CODE_RECIPE = "Dockerfile.code"  # Of the code on a published base, made from the other one.
_CODE_STAGES = re.compile(r"FROM \S+ AS (build|code)\n|FROM \$\{BASE\}\n")
_COPY = "COPY --from=code"
_LINKED = "COPY --link --from=code"  # A layer that does not depend on those below, so that they need no download.
_CODE = ("trainer", "recipes")  # Folders, as .dockerignore lets them pass.
_PACKAGES = ("requirements/image*.txt", "scripts/trim_packages.sh")


class Source:
    """The files of a checkout that an image is made of."""

    def __init__(self, root: Path = installed.CHECKOUT) -> None:
        """List the files.

        Raises:
            RequestError: if this is no checkout.
        """
        self.root = root
        if not (root / RECIPE).is_file():
            raise RequestError(
                f"expected a checkout, which has a Dockerfile, received {root} of an installed package; clone the "
                "repository, or give --image=NAME:TAG"
            )
        self.packages = sorted([path for pattern in _PACKAGES for path in root.glob(pattern)])
        self.code = sorted(path for name in _CODE for path in _files(root / name))

    def base_tag(self) -> str:
        """Return the tag of the image of all packages."""
        return f"base-{self._hash(self.packages)}"

    def code_tag(self, base: str) -> str:
        """Return the tag of the image of the code on a base."""
        return f"code-{self._hash(self.code, base)}"

    def stage(self, folder: Path, *, links: bool = False) -> None:
        """Copy the files into an empty folder: nothing else reaches an engine.

        Args:
            folder: that is empty or absent.
            links: whether the engine can put the code on a base without downloading it.
        """
        for path in (self.root / RECIPE, *self.packages, *self.code):
            target = folder / path.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        recipe = code_recipe((self.root / RECIPE).read_text(encoding="utf-8"))
        recipe = recipe.replace(_COPY, _LINKED) if links else recipe
        (folder / CODE_RECIPE).write_text(recipe, encoding="utf-8")

    def _hash(self, files: Iterable[Path], *words: str) -> str:
        digest = hashlib.sha256()
        for path in (self.root / RECIPE, *files):
            content = path.read_bytes()
            name = path.relative_to(self.root).as_posix()
            is_executable = os.access(path, os.X_OK)
            digest.update(f"{len(name)} {name} {is_executable} {len(content)} ".encode() + content)
        for word in words:
            digest.update(f"{len(word)} {word} ".encode())
        return digest.hexdigest()[:_DIGITS]


def code_recipe(recipe: str) -> str:
    """Return the stages of a Dockerfile that put the code on a base; not every engine passes over the others."""
    head, *stages = re.split(r"^(?=FROM )", recipe, flags=re.MULTILINE)
    return "".join([head, *filter(_CODE_STAGES.match, stages)])


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and path.suffix != ".pyc" and not any(p.startswith(".") or p == "__pycache__" for p in parts):
            yield path
