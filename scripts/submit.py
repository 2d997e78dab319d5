"""Run training jobs on the GPUs of a Kubernetes cluster; ``--help`` lists the commands."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from trainer import entry
from trainer.submit import command

if __name__ == "__main__":
    sys.exit(entry.run_command(command.main))
