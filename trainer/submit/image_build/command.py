"""The sub-command ``build``, and what ``run --image=auto`` needs of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE
from trainer.submit.image_build import builder, settings
from trainer.submit.image_build.settings import BuildFlags

USAGE = """\
Build an image of this checkout and push it: docker, podman or buildah if one works here, else Cloud Build.

  python scripts/submit.py build --repository=REGISTRY/NAME [--dry_run]

The code is a small layer on an image of the packages. The tag is a hash of what the image holds, so nothing is built
if the registry has it. Prints each command on stderr, and the image on stdout."""


def main(argv: Sequence[str]) -> int:
    """Build and push what is not there; print the image."""
    plan = builder.plan(flags.parse_request(argv, BuildFlags, usage=USAGE))
    builder.ensure(plan)
    print(plan.code.reference)
    return EXIT_DONE


def plan_of_run(values: Mapping[str, Any]) -> tuple[dict[str, Any], builder.Plan | None]:
    """Return a run's flags with the image that ``auto`` stands for, and what to build; None without ``auto``.

    Raises:
        RequestError: if the flags do not say where images go.
    """
    if values.get("image") != settings.AUTO:
        return dict(values), None
    names = {field.name for field in dataclasses.fields(BuildFlags)} - {"dry_run"}
    plan = builder.plan(BuildFlags(**{name: value for name, value in values.items() if name in names}))
    return {**values, "image": plan.code.reference}, plan
