"""Parts of HTML reports: each is one self-contained file, light and dark, usable on a phone and by keyboard.

Owns: pictures and drawings inside a page.  Does not own: the words of a page (``training.py``, ``evaluation.py``,
``audit.py``), layout and style (``templates/``).
"""

import base64
import dataclasses
import functools
import io
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe
from PIL import Image

from trainer.core import page_style, terminal
from trainer.data.pixels import Pixels
from trainer.reports import plots


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of a gallery: a data URI, the path relative to data_dir, and a caption.

    ``heat`` is the data URI of the image with its heat map, and ``heat_says`` what the map explains; both are empty
    without a map.  ``item`` is its number in the page's ``gallery_items``; -1: it is not among them.  ``file`` is the
    address of its file; empty: a browser cannot open it.
    """

    uri: str
    path: str
    caption: str
    heat: str = ""
    heat_says: str = ""
    item: int = -1
    file: str = ""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of a page and its caption."""

    svg: markupsafe.Markup
    caption: str


def picture(image: Pixels | Image.Image, path: str, caption: str) -> Picture:
    """Return a gallery image of pixels ``[H, W, 3]``."""
    return Picture(jpeg_uri(image), path, caption)


def jpeg_uri(image: Pixels | Image.Image) -> str:
    """Return pixels ``[H, W, 3]`` as a JPEG's data URI."""
    buffer = io.BytesIO()
    pillow = image if isinstance(image, Image.Image) else Image.fromarray(image)
    pillow.save(buffer, format="JPEG", quality=88)
    return data_uri(buffer.getvalue(), "image/jpeg")


def data_uri(content: bytes, mime: str) -> str:
    """Return content as a data URI, so that a page needs no second file."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def draw(figure: Any, alt: str, caption: str) -> Drawing:
    """Return a matplotlib figure as part of a page; ``alt`` describes it."""
    return Drawing(markupsafe.Markup(plots.svg(figure, alt)), caption)


def number(value: float | None, share: bool) -> str:
    """Return a value as text: a share as a percentage, None as undefined."""
    if value is None:
        return "undefined"
    return f"{value:.1%}" if share else f"{value:.3f}"


def span(interval: Sequence[float], share: bool) -> str:
    """Return an interval as text."""
    return " to ".join(number(value, share) for value in interval)


@functools.cache
def templates() -> jinja2.Environment:
    """Return the environment of all templates."""
    loader = jinja2.PackageLoader("trainer.reports", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, finalize=_without_controls
    )
    environment.globals["base_style"] = markupsafe.Markup(page_style.base())
    return environment


def _without_controls(value: Any) -> Any:
    """Return text without characters that would reorder or hide a part of a line; autoescape does the rest."""
    return terminal.visible(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value
