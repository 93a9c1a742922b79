"""Traces of requests for OpenTelemetry, if its packages are installed."""

from importlib import import_module
from time import time_ns
from typing import Any

from embedrt.errors import MissingDependencyError
from embedrt.server.observers import Ended

_PACKAGES = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
_PATH = "/v1/traces"


class Tracer:
    """Sends a span for every request; a thread of the SDK does the sending.

    Args:
        provider: OpenTelemetry's provider of tracers.
        parent_of: Function from the headers of a request to the context of the span that it belongs to.
    """

    def __init__(self, provider: Any, parent_of: Any) -> None:
        self._provider = provider
        self._parent_of = parent_of
        self._tracer = provider.get_tracer("embedrt")
        self._kind = import_module("opentelemetry.trace").SpanKind.SERVER

    def ended(self, request: Ended) -> None:
        """Send the span of a request that has ended."""
        end = time_ns()
        exchange, notes = request.exchange, request.exchange.notes
        attributes: dict[str, str | int | float] = {
            "http.request.method": request.scope["method"],
            "http.route": request.endpoint.path,
            "http.response.status_code": request.status,
            "embedrt.request_id": exchange.request_id,
        }
        if notes.model:
            attributes["embedrt.model"] = notes.model
        if notes.texts:
            attributes |= {
                "embedrt.texts": notes.texts,
                "embedrt.tokens": notes.tokens,
                "embedrt.truncated": len(notes.truncated),
                "embedrt.tokenize_ms": notes.tokenize_seconds * 1000,
                "embedrt.queue_ms": notes.queue_seconds * 1000,
                "embedrt.engine_ms": notes.engine_seconds * 1000,
            }
        if request.failure is not None:
            attributes["error.type"] = request.failure.kind
        span = self._tracer.start_span(
            f"{request.scope['method']} {request.endpoint.path}",
            context=self._parent_of(exchange.headers),
            kind=self._kind,
            attributes=attributes,
            start_time=end - int(request.seconds * 1e9),
        )
        span.end(end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def open_tracer(endpoint: str, service_name: str) -> Tracer:
    """Begin to send spans by OTLP over HTTP.

    Args:
        endpoint: Address of a collector, such as `http://localhost:4318`.
        service_name: The name of this service.

    Raises:
        MissingDependencyError: A package of OpenTelemetry is not installed.
    """
    try:
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        resources = import_module("opentelemetry.sdk.resources")
        sdk = import_module("opentelemetry.sdk.trace")
        processing = import_module("opentelemetry.sdk.trace.export")
        propagation = import_module("opentelemetry.trace.propagation.tracecontext")
    except ImportError as error:
        raise MissingDependencyError(
            f"--otlp-endpoint needs packages that are not installed ({error.name}); run `pip install {_PACKAGES}`"
        ) from error
    address = endpoint if endpoint.rstrip("/").endswith(_PATH) else endpoint.rstrip("/") + _PATH
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": service_name}))
    provider.add_span_processor(processing.BatchSpanProcessor(exporter.OTLPSpanExporter(endpoint=address)))
    return Tracer(provider, propagation.TraceContextTextMapPropagator().extract)
