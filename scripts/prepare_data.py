"""Shim for ``python -m trainer.prepare_data``."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from trainer import prepare_data
from trainer.core import cli

if __name__ == "__main__":
    cli.console(prepare_data.main)
