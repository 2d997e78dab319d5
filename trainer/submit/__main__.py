"""The command ``python -m trainer.submit``."""

from trainer.core import cli
from trainer.submit import command


def console() -> None:
    """Entry point of the command."""
    cli.console(command.main)


if __name__ == "__main__":
    console()
