"""Folders of splits and classes under any usual name."""

HELP = "folders of splits, with folders of classes, or folders of classes alone, under any usual name."
ORDER = 2
