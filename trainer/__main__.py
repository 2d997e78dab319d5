"""The command ``deepdetect``, also as ``python -m trainer``: all commands under one name."""

from trainer.commands import dispatch
from trainer.core import cli


def console() -> None:
    """Entry point of ``deepdetect``."""
    cli.console(dispatch.main)


if __name__ == "__main__":
    console()
