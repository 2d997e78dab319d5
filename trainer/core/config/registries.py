"""Names of what this package may not import: looked up when a flag is checked or explained.  Imports no TensorFlow."""

from trainer.core.registry import FolderRegistry, TableRegistry

AUGMENTATIONS = FolderRegistry("trainer.data.augmentations")
LAYOUTS = FolderRegistry("trainer.data.layouts.named")
NETWORKS = FolderRegistry("trainer.models.networks")
OPTIMIZERS = TableRegistry("trainer.training.optimizers:OPTIMIZERS")

# Of one image; ordinary cameras have up to 60 million.  Decoding holds three bytes for each.
MAX_IMAGE_PIXELS = 100_000_000

# How an image becomes model input (``data/input_rule.py``), and how many crops of an image are averaged.
RESIZE, CROP, PAD = INPUTS = ("resize", "crop", "pad")
NEAREST, BILINEAR = INTERPOLATIONS = ("nearest", "bilinear")
TEST_VIEWS = (1, 5, 10)
