"""The checks of a run on Kubernetes, whose machines reach buckets and mounted volumes, but nothing of this one."""

import re
from collections.abc import Sequence

from trainer.core import storage
from trainer.core.config import Config
from trainer.core.errors import RequestError
from trainer.models.weights import published
from trainer.submit import platforms, request, volumes
from trainer.submit.request import SLURM_ONLY, Request, RunFlags

_REPOSITORY = r"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"{_REPOSITORY}(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?P<digest>@sha256:[0-9a-f]{{64}})?"
)


def build(run: RunFlags, trainer_words: Sequence[str]) -> Request:
    """Return the checked request.

    Args:
        run: its own settings.
        trainer_words: the trainer's command line, without data_dir and job_dir.

    Raises:
        HelpRequested: if ``--help`` is among the trainer's words.
        RequestError: for the first setting that cannot work.
    """
    request.require_given(run, ("name", "image", "data_dir", "job_dir"))
    _check_name(run)
    _check_image(run)
    mounted = volumes.parse(run.volume)
    for name in ("data_dir", "job_dir"):
        _check_place(name, getattr(run, name), mounted)
    _check_components(run)
    checked = request.complete(run, trainer_words)
    _check_pods(run, checked.config)
    return checked


def _check_name(run: RunFlags) -> None:
    request.check_name(run.name, request.LONGEST_SWEEP_NAME if run.sweep_workers else request.LONGEST_NAME)
    for flag in ("namespace", "queue", "priority", "zone"):
        value = getattr(run, flag)
        if value and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", value):
            raise RequestError(f"--{flag}: expected small letters, digits and -, received {value!r}")


def _check_image(run: RunFlags) -> None:
    match = _IMAGE.fullmatch(run.image)
    if not match or not (match["tag"] or match["digest"]):
        raise RequestError(
            f"--image: expected NAME:TAG or NAME@sha256:<64 digits>, received {run.image!r}; without either, a restart "
            "may run another image"
        )
    if match["tag"] == "latest" and not match["digest"] and not run.allow_latest:
        raise RequestError(
            f"--image: expected a tag that does not move, received {run.image!r}; use another tag or a digest, or "
            "--allow_latest"
        )


def _check_place(flag: str, path: str, mounted: Sequence[volumes.Volume]) -> None:
    if (storage.is_shared(path) or any(volume.holds(path) for volume in mounted)) and not re.search(r"\s", path):
        return
    advice = (
        "a bucket's name has 3 to 222 small letters, digits, -, _ and ., and a path no spaces"
        if path.startswith("gs://")
        else "copy local files with: gcloud storage cp -r, or mount their storage with --volume"
    )
    raise RequestError(
        f"--{flag}: expected gs://BUCKET/PATH, which every machine of the cluster can reach, received {path!r}; "
        f"{advice}"
    )


def _check_components(run: RunFlags) -> None:
    if run.topology and not re.fullmatch(r"([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9._-]*", run.topology):
        raise RequestError(f"--topology: expected a label of nodes, received {run.topology!r}")
    if run.topology and run.workers == 1:
        raise RequestError(f"expected --workers=2 or more with --topology, received {run.workers}; leave it out")
    if run.gcsfuse and not run.data_dir.startswith("gs://"):
        raise RequestError(f"expected a --data_dir on gs:// with --gcsfuse, received {run.data_dir!r}; leave it out")
    for flag in ("spot", "gcsfuse"):
        if getattr(run, flag) and flag not in platforms.supported_by(run.platform):
            raise RequestError(
                f"expected --{flag} on a platform that supports it ({', '.join(platforms.supporting(flag))}), received "
                f"--platform={run.platform}; leave --{flag} out"
            )
    for flag in SLURM_ONLY:
        if getattr(run, flag):
            raise RequestError(f"expected --{flag} with --platform=slurm alone, received --platform={run.platform}")


def _check_pods(run: RunFlags, config: Config) -> None:
    """Refuse trainer settings that cannot work in a pod, or that nobody else should read."""
    if "//" in config.runtime.notify:
        raise RequestError(
            "--notify: expected it before --, or a Secret's DEEPDETECT_NOTIFY (--env_from_secret=SECRET:"
            "DEEPDETECT_NOTIFY), received a URL after --, where everybody who may read the run could read it"
        )
    mounted = volumes.parse(run.volume)
    _check_weights(config.model.weights, mounted)
    cache = config.data.cache
    if cache not in ("none", "memory") and not cache.startswith("/tmp/") and not any(v.holds(cache) for v in mounted):
        raise RequestError(
            f"--cache: expected none, memory or a folder below /tmp, which a pod can write, received {cache!r}"
        )


def _check_weights(weights: str, mounted: Sequence[volumes.Volume]) -> None:
    """Refuse weights that lie on this machine."""
    if weights == published.NONE or weights.startswith(published.PACKAGE) or storage.is_shared(weights):
        return
    if any(volume.holds(weights) for volume in mounted):
        return
    raise RequestError(
        f"--weights: expected gs://BUCKET/PATH or {published.PACKAGE}NAME, which every machine of the cluster can "
        f"reach, received {weights!r}; copy local files with: gcloud storage cp -r"
    )
