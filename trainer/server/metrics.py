"""What the server counts and times, in the text format of Prometheus."""

from collections.abc import Callable

import prometheus_client as prometheus
from prometheus_client import CollectorRegistry

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        """Start at zero."""
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # They would double the text, and nobody reads them.
        self._registry = registry = CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        self._requests = prometheus.Counter(
            "deepdetect_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self._seconds = prometheus.Histogram(
            "deepdetect_request_seconds", "Time from a request's first byte to its answer.", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._batch_images = prometheus.Histogram(
            "deepdetect_batch_images", "Images scored at a time.", buckets=_IMAGES, registry=registry
        )
        self._batch_seconds = prometheus.Histogram(
            "deepdetect_batch_seconds", "Time of the model for a batch, decoding included.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a number that is read whenever the metrics are."""
        prometheus.Gauge(name, meaning, registry=self._registry).set_function(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_images.observe(images)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics."""
        return prometheus.generate_latest(self._registry)
