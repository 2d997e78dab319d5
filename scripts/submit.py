"""Run training jobs on the GPUs of a Kubernetes cluster; ``--help`` lists the commands."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from trainer.core import cli
from trainer.submit import command

if __name__ == "__main__":
    sys.exit(cli.run_command(command.main))
