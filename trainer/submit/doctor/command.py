"""The sub-command ``doctor``: checks in order, each line as soon as it is known."""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence

from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, EXIT_FAILED, RequestError
from trainer.submit.doctor import findings, inside, outside
from trainer.submit.doctor.findings import MISSING, Finding
from trainer.submit.doctor.flags import USAGE, DoctorFlags, to_request
from trainer.submit.image_build import command as image_build


def main(argv: Sequence[str]) -> int:
    """Print a line for each check, and how many things are missing; returns the exit code."""
    own = flags.parse_request(argv, DoctorFlags, usage=USAGE)
    if own.pods and not own.image:
        raise RequestError("expected --image with --pods, received none; give the image of your runs")
    image = image_build.plan_of_run(dataclasses.asdict(own))[0]["image"]  # Built by run; the pods say if it is absent.
    own = dataclasses.replace(own, image=image)
    columns = shutil.get_terminal_size().columns
    seen = []
    for finding in _check(own):
        print(findings.show([finding], columns), flush=True)
        seen.append(finding)
    print(findings.summary(seen))
    return EXIT_FAILED if any(each.state == MISSING for each in seen) else EXIT_DONE


def _check(own: DoctorFlags) -> Iterator[Finding]:
    checked = to_request(own)
    objects = outside.objects_of(own, checked)
    states = []
    for finding in outside.check(own, objects):
        states.append((finding.subject, finding.state))
        yield finding
    if own.pods:
        yield from inside.findings(own, objects, states)
