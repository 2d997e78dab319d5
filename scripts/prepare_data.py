"""Prepare a data set: look at it, then pack it.

  python scripts/prepare_data.py audit --data_dir=D --out=O
  python scripts/prepare_data.py pack  --data_dir=D --out=O

``python scripts/prepare_data.py COMMAND --help`` explains a command.
"""

import importlib
import os
import sys
from collections.abc import Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from trainer.core import cli, errors
from trainer.core.config import flags

COMMANDS = {
    "audit": "trainer.prepare_data_audit",
    "pack": "trainer.prepare_data_pack",
}  # Name, and the module whose ``main(argv)`` runs it.


def main(argv: Sequence[str]) -> int:
    """Run the command that the first word names.

    Raises:
        RequestError: if there is no such command, or the request to it is wrong.
    """
    name, words = (argv[0], argv[1:]) if argv else ("", [])
    if name in ("--help", "-h", "-help"):
        raise flags.HelpRequested(__doc__)
    if name not in COMMANDS:
        raise errors.RequestError(
            f"expected one of the commands {', '.join(COMMANDS)}, received {name or 'none'}; see --help"
        )
    return int(importlib.import_module(COMMANDS[name]).main(words))


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
