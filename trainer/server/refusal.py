"""Why a request gets no answer: an HTTP status and one line."""

from trainer.data.formats import image_format
from trainer.data.formats.image_format import Unreadable


class Refusal(Exception):
    """A request is refused; it becomes ``{"error": ...}`` with a status of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        """Store the status and the line."""
        super().__init__(" ".join(message.split()))
        self.status = status


class Busy(Refusal):
    """The server has as many requests as it may hold; another attempt can succeed."""

    def __init__(self, message: str) -> None:
        """Store the line; the status is 503, with Retry-After."""
        super().__init__(503, message)


def of_image(content: bytes, error: Unreadable | str) -> Refusal:
    """Return the refusal of an image that cannot be scored."""
    reason = str(error)
    if "--max_image_pixels" in reason:
        return Refusal(413, reason.split(";")[0].replace(" (--max_image_pixels)", "") + "; shrink the image")
    name = image_format.name(content)
    is_unknown = bool(content) and (name not in image_format.PILLOW or reason.startswith("HEIC needs"))
    return Refusal(415 if is_unknown else 400, reason)
