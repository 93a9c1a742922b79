"""Metrics with the names and buckets of text-embeddings-inference (TEI), for dashboards and alerts made for it.

TEI measures every text; here the durations and lengths are those of requests.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge, Histogram

from embedrt.run.queue import BatchRecord
from embedrt.server.errors import Kind
from embedrt.server.observers import GONE, Ended

WORKS = ("embed", "predict")
"""Words for the kinds of model in the names of metrics."""

_SECONDS = tuple(0.00001 * 1.5**n for n in range(1, 36))
_LENGTHS = tuple(2.0**n for n in range(20))
_BATCH_TEXTS = tuple(2.0**n for n in range(13))
_BATCH_TOKENS = tuple(2.0**n for n in range(21))
_STEPS = ("", "_tokenization", "_queue", "_inference")

# TEI's names for kinds of failures.
_FAILURES: dict[Kind, str] = {
    "overloaded": "overloaded",
    "tokenizer": "tokenization",
    "backend": "inference",
    "timeout": "inference",
    "unhealthy": "unhealthy",
    "too_large": "batch_size",
}


class TeiMetrics:
    """TEI's metrics.

    Args:
        registry: The registry that shows them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters: list[str] = []

        def counter(name: str, about: str, *labels: str) -> Gauge:
            """A counter without the suffix `_total`, which the library allows for a gauge only."""
            self._counters.append(name)
            return Gauge(name, about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, about, registry=registry, buckets=buckets)

        requests = counter("te_request_count", "Requests", "method")
        answered = counter("te_request_success", "Answered requests", "method")
        self._requests = {method: requests.labels(method) for method in ("single", "batch")}
        self._answered = {method: answered.labels(method) for method in ("single", "batch")}
        self._failed = counter("te_request_failure", "Failed requests", "err")
        self._texts = {work: counter(f"te_{work}_count", "Texts") for work in WORKS}
        self._answered_texts = {work: counter(f"te_{work}_success", "Answered texts") for work in WORKS}
        seconds = {
            work: [histogram(f"te_{work}{step}_duration", "Seconds", _SECONDS) for step in _STEPS]
            for work in ("request", *WORKS)
        }
        self._seconds = {work: [*zip(seconds["request"], seconds[work], strict=True)] for work in WORKS}
        self._lengths = histogram("te_request_input_length", "Tokens of a request", _LENGTHS)
        self._batch_texts = histogram("te_batch_next_size", "Texts in a batch", _BATCH_TEXTS)
        self._batch_tokens = histogram("te_batch_next_tokens", "Tokens in a batch", _BATCH_TOKENS)
        self._waiting = Gauge("te_queue_size", "Requests in the queue", registry=registry)

    def ended(self, request: Ended, work: str) -> None:
        """Count a request that has ended."""
        notes = request.exchange.notes
        method = "batch" if notes.texts > 1 else "single"
        self._requests[method].inc()
        if request.failure is not None:
            self._failed.labels(_FAILURES.get(request.failure.kind, "validation")).inc()
        elif request.status == GONE:
            self._failed.labels("dropped").inc()
        else:
            self._answered[method].inc()
            if notes.texts:
                self._texts[work].inc(notes.texts)
                self._answered_texts[work].inc(notes.texts)
                self._lengths.observe(notes.tokens)
                times = request.seconds, notes.tokenize_seconds, notes.queue_seconds, notes.engine_seconds
                for taken, (of_request, of_work) in zip(times, self._seconds[work], strict=True):
                    of_request.observe(taken)
                    of_work.observe(taken)

    def batch(self, record: BatchRecord) -> None:
        """Count a batch."""
        self._batch_texts.observe(record.texts)
        self._batch_tokens.observe(record.computed)

    def waiting(self, requests: int) -> None:
        """Show the number of requests in the queue."""
        self._waiting.set(requests)

    def as_counters(self, text: bytes) -> bytes:
        """Correct the types in the text that Prometheus reads."""
        for name in self._counters:
            text = text.replace(b"# TYPE %s gauge\n" % name.encode(), b"# TYPE %s counter\n" % name.encode())
        return text
