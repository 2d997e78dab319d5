"""The one command ``deepdetect``: its commands, their short help, completion.  Imports no TensorFlow."""
