"""A message as a POST of JSON."""

import json
import urllib.error
import urllib.request
from typing import Any

_SECONDS = 5.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET without a body, which would look as if the message had arrived."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post(url: str, message: dict[str, Any]) -> str:
    """Send a message; return why the server refuses it for good, or nothing.

    Raises:
        OSError: if a second try may help; its message can hold the URL.
    """
    body = json.dumps(message, allow_nan=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "deepdetect"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code in (408, 429):
            raise OSError(f"status {error.code}") from None
        return f"status {error.code}"
