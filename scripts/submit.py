"""Shim for ``python -m trainer.submit``."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from trainer.submit.__main__ import console

if __name__ == "__main__":
    console()
