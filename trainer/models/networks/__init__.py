"""The networks: each module is a choice of ``--model`` (docs/architecture.md).

A module describes itself by the constants ``HELP``, ``ORDER``, ``SEARCHED``, ``MINIMUM_IMAGE_SIZE`` and ``INPUT_RANGE``
and defines ``build(inputs, config, kernel) -> features``.  This package is listed before TensorFlow is loaded, so it
imports nothing here.
"""
