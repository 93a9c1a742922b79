"""The settled configuration of a server, from flags, environment and file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

TokenIds = Literal["reject", "model", "cl100k_base"]
"""Meanings of token ids in place of a text: none, ids of the model's vocabulary, or ids of OpenAI's cl100k_base."""
Pooling = Literal["cls", "mean", "last-token", "splade"]
"""Pooling modes, as text-embeddings-inference names them."""


@dataclass(frozen=True)
class ModelSettings:
    """One model of a server.

    Attributes:
        name: The name that clients use.
        source: A bundle folder, a name in the local store, or a hub id.
        aliases: More names of the model. `NAME:query` and `NAME:document` are always there.
        revision: Branch, tag or commit of a hub repo.
        device: The device, as `Embedder` takes it; None and "auto" take the fastest.
        dtype: The dtype; None takes the bundle's usual one.
        max_tokens: Token budget of a batch; None takes what was tuned, else the device's.
        gpu_mem_limit: Upper bound of what CUDA's arena allocates on each GPU; None sets none.
        max_seq_length: Maximum tokens of a text; None takes the model's.
        truncate_dim: Coordinates to keep; None takes the model's default.
        prompts: Prompts by name; they override the model's own.
        default_prompt_name: The prompt for requests that name none; None takes the model's default, if any.
        default_prompt: That prompt itself; it overrides `default_prompt_name`.
        auto_truncate: Whether texts that are too long are truncated if a request does not decide; else they are errors.
        token_ids: The meaning of token ids in place of a text.
        pooling: The pooling that the model must have; None takes any.
    """

    name: str
    source: str
    aliases: tuple[str, ...] = ()
    revision: str | None = None
    device: str | tuple[str, ...] | None = None
    dtype: str | None = None
    max_tokens: int | None = None
    gpu_mem_limit: int | str | None = None
    max_seq_length: int | None = None
    truncate_dim: int | None = None
    prompts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    default_prompt_name: str | None = None
    default_prompt: str | None = None
    auto_truncate: bool = True
    token_ids: TokenIds = "reject"  # noqa: S105 - no password
    pooling: Pooling | None = None


@dataclass(frozen=True)
class Limits:
    """Upper bounds of what clients may ask for.

    Attributes:
        body_bytes: Bytes of a request body.
        request_texts: Texts of a request; a pair counts as one.
        requests: Requests that wait or run at the same time, for each of the two lanes.
        waiting_texts: Texts that wait at the same time, in all requests.
        request_seconds: Seconds from the end of a request's body to its reply.
        body_seconds: Seconds for a client to send a body, or to read on in a reply; whoever is not slow has longer.
        header_seconds: Seconds for a client to send the headers of a request.
        idle_seconds: Seconds that a connection is kept open between two requests.
        shutdown_seconds: Seconds for accepted requests to finish after a signal to stop.
    """

    body_bytes: int = 32 * 2**20
    request_texts: int = 16384
    requests: int = 512
    waiting_texts: int = 65536
    request_seconds: float = 300.0
    body_seconds: float = 30.0
    header_seconds: float = 15.0
    idle_seconds: float = 60.0
    shutdown_seconds: float = 60.0


@dataclass(frozen=True)
class Settings:
    """A server.

    Attributes:
        models: The models, the default one first.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        socket: Path of a Unix socket to listen on instead of a port.
        limits: Upper bounds of what clients may ask for.
        threads: Threads of all models together; None takes the cores that this process may use.
        strict_model: Whether an unknown model name is an error also if there is only one model.
        cl100k_vocabulary: File with the vocabulary of cl100k_base in tiktoken's format.
        key_file: File with one API key per line.
        keys: API keys; with none here and in the file, requests need no key.
        cors_origins: Origins whose pages may call the server; "*" is every one.
        metrics: Whether there are metrics.
        metrics_port: A port of their own for the metrics; None serves them with everything else.
        json_logs: Whether log lines are JSON.
        access_log: Whether every request is logged.
        otlp_endpoint: Where OpenTelemetry traces go; None makes none.
        otlp_service_name: The name of the service in traces.
        predict_route: One more path of the route for Vertex AI's requests.
        health_route: One more path of the route that runs the models.
        page: Whether `GET /` has a page to try the models.
        local_files_only: Never touch the network.
        cache_folder: Folder for new bundles, which is searched before the local store; None takes the store alone.
        hub_token: Hub token; None uses `HF_TOKEN` or the saved login.
        config_file: The file that the configuration came from, for reloads.
    """

    models: tuple[ModelSettings, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    socket: Path | None = None
    limits: Limits = field(default_factory=Limits)
    threads: int | None = None
    strict_model: bool = False
    cl100k_vocabulary: Path | None = None
    key_file: Path | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    metrics: bool = True
    metrics_port: int | None = None
    json_logs: bool = False
    access_log: bool = True
    otlp_endpoint: str | None = None
    otlp_service_name: str = "embedrt"
    predict_route: str | None = None
    health_route: str | None = None
    page: bool = True
    local_files_only: bool = False
    cache_folder: Path | None = None
    hub_token: str | None = field(default=None, repr=False)
    config_file: Path | None = None
