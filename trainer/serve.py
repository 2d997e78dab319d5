"""The command ``python -m trainer.serve``: answer HTTP requests with an exported model."""

from collections.abc import Sequence

from trainer.core import cli
from trainer.core.errors import EXIT_DONE
from trainer.server import request as request_lib


def main(argv: Sequence[str]) -> int:
    """Serve until a signal arrives, finish the requests that are there, and return the exit code.

    Raises:
        RequestError: if flags or the model are wrong.
        StoppedEarly: if the port is taken, or a storage does not answer.
    """
    request = request_lib.parse(argv)
    from trainer.server import run  # Late: the web framework.

    try:
        run.serve(request)
    except KeyboardInterrupt:  # While the model was loading: there is nothing to finish.
        return EXIT_DONE
    return EXIT_DONE


def console() -> None:
    """Entry point of ``deepdetect-serve``."""
    cli.console(main)


if __name__ == "__main__":
    console()
