"""The command ``python -m trainer.submit``."""

import sys

from trainer.core import cli
from trainer.submit import command


def console() -> None:
    """Entry point of the command."""
    sys.exit(cli.run_command(command.main))


if __name__ == "__main__":
    console()
