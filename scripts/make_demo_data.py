"""Shim for ``deepdetect demo draw``."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from trainer.commands.demo import make_data
from trainer.core import cli

if __name__ == "__main__":
    cli.console(make_data.main)
