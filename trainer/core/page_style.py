"""The style sheet that all pages share: palette, light and dark, and the frame.  Imports no TensorFlow.

Does not own: what only reports (``reports/templates/page.html``) or only the server's page (``server/page.html``) have.
"""

import functools
import importlib.resources


@functools.cache
def base() -> str:
    """Return the rules, to stand before those of the page itself."""
    return importlib.resources.files("trainer.core").joinpath("static", "page.css").read_text(encoding="utf-8")
