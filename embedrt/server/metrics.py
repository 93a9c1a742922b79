"""Metrics for Prometheus.

Labels have few values: the names of loaded models, the paths of endpoints, statuses, lanes and kinds of failures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from embedrt._version import __version__
from embedrt.run.queue import LANES, BatchRecord, Queue
from embedrt.server.models import Models
from embedrt.server.observers import GONE, Ended
from embedrt.server.tei_metrics import TeiMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_MS = (1, 2, 3, 5, 7.5, 10, 15, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)
_SECONDS = tuple(ms / 1000 for ms in _MS)
_AGES = (0.0001, 0.0005, *_SECONDS)
_TEXTS = tuple(2.0**n for n in range(13))
_TOKENS = tuple(2.0**n for n in range(21))
_RATIOS = tuple(n / 10 for n in range(1, 11))


@dataclass(frozen=True)
class Connections:
    """The state of the connections at a moment.

    Attributes:
        open: Open connections.
        in_flight: Requests without a reply yet.
        ready: Whether the server takes requests.
        refused: Connections refused so far.
        timed_out: Connections that a deadline ended so far.
    """

    open: int = 0
    in_flight: int = 0
    ready: bool = True
    refused: int = 0
    timed_out: int = 0


@dataclass(frozen=True)
class _OfLane:
    """Metrics of batches with one pair of labels."""

    age: Histogram
    seconds: Histogram
    texts: Histogram
    tokens: Histogram
    fill: Histogram
    padding: Counter
    failed: Counter


class Metrics:
    """The registry of a server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each, with its first time
        self.registry = registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"embedrt_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"embedrt_{name}", about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"embedrt_{name}", about, labels, registry=registry, buckets=buckets)

        self._requests = counter("requests", "Requests by model, route and status", "model", "route", "status")
        self._seconds = histogram(
            "request_duration_seconds",
            "Seconds from the first byte of a request to its reply",
            _SECONDS,
            "model",
            "route",
        )
        self._errors = counter("errors", "Failed requests by kind", "model", "kind")
        self._texts = counter("texts", "Texts or pairs of answered requests", "model")
        self._tokens = counter("tokens", "Tokens of answered requests, after truncation", "model")
        self._truncated = counter("truncated_texts", "Truncated texts of answered requests", "model")
        self._request_texts = histogram("request_texts", "Texts or pairs in a request", _TEXTS, "model")
        self._request_tokens = histogram("request_tokens", "Tokens in a request", _TOKENS, "model")
        self._ages = histogram(
            "queue_age_seconds", "Seconds that a request waited for its first batch", _AGES, "model", "lane"
        )
        self._batches = histogram(
            "batch_duration_seconds", "Seconds of a batch in the engine", _SECONDS, "model", "lane"
        )
        self._batch_texts = histogram("batch_texts", "Texts or pairs in a batch", _TEXTS, "model", "lane")
        self._batch_tokens = histogram("batch_tokens", "Tokens in a batch, without padding", _TOKENS, "model", "lane")
        self._fill = histogram("batch_fill_ratio", "Tokens in a batch by its token budget", _RATIOS, "model", "lane")
        self._padding = counter("padding_tokens", "Padding tokens in batches", "model", "lane")
        self._failed_batches = counter("failed_batches", "Batches that failed", "model", "lane")
        self._last_batch = gauge("last_success_timestamp_seconds", "Unix time of the last batch that succeeded")
        self._dropped = counter("dropped_requests", "Requests whose client closed the connection before the reply")
        self._waiting = gauge("queue_texts", "Texts in the queue", "device", "lane")
        self._oldest = gauge("queue_oldest_seconds", "Age of the oldest request in the queue", "device", "lane")
        self._connections = gauge("connections", "Open connections")
        self._in_flight = gauge("requests_in_flight", "Requests without a reply yet")
        self._ready = gauge("ready", "1 if the server takes requests, 0 from the beginning of a shutdown on")
        self._ended = gauge("ended_connections", "Connections ended so far, by reason", "reason")
        self._model = gauge("model_info", "Loaded models", "model", "task", "dtype", "device")
        gauge("info", "The version of embedrt", "version").labels(__version__).set(1)

        self._tei = TeiMetrics(registry)
        self._names: dict[str, str] = {}
        self._work: dict[str, str] = {}
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._of_model: dict[str, tuple[Counter, Counter, Counter, Histogram, Histogram]] = {}
        self._of_lane: dict[tuple[str, str], _OfLane] = {}

    def ended(self, request: Ended) -> None:
        """Count a request that has ended."""
        notes, endpoint = request.exchange.notes, request.endpoint
        key = (notes.model, endpoint.path, request.status)
        of_route = self._of_route.get(key)
        if of_route is None:
            model, route, status = key
            of_route = self._requests.labels(model, route, str(status)), self._seconds.labels(model, route)
            self._of_route[key] = of_route
        of_route[0].inc()
        of_route[1].observe(request.seconds)
        if request.failure is not None:
            self._errors.labels(notes.model, request.failure.kind).inc()
        elif request.status == GONE:
            self._dropped.inc()
        if endpoint.method == "POST":
            self._tei.ended(request, self._work.get(notes.model, "embed"))
        if notes.texts:
            self._count_texts(request)

    def _count_texts(self, request: Ended) -> None:
        notes = request.exchange.notes
        of_model = self._of_model.get(notes.model)
        if of_model is None:
            of_model = self._of_model[notes.model] = (
                self._texts.labels(notes.model),
                self._tokens.labels(notes.model),
                self._truncated.labels(notes.model),
                self._request_texts.labels(notes.model),
                self._request_tokens.labels(notes.model),
            )
        texts, tokens, truncated, request_texts, request_tokens = of_model
        texts.inc(notes.texts)
        tokens.inc(notes.tokens)
        if notes.truncated:
            truncated.inc(len(notes.truncated))
        request_texts.observe(notes.texts)
        request_tokens.observe(notes.tokens)

    def batch(self, record: BatchRecord) -> None:
        """Count a batch; called by the threads of the queue."""
        labels = self._names.get(record.model, record.model), record.lane
        of_lane = self._of_lane.get(labels)
        if of_lane is None:
            of_lane = self._of_lane[labels] = _OfLane(
                self._ages.labels(*labels),
                self._batches.labels(*labels),
                self._batch_texts.labels(*labels),
                self._batch_tokens.labels(*labels),
                self._fill.labels(*labels),
                self._padding.labels(*labels),
                self._failed_batches.labels(*labels),
            )
        of_lane.age.observe(record.queue_seconds)
        of_lane.seconds.observe(record.seconds)
        of_lane.texts.observe(record.texts)
        of_lane.tokens.observe(record.tokens)
        of_lane.fill.observe(record.tokens / record.budget)
        of_lane.padding.inc(record.computed - record.tokens)
        self._tei.batch(record)
        if record.failed:
            of_lane.failed.inc()
        else:
            self._last_batch.set_to_current_time()

    def models(self, models: Models) -> None:
        """Show the models that are loaded, instead of those before."""
        self._model.clear()
        for one in models.served:
            self._model.labels(one.name, one.task, one.model.dtype, one.model.device).set(1)
        self._names = {one.model.manifest.name: one.name for one in reversed(models.served)}
        self._work = {one.name: "predict" if one.task == "score" else "embed" for one in models.served}

    def render(self, queues: Mapping[str, Queue], connections: Connections) -> bytes:
        """The text that Prometheus reads.

        Args:
            queues: The queues by device.
            connections: The state of the connections.
        """
        waiting = 0
        for device, queue in queues.items():
            for lane in LANES:
                requests, texts, age = queue.waiting(lane)
                waiting += requests
                self._waiting.labels(device, lane).set(texts)
                self._oldest.labels(device, lane).set(age)
        self._tei.waiting(waiting)
        self._connections.set(connections.open)
        self._in_flight.set(connections.in_flight)
        self._ready.set(connections.ready)
        self._ended.labels("no_room").set(connections.refused)
        self._ended.labels("slow_client").set(connections.timed_out)
        return self._tei.as_counters(generate_latest(self.registry))
