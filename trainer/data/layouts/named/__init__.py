"""The choices of ``--layout``: one module each, with ``HELP``, ``recognises`` and ``read``."""
