"""Errors, the command line, settings and storage: what every other package uses.  Imports no TensorFlow."""
