"""Upload an export to the Hugging Face Hub, with its model card as the README, in one commit.

The Hub's own client uploads; ``HF_TOKEN`` and ``HF_ENDPOINT`` are its.
Does not own: the card's metadata (``reports/hub_card.py``), what an export is (``export_job.py``).
"""

import dataclasses
import importlib.util
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trainer.core import environment, progress
from trainer.core.errors import RequestError, StoppedEarly, StorageDown
from trainer.core.storage import client_errors, files
from trainer.core.storage.transient import RETRY_SECONDS, is_transient
from trainer.training.exports.export_request import ExportFlags, parse_formats

log = logging.getLogger(__name__)

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0  # Seconds, as of files.
_REFUSALS = (400, 401, 402, 403, 404, 413, 422)  # Statuses that would come again.
_REMEDIES = {
    401: "set HF_TOKEN to a token that is valid, of https://huggingface.co/settings/tokens",
    403: "give the token the right to write to this repository, or name one of your own",
    404: "name a repository of your own, or of an organization that you belong to",
}


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository on the Hub that an export goes to; ``opened`` makes it."""

    name: str
    client: Any

    @property
    def url(self) -> str:
        """Where people see it."""
        return f"{self.client.endpoint}/{self.name}"

    def push(self, request: ExportFlags, step: int) -> None:
        """Upload what an export wrote.

        Args:
            request: of the export, which is finished.
            step: that was exported.

        Raises:
            RequestError: if the Hub refuses; a retry cannot help.
            StorageDown: if it does not answer despite retries.
        """
        from huggingface_hub import CommitOperationAdd

        with files.local_copy(request.out) as folder, progress.phase(f"uploading to {self.url}"):
            names = _names(folder, request, step)
            contents: dict[str, str | bytes] = {name: os.path.join(folder, name) for name in names}
            if card := _card(folder, request):
                contents["README.md"] = card.encode()
            message = f"Add the export of step {step}"

            def commit() -> None:
                additions = [CommitOperationAdd(name, content) for name, content in contents.items()]
                self.client.create_commit(self.name, additions, commit_message=message)

            self._call(commit)

    def create(self, *, private: bool) -> None:
        """Make the repository, unless it exists; raises as ``push``."""
        self._call(lambda: self.client.create_repo(self.name, private=private, exist_ok=True))

    def _call(self, action: Callable[[], T]) -> T:
        """Run an action until it succeeds, time is up, or a retry cannot help."""
        seconds = environment.seconds("DEEPDETECT_FILE_RETRY_SECONDS", RETRY_SECONDS)
        end, longest = time.monotonic() + seconds, _FIRST_DELAY
        while True:
            try:
                return action()
            except StoppedEarly:
                raise
            except Exception as error:
                if client_errors.status_of(error) in _REFUSALS:
                    raise self._refusal(error) from error
                if not is_transient(client_errors.translated(error, self.url)):
                    raise
                delay = random.uniform(longest / 2, longest)
                if time.monotonic() + delay > end:
                    raise StorageDown(
                        f"{self.url} did not answer for {seconds:.0f} s ({client_errors.reason(error)}); rerun the "
                        "same command later"
                    ) from error
                log.warning("%s did not answer (%s); trying again", self.url, client_errors.reason(error))
            time.sleep(delay)
            longest = min(2 * longest, _LONGEST_DELAY)

    def _refusal(self, error: Exception) -> RequestError:
        status = client_errors.status_of(error)
        remedy = _REMEDIES.get(status or 0, "correct what it names")
        return RequestError(
            f"--push_to_hub: expected a repository that takes the export, received a refusal of {self.url} "
            f"({client_errors.reason(error)}); {remedy}"
        )


def opened(request: ExportFlags) -> Repository | None:
    """Return the repository that a request names, which then exists; None if it names none.

    Before the export, so that a missing token or right is noticed within a second.

    Raises:
        RequestError: if the name, the package, the token or a right is missing.
        StorageDown: if the Hub does not answer.
    """
    if not request.push_to_hub:
        return None
    if not _NAME.fullmatch(request.push_to_hub):
        raise RequestError(f"--push_to_hub: expected OWNER/NAME, received {request.push_to_hub!r}; correct it")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise RequestError(
            "--push_to_hub: expected the package huggingface_hub, received none; install it with: pip install -e "
            "'.[hub]'"
        )
    parse_formats(request.formats)
    import huggingface_hub

    token = huggingface_hub.get_token()
    if not token:
        raise RequestError(
            "--push_to_hub: expected a token of the Hugging Face Hub, received none; set HF_TOKEN, or run: hf auth "
            "login"
        )
    huggingface_hub.utils.disable_progress_bars()  # One of ours is shown.
    client = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    repository = Repository(request.push_to_hub, client)
    repository.create(private=request.hub_private)
    return repository


def _names(folder: str, request: ExportFlags, step: int) -> Sequence[str]:
    """Return the files of an export, relative to its folder, in which others may lie, too."""
    forms = parse_formats(request.formats)
    names = ["deepdetect.json", "comparison.json", *(f"model.{form}" for form in forms if form != "savedmodel")]
    if "savedmodel" in forms:
        version = f"savedmodel/{step}"
        names += sorted(f"{version}/{name}" for name in files.list_below(os.path.join(folder, version), hidden=True))
    return names


def _card(folder: str, request: ExportFlags) -> str:
    """Return the README; empty if the export has no card."""
    from trainer.reports import hub_card  # Late: its libraries are slow to import.

    path = os.path.join(folder, "model_card.md")
    if not os.path.exists(path):
        return ""
    metadata = json.loads(files.read_text(os.path.join(folder, "deepdetect.json")))
    return hub_card.for_upload(files.read_text(path), metadata, parse_formats(request.formats), request.hub_license)
