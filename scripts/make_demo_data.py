"""Shim for ``deepdetect demo draw``."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from trainer.commands.demo import make_data

if __name__ == "__main__":
    sys.exit(make_data.main())
