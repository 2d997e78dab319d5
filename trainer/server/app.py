"""The routes of the server, as an ASGI application.

Owns: what each route answers, with which status.  Does not own: parsing of bodies (``bodies.py``, ``rest.py``), the
queue (``batcher.py``), the process (``run.py``).
"""

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from trainer.data.formats import rescue
from trainer.data.formats.image_format import Unreadable
from trainer.server import bodies, page, refusal, rest, scorer
from trainer.server.batcher import Batcher
from trainer.server.budget import Budget
from trainer.server.metrics import CONTENT_TYPE, Metrics
from trainer.server.refusal import Busy, Refusal
from trainer.server.request import ServeFlags
from trainer.server.scorer import Answer, Scorer

log = logging.getLogger(__name__)

_STUCK_SECONDS = 300.0  # One batch is bounded in pixels; this much means that the model hangs.
_RETRY_SECONDS = "1"  # A full queue of the default size is scored in about this time.
_TRUE = ("1", "true", "yes")

Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """The handlers of all routes around one model."""

    def __init__(self, flags: ServeFlags, model: Scorer, batcher: Batcher, metrics: Metrics) -> None:
        """Bind the parts."""
        self._flags, self._model, self._batcher, self._metrics = flags, model, batcher, metrics
        self._budget = Budget(flags.max_queue_bytes)
        self._version = model.export.path.rstrip("/").rsplit("/", 1)[-1]
        self._signatures = rest.signatures_of(model.export)
        # One at a time: a parsed body and a decoded picture are several times as large as what the budget counts.
        self._one = anyio.CapacityLimiter(1)
        self._drawing = anyio.CapacityLimiter(1)
        self._page, self._policy = page.render(
            flags.name, self._version, model.export, flags.max_body_bytes, model.no_heat_maps
        )
        metrics.gauge("deepdetect_queue_images", "Images that wait for the model.", lambda: batcher.waiting)
        metrics.gauge("deepdetect_queue_bytes", "Bytes of the bodies of all requests.", lambda: self._budget.used)

    def app(self) -> Starlette:
        """Return the application."""
        model = "/v1/models/{name}"
        version = model + "/versions/{version}"
        routes = [("/", "page", self.index, "GET"), ("/healthz", "healthz", self.healthz, "GET"),
                  ("/readyz", "readyz", self.readyz, "GET"), ("/metrics", "metrics", self.metrics, "GET"),
                  ("/predict", "predict", self.predict, "POST")]  # fmt: skip
        for prefix in (version, model):
            routes += [(f"{prefix}:predict", "rest", self.rest_predict, "POST"),
                       (f"{prefix}/metadata", "metadata", self.metadata, "GET"),
                       (prefix, "status", self.status, "GET")]  # fmt: skip
        return Starlette(
            routes=[Route(path, self._watched(name, handler), methods=[method])
                    for path, name, handler, method in routes],
            exception_handlers={HTTPException: self._no_route},
        )  # fmt: skip

    def _watched(self, route: str, handler: Handler) -> Handler:
        """Return a handler that counts its requests, and answers a refusal with its status and one line."""

        async def watched(request: Request) -> Response:
            start = time.monotonic()
            response = await self._answer(handler, request)
            self._metrics.request(route, response.status_code, time.monotonic() - start)
            return response

        return watched

    async def _answer(self, handler: Handler, request: Request) -> Response:
        try:
            return await handler(request)
        except Refusal as error:
            headers = {"Retry-After": _RETRY_SECONDS} if isinstance(error, Busy) else None
            return JSONResponse({"error": str(error)}, error.status, headers)
        except Exception:
            log.exception("a request failed")
            return JSONResponse({"error": "the server failed; its log says why"}, 500)

    async def _no_route(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self._metrics.request("other", error.status_code, 0.0)
        known = "expected a path and method that the server has, see python -m trainer.serve --help"
        return JSONResponse({"error": known}, error.status_code, error.headers)

    async def index(self, _: Request) -> Response:
        """Answer ``/``."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": self._policy})

    async def healthz(self, _: Request) -> Response:
        """Answer whether the process works: 503 means that it should be restarted."""
        is_stuck = not self._batcher.is_alive or self._batcher.busy_seconds > _STUCK_SECONDS
        return PlainTextResponse("the model hangs\n" if is_stuck else "ok\n", 503 if is_stuck else 200)

    async def readyz(self, request: Request) -> Response:
        """Answer whether the process takes requests: 503 means that others should get them for now."""
        if self._batcher.waiting >= self._flags.max_queue:
            return PlainTextResponse("the queue is full\n", 503)
        return await self.healthz(request)

    async def metrics(self, _: Request) -> Response:
        """Answer with the metrics."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def status(self, request: Request) -> Response:
        """Answer as TensorFlow Serving does, with the model's version."""
        self._require_model(request)
        return JSONResponse(rest.status(self._version))

    async def metadata(self, request: Request) -> Response:
        """Answer as TensorFlow Serving does, with the model's signatures."""
        self._require_model(request)
        return JSONResponse(rest.metadata(self._flags.name, self._version, self._signatures))

    async def rest_predict(self, request: Request) -> Response:
        """Answer as TensorFlow Serving does; one bad image fails the whole request."""
        self._require_model(request)
        with self._budget.share() as share:
            body = await bodies.read(request, self._flags.max_body_bytes, share)
            parsed = await anyio.to_thread.run_sync(rest.parse, body, self._signatures, limiter=self._one)
            del body
            answers = await self._score(parsed.kind, parsed.images)
        return JSONResponse(rest.answer(parsed, answers, self._model.export.positive))

    async def predict(self, request: Request) -> Response:
        """Answer a file with probability and label, and with a heat map if requested."""
        explain = request.query_params.get("explain", "").lower() in _TRUE
        with self._budget.share() as share:
            body = await bodies.read(request, self._flags.max_body_bytes, share)
            content = await bodies.file_of(request, body)
            del body
            kind = scorer.EXPLAINED if explain and not self._model.no_heat_maps else scorer.PLAIN
            (answer,) = await self._score(scorer.FACES if self._model.finds_faces else kind, [content])
            heat = await self._heat_map(content, answer) if explain else {}
        return JSONResponse({**self._row(answer), **heat})

    def _row(self, answer: Answer) -> dict[str, Any]:
        export = self._model.export
        probabilities = rest.numbers(answer.probabilities)
        threshold = export.threshold if len(export.class_names) == 2 else None
        return {
            "label": answer.label,
            "p_fake": probabilities[export.positive],
            "threshold": threshold,
            "probabilities": dict(zip(export.class_names, probabilities, strict=True)),
            **answer.face,
        }

    async def _heat_map(self, content: bytes, answer: Answer) -> dict[str, Any]:
        if answer.heat is None:
            return {"heatmap": None, "heatmap_error": self._model.no_heat_maps}
        png = await anyio.to_thread.run_sync(self._model.draw, content, answer.heat, limiter=self._drawing)
        return {"heatmap": f"data:image/png;base64,{base64.b64encode(png).decode()}"}

    async def _score(self, kind: str, images: Any) -> list[Answer]:
        """Return the answers to the images of a request.

        Raises:
            Refusal: if one of them is bad.
            Busy: if the queue is full.
        """
        pixels = await anyio.to_thread.run_sync(self._pixels, images, limiter=self._one)
        futures = self._batcher.submit(kind, images, pixels)
        answers: list[Answer] = await asyncio.gather(*map(asyncio.wrap_future, futures))
        for number, answer in enumerate(answers):
            if answer.error:
                raise _numbered(refusal.of_image(images[number], answer.error), number, len(images))
        return answers

    def _pixels(self, images: Any) -> list[int]:
        """Return how many pixels images have, by their headers; raises a Refusal for what will not be decoded."""
        sizes = []
        for number, image in enumerate(images):
            try:
                sizes.append(self._size(image))
            except Refusal as error:
                raise _numbered(error, number, len(images)) from error
        return sizes

    def _size(self, image: Any) -> int:
        if not isinstance(image, bytes):
            return int(image.shape[0] * image.shape[1])
        try:
            return rescue.claimed_pixels(image, self._model.export.max_image_pixels)
        except Unreadable as error:
            raise refusal.of_image(image, error) from error

    def _require_model(self, request: Request) -> None:
        names = request.path_params
        if names["name"] != self._flags.name or names.get("version", self._version) != self._version:
            raise Refusal(404, f"expected model {self._flags.name!r}, version {self._version}, received another one")


def _numbered(error: Refusal, number: int, count: int) -> Refusal:
    return error if count == 1 else Refusal(error.status, f"image {number}: {error}")
