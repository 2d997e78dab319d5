"""Weights of other models: read files of Keras and torch without running code in them, and match them by name."""
