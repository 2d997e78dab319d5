"""The augmentations of training images: each module is a choice of ``--augment`` (docs/architecture.md).

A module describes itself by the constants ``HELP``, ``ORDER`` and ``SEARCHED`` and defines functions named as the
fields of ``augment.Augmentation``.  The package is listed before TensorFlow is loaded, so it imports nothing here.
"""
