"""The options of a server: their names in flags, environment and file, their types and their help."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from embedrt.inputs.values import byte_count
from embedrt.server.settings import Pooling, TokenIds
from embedrt.types import dtype_name

PREFIX = "EMBEDRT_SERVE_"
"""The start of the environment variables that only the server reads."""
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_MOST = 2**31 - 1
_LONGEST_WAIT = 86400.0


@dataclass(frozen=True)
class Kind:
    """The type of an option's value.

    Attributes:
        expected: The valid values, for messages.
        metavar: The placeholder of the value in help texts; empty for a switch.
        of_text: Converts the text of a flag or a variable; a ValueError means that it is not valid.
        check: Returns the valid value of anything; a ValueError or TypeError means that there is none.
        is_path: True if a relative path in the file starts at the file's folder.
    """

    expected: str
    metavar: str
    of_text: Callable[[str], Any]
    check: Callable[[Any], Any]
    is_path: bool = False


def _whole(least: int, most: int, metavar: str = "N") -> Kind:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    bounds = f"from {least} on" if most == _MOST else f"from {least} to {most}"
    return Kind(f"an integer {bounds}", metavar, int, check)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_WAIT:
        raise ValueError
    return float(value)


def _truth_of(text: str) -> bool:
    if text.lower() not in {*_YES, *_NO}:
        raise ValueError
    return text.lower() in _YES


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError
    return value


def _route(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[A-Za-z0-9._~:/-]*", value):
        raise ValueError
    return value


def _key(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError
    return value


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # no lone surrogates
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _by_name(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError
    return {_text(name): _any_text(text) for name, text in value.items()}


def _device(value: Any) -> str | tuple[str, ...]:
    names = _texts(value) if isinstance(value, list) else tuple(_text(value).split(","))
    if not names or not all(names):
        raise ValueError
    return names[0] if len(names) == 1 else names


def _dtype(value: Any) -> str:
    return "auto" if value == "auto" else dtype_name(value)


def _one_of(names: Sequence[str], metavar: str) -> Kind:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return Kind(f"one of {', '.join(map(repr, names))}", metavar, str, check)


def _of_commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


_BYTES = Kind("bytes, or a text such as '32MiB'", "BYTES", str, lambda value: byte_count(value, ""))
_MEMORY = dataclasses.replace(_BYTES, expected="bytes, or a text such as '20GB' or '20GiB'")
_DTYPE = Kind("'float32', 'float16', 'bfloat16', 'int8', 'tf32' or 'auto'", "DTYPE", str, _dtype)
_DEVICE = Kind("a device such as 'cpu' or 'cuda', or several", "DEVICE", str, _device)
_TRUTH = Kind("true or false", "", _truth_of, _truth)
_WORD = Kind("a text without control characters", "TEXT", str, _text)
_NAME = dataclasses.replace(_WORD, metavar="NAME")
_ANY = dataclasses.replace(_WORD, metavar="VALUE")
_KEY = Kind("printable ASCII characters without spaces", "KEY", str, _key)
_PROMPT = Kind("a text", "TEXT", str, _any_text)
_PATH = Kind("a path", "FILE", str, lambda value: Path(_text(value)), is_path=True)
_FOLDER = dataclasses.replace(_PATH, metavar="FOLDER")
ORIGINS = Kind("origins such as 'https://example.org', or '*'", "ORIGIN", _of_commas, _texts)
_NAMES = Kind("a list of names", "NAME", _of_commas, _texts)
_PROMPTS = Kind("a table of prompts by name", "NAME", str, _by_name)
_ROUTE = Kind("a path such as '/predict'", "PATH", str, _route)
_TIME = Kind(f"seconds, more than 0 and up to {_LONGEST_WAIT:.0f}", "SECONDS", float, _seconds)
PORT = _whole(0, 65535, "PORT")

Scope = Literal["server", "limits", "model", "accepted", "refused"]
"""The dataclass that an option belongs to; "accepted" options have no effect, and "refused" ones are errors."""


@dataclass(frozen=True)
class Option:
    """One setting: its names in flags, environment and file, and its meaning.

    Attributes:
        field: The field of the dataclass, and the key in the file.
        scope: The dataclass.
        kind: The type of the value.
        help: One sentence or two for the help text. For an option that is accepted or refused, the reason.
        flags: Names on the command line; none for what only the file has.
        also: Variables of other programs with the same meaning, such as those of text-embeddings-inference. `variable`
            comes before them.
        in_file: Whether the file may have it.
        many: Whether the flag may be given several times.
        secret: Whether messages must not show the value.
        default: The default as the help text has it; None leaves it out. For a switch, its flag without dashes.
    """

    field: str
    scope: Scope
    kind: Kind
    help: str
    flags: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    in_file: bool = True
    many: bool = False
    secret: bool = False
    default: str | None = None

    @property
    def name(self) -> str:
        """The option's name among all options."""
        return f"{self.scope}.{self.field}"

    @property
    def details(self) -> str:
        """The default and the variables of other programs, for the help text."""
        default = () if self.default is None else (f"default: {self.default}",)
        return "; ".join((*default, *(f"variable {name}" for name in self.also[:1])))

    @property
    def default_value(self) -> str:
        """The default as a table has it."""
        if self.default is None:
            return "-"
        return self.default if self.kind.metavar else str(not self.default.startswith("no-")).lower()

    @property
    def variable(self) -> str:
        """The server's own environment variable."""
        return PREFIX + self.flags[0].lstrip("-").replace("-", "_").upper()


GROUPS: dict[str, tuple[Option, ...]] = {
    "Models": (
        Option(
            "source",
            "model",
            _NAME,
            "A bundle folder, a name in the local store, or a hub id; the same as MODEL.",
            ("--model-id",),
            ("MODEL_ID",),
        ),
        Option(
            "name",
            "model",
            _NAME,
            "Name that clients use. The flag and the variable need a single model.",
            ("--served-model-name",),
            ("SERVED_MODEL_NAME",),
            default="the model's",
        ),
        Option("revision", "model", _NAME, "Branch, tag or commit of a hub repo.", ("--revision",), ("REVISION",)),
        Option(
            "dtype",
            "model",
            _DTYPE,
            "float32, float16, bfloat16, int8, or auto: the fastest that `embedrt tune` found accurate enough.",
            ("--dtype",),
            ("DTYPE",),
            default="float32",
        ),
        Option(
            "device",
            "model",
            _DEVICE,
            "auto, cpu, cuda, cuda:INDEX, coreml, openvino, ...; or several GPUs, as in cuda:0,cuda:1.",
            ("--device",),
            default="auto",
        ),
        Option(
            "max_tokens",
            "model",
            _whole(1, _MOST),
            "Token budget of a batch.",
            ("--max-tokens",),
            default="what suits the device",
        ),
        Option(
            "gpu_mem_limit",
            "model",
            _MEMORY,
            "Upper bound of what CUDA's arena allocates on each GPU.",
            ("--gpu-mem-limit",),
            default="no bound",
        ),
        Option(
            "max_seq_length",
            "model",
            _whole(1, _MOST),
            "Tokens that the model reads of a text.",
            ("--max-seq-length",),
            default="the model's",
        ),
        Option(
            "truncate_dim",
            "model",
            _whole(1, _MOST),
            "Coordinates of a vector to keep, if a request names no number.",
            ("--truncate-dim",),
            default="the model's",
        ),
        Option(
            "default_prompt_name",
            "model",
            _NAME,
            "Prompt of the model to put before texts of requests that name none.",
            ("--default-prompt-name",),
            ("DEFAULT_PROMPT_NAME",),
            default="the model's",
        ),
        Option(
            "default_prompt",
            "model",
            _PROMPT,
            "That prompt itself, instead of its name.",
            ("--default-prompt",),
            ("DEFAULT_PROMPT",),
        ),
        Option(
            "auto_truncate",
            "model",
            _TRUTH,
            "Truncate texts that are too long, if the request does not decide; otherwise they are errors.",
            ("--auto-truncate",),
            ("AUTO_TRUNCATE",),
            default="auto-truncate",
        ),
        Option(
            "token_ids",
            "model",
            _one_of(get_args(TokenIds), "MEANING"),
            "Meaning of token ids in place of a text: reject, model (ids of the model's vocabulary) or cl100k_base "
            "(ids of OpenAI's, which are decoded first).",
            ("--token-ids",),
            default="reject",
        ),
        Option(
            "pooling",
            "model",
            _one_of(get_args(Pooling), "MODE"),
            "The pooling that the model must have: cls, mean, last-token or splade.",
            ("--pooling",),
            ("POOLING",),
        ),
        Option("prompts", "model", _PROMPTS, "Prompts by name; they override the model's own."),
        Option("aliases", "model", _NAMES, "More names of the model."),
    ),
    "Server": (
        Option(
            "host",
            "server",
            _NAME,
            "Address to listen on; 0.0.0.0 is every one.",
            ("--host", "--hostname"),
            ("HOSTNAME",),
            default="127.0.0.1",
        ),
        Option("port", "server", PORT, "TCP port.", ("--port", "-p"), ("PORT", "AIP_HTTP_PORT"), default="8080"),
        Option("socket", "server", _PATH, "Unix socket to listen on instead of a port.", ("--socket",)),
        Option(
            "threads",
            "server",
            _whole(1, 4096),
            "Threads of all models together.",
            ("--threads",),
            default="the cores that this process may use",
        ),
        Option(
            "strict_model",
            "server",
            _TRUTH,
            "Make an unknown model name an error if there is one model; with several it always is.",
            ("--strict-model",),
            default="no-strict-model",
        ),
        Option(
            "cl100k_vocabulary",
            "server",
            _PATH,
            "Vocabulary of cl100k_base in tiktoken's format, for --token-ids cl100k_base.",
            ("--cl100k-vocabulary",),
        ),
        Option(
            "predict_route",
            "server",
            _ROUTE,
            "One more path for the requests of Vertex AI, which are answered at /vertex.",
            ("--predict-route",),
            ("AIP_PREDICT_ROUTE",),
        ),
        Option(
            "health_route",
            "server",
            _ROUTE,
            "One more path for health checks, which are answered at /health.",
            ("--health-route",),
            ("AIP_HEALTH_ROUTE",),
        ),
        Option("page", "server", _TRUTH, "Serve a page to try the models at /.", ("--page",), default="page"),
        Option(
            "local_files_only",
            "server",
            _TRUTH,
            "Never touch the network to find a model.",
            ("--local-files-only",),
            default="no-local-files-only",
        ),
        Option(
            "cache_folder",
            "server",
            _FOLDER,
            "Folder for bundles that are downloaded; it is searched before the local store.",
            ("--cache-folder", "--huggingface-hub-cache"),
        ),
        Option(
            "hub_token",
            "server",
            _KEY,
            "Hub token; other users of the machine can see it, so prefer the variable HF_TOKEN.",
            ("--hf-token", "--hf-api-token"),
            ("HF_TOKEN", "HF_API_TOKEN"),
            in_file=False,
            secret=True,
        ),
    ),
    "Access": (
        Option(
            "keys",
            "server",
            _KEY,
            "API key that requests must have; may be given several times. Other users of the machine can see it, so "
            "prefer --api-key-file or the variable API_KEY.",
            ("--api-key",),
            ("API_KEY",),
            in_file=False,
            many=True,
            secret=True,
        ),
        Option("key_file", "server", _PATH, "File with one API key per line.", ("--api-key-file",)),
        Option(
            "cors_origins",
            "server",
            ORIGINS,
            "Origin whose pages may call the server, or *; may be given several times.",
            ("--cors-allow-origin",),
            ("CORS_ALLOW_ORIGIN",),
            many=True,
            default="none",
        ),
    ),
    "Limits": (
        Option(
            "body_bytes",
            "limits",
            _BYTES,
            "Size of a request body.",
            ("--max-body-bytes", "--payload-limit"),
            ("PAYLOAD_LIMIT",),
            default="32MiB",
        ),
        Option(
            "request_texts",
            "limits",
            _whole(1, _MOST),
            "Texts of a request.",
            ("--max-request-texts", "--max-client-batch-size"),
            ("MAX_CLIENT_BATCH_SIZE",),
            default="16384",
        ),
        Option(
            "requests",
            "limits",
            _whole(1, _MOST),
            "Requests that wait or run at the same time; more get status 429.",
            ("--max-requests", "--max-concurrent-requests"),
            ("MAX_CONCURRENT_REQUESTS",),
            default="512",
        ),
        Option(
            "waiting_texts",
            "limits",
            _whole(1, _MOST),
            "Texts that wait at the same time, in all requests; more get status 429.",
            ("--max-waiting-texts",),
            default="65536",
        ),
        Option("request_seconds", "limits", _TIME, "Time for a request.", ("--request-timeout",), default="300"),
        Option("body_seconds", "limits", _TIME, "Time for a client to send a body.", ("--body-timeout",), default="30"),
        Option(
            "header_seconds",
            "limits",
            _TIME,
            "Time for a client to send the headers of a request.",
            ("--header-timeout",),
            default="15",
        ),
        Option(
            "idle_seconds",
            "limits",
            _TIME,
            "Time that a connection is kept open between two requests.",
            ("--idle-timeout",),
            default="60",
        ),
        Option(
            "shutdown_seconds",
            "limits",
            _TIME,
            "Time for accepted requests to finish after SIGTERM.",
            ("--shutdown-timeout",),
            default="60",
        ),
    ),
    "Metrics and logs": (
        Option("metrics", "server", _TRUTH, "Serve Prometheus metrics at /metrics.", ("--metrics",), default="metrics"),
        Option(
            "metrics_port",
            "server",
            PORT,
            "A port of their own for the metrics.",
            ("--metrics-port", "--prometheus-port"),
            ("PROMETHEUS_PORT",),
            default="the server's",
        ),
        Option(
            "json_logs",
            "server",
            _TRUTH,
            "Write log lines as JSON.",
            ("--json-logs", "--json-output"),
            ("JSON_OUTPUT",),
            default="no-json-logs",
        ),
        Option("access_log", "server", _TRUTH, "Log every request.", ("--access-log",), default="access-log"),
        Option(
            "otlp_endpoint",
            "server",
            _NAME,
            "Address that OpenTelemetry traces are sent to.",
            ("--otlp-endpoint",),
            ("OTLP_ENDPOINT",),
            default="none",
        ),
        Option(
            "otlp_service_name",
            "server",
            _NAME,
            "Name of the service in traces.",
            ("--otlp-service-name",),
            ("OTLP_SERVICE_NAME",),
            default="embedrt",
        ),
    ),
    "Accepted for text-embeddings-inference, without effect": (
        Option(
            "tokenization_workers",
            "accepted",
            _ANY,
            "Texts are tokenized on the threads of --threads.",
            ("--tokenization-workers",),
            ("TOKENIZATION_WORKERS",),
            in_file=False,
        ),
        Option(
            "max_batch_tokens",
            "accepted",
            _ANY,
            "The token budget follows the device; --max-tokens sets it.",
            ("--max-batch-tokens",),
            ("MAX_BATCH_TOKENS",),
            in_file=False,
        ),
        Option(
            "max_batch_requests",
            "accepted",
            _ANY,
            "Batches are planned by tokens.",
            ("--max-batch-requests",),
            ("MAX_BATCH_REQUESTS",),
            in_file=False,
        ),
        Option(
            "uds_path",
            "accepted",
            _ANY,
            "There is no socket between server and model; --socket is one for clients.",
            ("--uds-path",),
            ("UDS_PATH",),
            in_file=False,
        ),
        Option(
            "disable_spans",
            "accepted",
            _TRUTH,
            "Log lines have no spans.",
            ("--disable-spans",),
            ("DISABLE_SPANS",),
            in_file=False,
        ),
    ),
    "Refused, as it would change vectors": (
        Option(
            "dense_path",
            "refused",
            _ANY,
            "A bundle has its dense layers from `embedrt export`.",
            ("--dense-path",),
            ("DENSE_PATH",),
            in_file=False,
        ),
    ),
}
"""All options, in the order of the help text."""
OPTIONS = tuple(option for group in GROUPS.values() for option in group)
FLAGS = {option.name: option for option in OPTIONS if option.flags}
"""The options of the command line, by name."""
