"""Names of what this package may not import: looked up when a flag is checked or explained.  Imports no TensorFlow."""

from trainer.core.registry import FolderRegistry, TableRegistry

AUGMENTATIONS = FolderRegistry("trainer.data.augmentations")
NETWORKS = FolderRegistry("trainer.models.networks")
OPTIMIZERS = TableRegistry("trainer.training.optimizers:OPTIMIZERS")

# Of one image; ordinary cameras have up to 60 million.  Decoding holds three bytes for each.
MAX_IMAGE_PIXELS = 100_000_000
