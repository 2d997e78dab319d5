"""The layout that data_dir looks like; see ``resolve.py``."""

HELP = "the one that it looks like."
ORDER = 0
