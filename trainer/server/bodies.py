"""Read the body of a request within the limits, and find the file in it."""

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from trainer.server.budget import Share
from trainer.server.refusal import Refusal

_SECONDS = 60.0  # For a whole body: a client that sends less than this must not hold memory for ever.


async def read(request: Request, limit: int, share: Share) -> bytes:
    """Return the body.

    Args:
        request: of which nothing was read yet.
        limit: largest number of bytes.
        share: of the memory of all requests; grows with the body.

    Raises:
        Refusal: if it is too large, encoded, or too slow; also if the client has gone.
        Busy: if there is no memory for it.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "expected a body without Content-Encoding; send the file as it is")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                share.add(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        raise Refusal(408, f"expected the whole body within {_SECONDS:.0f} seconds; send it faster") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the client has gone") from error
    return b"".join(chunks)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"expected a body of at most {limit} bytes (--max_body_bytes); send a smaller file")


class _InMemory(MultiPartParser):
    """Keeps files in memory: the body is there already, and within the limits."""

    spool_max_size = 2**62


async def file_of(request: Request, body: bytes) -> bytes:
    """Return the one file of multipart/form-data, or the body itself.

    Raises:
        Refusal: if there is not exactly one file.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return body

    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await _InMemory(request.headers, stream(), max_files=1, max_fields=8).parse()  # type: ignore[arg-type]
    except MultiPartException as error:
        raise Refusal(400, f"expected multipart/form-data with one file, received: {error.message}") from error
    uploads = [value for value in form.values() if isinstance(value, UploadFile)]
    if len(uploads) != 1:
        raise Refusal(400, "expected one file in multipart/form-data, received none; name it: -F file=@photo.jpg")
    try:
        return await uploads[0].read()
    finally:
        await form.close()
