"""Build what the registry does not have: the base of all packages once, then a small layer of code."""

import contextlib
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from trainer.core.errors import JobFailed
from trainer.submit.image_build import engines, settings
from trainer.submit.image_build.content import Source
from trainer.submit.image_build.engines import Engine, Image
from trainer.submit.image_build.settings import BuildFlags

_TO_STDERR = 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """Images by content: what the code of this checkout needs.

    Attributes:
        own: complete flags.
        source: the files.
        base: image of the packages.
        code: image of the code on it.
    """

    own: BuildFlags
    source: Source
    base: Image
    code: Image


def plan(own: BuildFlags) -> Plan:
    """Return the images of this checkout; asks no engine and no registry.

    Raises:
        RequestError: if the flags do not say where images go.
    """
    own = settings.complete(own)
    source = Source()
    base = own.base or f"{own.repository}:{source.base_tag()}"
    return Plan(own, source, Image(base, target="base"),
                Image(f"{own.repository}:{source.code_tag(base)}", base=base))  # fmt: skip


def ensure(wanted: Plan) -> None:
    """Build and push what the registry lacks, and print each command first.

    Raises:
        RequestError: if no engine is installed.
        JobFailed: if a command fails.
    """
    registry = wanted.own.repository.partition("/")[0]
    engine, notes = engines.find(wanted.own.engine, registry)
    for note in notes:
        _say(f"# not used: {note}")
    if _has(engine, wanted.code):
        _say("# the registry has it: nothing to build")
        return
    images = [wanted.code]
    if not wanted.own.base and not _has(engine, wanted.base):
        _say("# the packages changed, or are not there yet: this builds some 7 GB once, which later builds reuse")
        images.insert(0, wanted.base)
    with _staged(wanted, engine) as folder:
        for image in images:
            for words in engine.commands(image, folder):
                _execute(words, engine, registry, dry_run=wanted.own.dry_run)


def _has(engine: Engine, image: Image) -> bool:
    _say(shlex.join(engine.inspection(image.reference)))
    return engine.has(image.reference)


def _execute(words: list[str], engine: Engine, registry: str, *, dry_run: bool) -> None:
    _say(shlex.join(words))
    if dry_run:
        return
    if subprocess.run(words, check=False, stdout=_TO_STDERR).returncode:
        remedy = f"If the registry denied access: {engine.login(registry)}"
        raise JobFailed(f"{' '.join(words[:3])} failed; its message is above. {remedy}")


@contextlib.contextmanager
def _staged(wanted: Plan, engine: Engine) -> Iterator[Path]:
    """Yield a folder with the files of the image; after --dry_run it stays, so that the printed commands work."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(cache) / "deepdetect" / wanted.code.reference.rpartition(":")[2]
    shutil.rmtree(folder, ignore_errors=True)
    wanted.source.stage(folder, links=engine.links)
    try:
        yield folder
    finally:
        if not wanted.own.dry_run:
            shutil.rmtree(folder, ignore_errors=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
