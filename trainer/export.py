"""The command ``python -m trainer.export``: export a job's checkpoint again."""

from collections.abc import Sequence

from trainer.core import cli, progress, terminal
from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE
from trainer.serving import convert
from trainer.training.exports import export_job, hub
from trainer.training.exports.export_request import USAGE, ExportFlags


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, job or images are wrong.
        JobFailed: if the outputs of a form differ from the model's.
        StorageDown: if a storage or the Hub does not answer.
    """
    request = flags.parse_request(argv, ExportFlags, usage=USAGE, required=("job_dir", "out"))
    repository = hub.opened(request)
    comparison = export_job.run(request)
    progress.say(convert.to_text(comparison).rstrip("\n"))
    convert.refuse_others(comparison)
    if repository:
        repository.push(request, comparison["step"])
        print(terminal.visible(f"uploaded: {repository.url}"))
    print(f"exported: {terminal.link(request.out)}")
    return EXIT_DONE


def console() -> None:
    """Entry point of ``deepdetect-export``."""
    cli.console(main)


if __name__ == "__main__":
    console()
