"""deepdetect: train, evaluate and use a deepfake detector from a folder or bucket of Real and Fake images."""

from trainer.core import early_signals

__version__ = "0.1.0"

early_signals.install()
