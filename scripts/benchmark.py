"""Measure the parts of a training step side by side in one run, and print ratios.

  python scripts/benchmark.py augment     the notebook's augmentation: Keras's generator, TensorFlow's op, ours
  python scripts/benchmark.py input       from files to batches: the notebook's way, Keras's, ours, libjpeg-turbo alone;
                                          --threads=1,2,4: how ours scales, and how long the interpreter's lock is held
  python scripts/benchmark.py step        a train step of the notebook's CNN: Keras's, ours
  python scripts/benchmark.py checkpoint  what the loop waits for a checkpoint, against a synchronous save and a step
  python scripts/benchmark.py resume      a start of the job, at step 0, 10 and 900,000
  python scripts/benchmark.py start       a start of the job up to its first step, against a bare script's
  python scripts/benchmark.py notebook    what the notebook's own job and ours learn from the same images
  python scripts/benchmark.py recipes     what each recipe learns, and what it costs
  python scripts/benchmark.py gpu         our step and job beside Keras, PyTorch and the machine's limits; on a CPU, too
  python scripts/benchmark.py job         of these the whole jobs alone
  python scripts/benchmark.py roofline    what each layer of the notebook's network costs at least

Shared machines are noisy: every way is timed in turn, round after round, and the best round counts.  Trust the
ratios within one run; do not compare figures of two runs.
"""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer.core import quiet_start

quiet_start.install()  # TensorFlow's import, which --help does without, says nothing that is not known.

PARTS = ("augment", "input", "step", "checkpoint", "resume", "start")
TRAININGS = {
    "notebook": "benchmark_notebook", "recipes": "benchmark_recipes", "roofline": "benchmark_roofline",
    "gpu": "benchmark_gpu", "job": "benchmark_gpu:job",
}  # fmt: skip


def main() -> None:
    """Run the named benchmark."""
    if sys.argv[1:2] and sys.argv[1] in TRAININGS:  # Commands with flags of their own.
        module, _, function = TRAININGS[sys.argv[1]].partition(":")
        sys.exit(getattr(importlib.import_module(module), function or "main")(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*PARTS, *TRAININGS])
    parser.add_argument("--image_size", type=int, default=224, help="pixels (default 224)")
    parser.add_argument("--batch_size", type=int, default=32, help="images (default 32)")
    parser.add_argument("--images", type=int, default=1024, help="of the input's set (default 1024)")
    parser.add_argument("--threads", help="of the input: numbers such as 1,2,4; measures ours with each instead")
    parser.add_argument("--precision", default="float32", help="of the step (default float32)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the best of each way counts (default 7)")
    arguments = parser.parse_args()
    importlib.import_module("benchmark_parts").run(arguments)


if __name__ == "__main__":
    main()
