"""``{Train,Validation,Test}/<class>`` and nothing else, as older versions read it; see ``manifest.py``."""

HELP = "{Train,Validation,Test}/<class>/* only, as older versions read data."
ORDER = 1
