"""Where images go: flags, or else a small file of the user's."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import yaml

from trainer.core.config import setting
from trainer.core.errors import RequestError

AUTO = "auto"  # --image=auto
ENGINES = ("docker", "podman", "buildah", "cloud-build")
_NAME = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+")


@dataclasses.dataclass(frozen=True)
class BuildFlags:
    """Settings of build."""

    repository: str = setting(
        "", "Where images go: REGISTRY/NAME without a tag; empty: repository: in ~/.config/deepdetect/submit.yaml."
    )
    base: str = setting(
        "",
        "Published image of the packages, with a tag or digest, on which the code is put; empty: base: in that file, "
        "else one in --repository, which is built if it is not there.",
    )
    engine: str = setting("auto", "What builds; auto: the first that works, in this order.", choices=("auto", *ENGINES))
    dry_run: bool = setting(False, "Print the commands and run none of them.")


def complete(own: BuildFlags) -> BuildFlags:
    """Return the flags with what only the file says.

    Raises:
        RequestError: if nothing says where images go, or it is no repository.
    """
    kept = _read()
    own = dataclasses.replace(
        own, repository=own.repository or str(kept.get("repository", "")), base=own.base or str(kept.get("base", ""))
    )
    if not _NAME.fullmatch(own.repository):
        raise RequestError(
            f"--repository: expected REGISTRY/NAME without a tag, such as "
            f"us-central1-docker.pkg.dev/PROJECT/images/deepdetect, received {own.repository or 'none'}; give it, or "
            f"write repository: REGISTRY/NAME into {path()}"
        )
    if own.base and not re.fullmatch(r"\S+(@sha256:[0-9a-f]{64}|:(?!latest$)[A-Za-z0-9_][A-Za-z0-9_.-]*)", own.base):
        raise RequestError(f"--base: expected NAME:TAG (not latest) or NAME@sha256:<64 digits>, received {own.base!r}")
    return own


def path() -> Path:
    """Return the file of the user's."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(home) / "deepdetect" / "submit.yaml"


def _read() -> dict[str, Any]:
    try:
        values = yaml.safe_load(path().read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        raise RequestError(f"expected a YAML file, received {path()}: {' '.join(str(error).split())}") from error
    unknown = set(values) - {"repository", "base"} if isinstance(values, dict) else {"no mapping"}
    if unknown:
        raise RequestError(
            f"{path()}: expected repository: and base:, received {', '.join(sorted(map(str, unknown)))}; remove it"
        )
    return dict(values)
