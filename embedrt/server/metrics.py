"""Metrics for Prometheus: the names and buckets of text-embeddings-inference (TEI), and more of our own.

Labels have few values: the names of loaded models, the paths of the table of endpoints, statuses, lanes and kinds of errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector
from prometheus_client import ProcessCollector, generate_latest

from embedrt._version import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TEI_SECONDS = tuple(0.00001 * 1.5**n for n in range(1, 36))
_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_AGES = (0.0001, 0.0005, *_SECONDS)
_TEXTS = tuple(2.0**n for n in range(13))
_TOKENS = tuple(2.0**n for n in range(21))
_RATIOS = tuple(n / 10 for n in range(1, 11))


@dataclass(frozen=True)
class Finished:
    """A request that has its reply.

    Attributes:
        route: Its path in the table of endpoints, or `unmatched`.
        status: Of the reply; 499 if the client closed the connection before.
        model: The name of the loaded model; empty if it has none.
        kind: The kind of the error; empty if there was none.
        work: What the model did: `embed`, `predict`, or empty.
        texts: Number of texts, or of pairs.
        tokens: Number of tokens after truncation.
        truncated: Number of truncated texts.
        total: Seconds from the first byte to the reply.
        tokenization: Seconds in the tokenizer.
        queue: Seconds in the queue.
        inference: Seconds in the engine.
    """

    route: str
    status: int
    model: str = ""
    kind: str = ""
    work: Literal["embed", "predict", ""] = ""
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    total: float = 0.0
    tokenization: float = 0.0
    queue: float = 0.0
    inference: float = 0.0


@dataclass(frozen=True)
class Batch:
    """A batch that the engine has computed.

    Attributes:
        model: The name of the model.
        lane: `query` or `bulk`.
        texts: Number of texts, or of pairs.
        tokens: Number of tokens.
        padding: Number of padding tokens.
        budget: The most tokens of a batch.
        seconds: Seconds in the engine.
        ages: Seconds that each request of the batch waited for it.
    """

    model: str
    lane: str
    texts: int
    tokens: int
    padding: int
    budget: int
    seconds: float
    ages: tuple[float, ...]


@dataclass(frozen=True)
class _OfModel:
    """Counters of requests that a model answered."""

    texts: Counter
    tokens: Counter
    truncated: Counter
    request_texts: Histogram
    request_tokens: Histogram


class Metrics:
    """The registry of a server."""

    def __init__(self) -> None:
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
            "request_duration_seconds", "Seconds from the first byte of a request to its reply", _SECONDS, "model", "route"
        )
        self._errors = counter("errors", "Failed requests by kind", "model", "kind")
        self._texts = counter("texts", "Texts or pairs of answered requests", "model")
        self._tokens = counter("tokens", "Tokens of answered requests, after truncation", "model")
        self._truncated = counter("truncated_texts", "Truncated texts of answered requests", "model")
        self._request_texts = histogram("request_texts", "Texts or pairs in a request", _TEXTS, "model")
        self._request_tokens = histogram("request_tokens", "Tokens in a request", _TOKENS, "model")
        self._ages = histogram("queue_age_seconds", "Seconds that a request waited for its first batch", _AGES, "model", "lane")
        self._batches = histogram("batch_duration_seconds", "Seconds of a batch in the engine", _SECONDS, "model", "lane")
        self._batch_texts = histogram("batch_texts", "Texts or pairs in a batch", _TEXTS, "model", "lane")
        self._batch_tokens = histogram("batch_tokens", "Tokens in a batch, without padding", _TOKENS, "model", "lane")
        self._fill = histogram("batch_fill_ratio", "Tokens in a batch by its token budget", _RATIOS, "model", "lane")
        self._padding = counter("padding_tokens", "Padding tokens in batches", "model", "lane")
        self._dropped = counter("dropped_texts", "Texts dropped from the queue, as their client is gone", "model")
        self.waiting = gauge("queue_texts", "Texts in the queue", "model", "lane")
        self.oldest = gauge("queue_oldest_seconds", "Age of the oldest request in the queue", "model", "lane")
        self.connections = gauge("connections", "Open connections")
        self.in_flight = gauge("requests_in_flight", "Requests without a reply yet")
        self.ready = gauge("ready", "1 if the server takes requests, 0 from the beginning of a shutdown on")
        self._model = gauge("model_info", "Loaded models", "model", "dtype", "device", "task")
        gauge("info", "The version of embedrt", "version").labels(__version__).set(1)

        self._tei_plain: list[str] = []
        self._tei_requests = self._tei_counter("te_request_count", "Requests", "method")
        self._tei_successes = self._tei_counter("te_request_success", "Answered requests", "method")
        self._tei_failures = self._tei_counter("te_request_failure", "Failed requests by kind", "err")
        self._tei_work = {
            (work, name): self._tei_counter(f"te_{work}_{name}", f"Texts to {work}")
            for work in ("embed", "predict")
            for name in ("count", "success")
        }
        self._tei_seconds = {
            name: Histogram(f"te_{name}_duration", "Seconds", registry=registry, buckets=_TEI_SECONDS)
            for name in (
                "request",
                "request_tokenization",
                "request_queue",
                "request_inference",
                "embed",
                "embed_tokenization",
                "embed_queue",
                "embed_inference",
            )
        }
