"""Kubernetes platforms: each folder of ``k8s/overlays/`` is one, and its ``kustomization.yaml`` says what it supports.

Owns: the names of platforms and their optional components.  Does not own: how overlays are built (``render.py``).
"""

import yaml

from trainer.core import installed

SOURCES = installed.folder("k8s")
DEFAULT = "gke-standard"
SLURM = "slurm"  # No overlay: ``submit/slurm/`` runs it.
SUPPORTS = "deepdetect/supports"  # Annotation of an overlay: the optional components that it can run, with commas.


def names() -> tuple[str, ...]:
    """Return the platforms: the default first, then those that support most, then by name."""
    overlays = SOURCES / "overlays"
    if not overlays.is_dir():  # Installed without a checkout; ``render.kustomize`` explains that.
        return (DEFAULT,)
    platforms = [path.parent.name for path in overlays.glob("*/kustomization.yaml")]
    return tuple(sorted(platforms, key=lambda name: (name != DEFAULT, -len(supported_by(name)), name)))


def supported_by(platform: str) -> frozenset[str]:
    """Return the optional components that a platform supports, of ``spot`` and ``gcsfuse``."""
    path = SOURCES / "overlays" / platform / "kustomization.yaml"
    metadata = yaml.safe_load(path.read_text(encoding="utf-8")).get("metadata", {})
    listed = metadata.get("annotations", {}).get(SUPPORTS, "")
    return frozenset(name.strip() for name in listed.split(",") if name.strip())


def supporting(component: str) -> list[str]:
    """Return the platforms that support an optional component."""
    return [name for name in names() if component in supported_by(name)]
