"""`embedrt serve` against other servers: texts/s, latencies and memory on the same texts, servers in turn.

    python -m benchmarks.serving --keep DIR --output benchmarks/results     # `make bench-serve`

Every server runs in a process of its own and is idle while another one has its turn. The client is a third process on
the same cores. Servers whose package or program is not there are left out: FastAPI around sentence-transformers is in
this environment, infinity in `EMBEDRT_INFINITY`, llama.cpp's server in `EMBEDRT_LLAMA_SERVER`.
"""

import argparse
import base64
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import load_corpus
from benchmarks.models import packaged
from benchmarks.record import circumstances, heading, write
from benchmarks.repository import ROOT
from benchmarks.targets import Verdict, at_least, at_most, target_table
from embedrt import Embedder
from embedrt.bench.gguf_file import write_gguf
from embedrt.bench.model import export
from embedrt.bench.peers import Files
from embedrt.bench.process import OFFLINE
from embedrt.bench.record import spread

KIND = "serving"
OWN = "embedrt"
_SEED = 0
_TEXTS_OF_REQUEST, _CLIENTS = 32, 8
_STREAM_TEXTS = 10000
_STREAM_SECONDS = 12.0
# The first moment of a stream, in which its first batches come into the queue.
_HEAD_START = 0.5
_START_SECONDS = 120.0
UNITS = {
    "texts_per_second": "requests of 32 mixed texts by 8 clients: median, lowest and highest round",
    "share_of_encode": "that speed relative to `Embedder.encode` in the same round",
    "one_*_ms": "a query of one short text by one client, in milliseconds",
    "eight_*_ms": "the same by 8 clients at once",
    "beside_p99_ms": "the same by one client while another one sends 10,000 texts, 2,000 a request",
    "peak_rss_mb": "memory of the server at the end, in 10^6 bytes",
    "max_error": "largest absolute difference of a vector to sentence-transformers' or embedrt's own",
}


@dataclass(frozen=True)
class Server:
    """A server that is measured.

    Attributes:
        command: The command; `{port}`, `{model}`, `{bundle}` and `{gguf}` are filled in.
        extra: Fields of every body.
        path: The route.
        stream: The texts of a request in a stream.
        missing: The reason why it cannot run here, or None.
    """

    command: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    path: str = "/v1/embeddings"
    stream: int = 2000
    missing: str | None = None


def servers() -> dict[str, Server]:
    """The servers by name; those that cannot run here have the reason."""
    infinity, llama = os.environ.get("EMBEDRT_INFINITY"), os.environ.get("EMBEDRT_LLAMA_SERVER")
    cores = str(len(os.sched_getaffinity(0)))
    packages = [name for name in ("fastapi", "uvicorn", "sentence_transformers") if find_spec(name) is None]
    embedrt = (sys.executable, "-m", "embedrt", "serve", "m={bundle}", "--port", "{port}", "--no-access-log")
    as_base64 = {"encoding_format": "base64"}
    return {
        OWN: Server(embedrt, as_base64),
        "embedrt, floats": Server(embedrt),
        "embedrt int8": Server((*embedrt, "--dtype", "int8"), as_base64),
        "FastAPI + sentence-transformers": Server(
            (sys.executable, "-m", "benchmarks.fastapi_server", "{model}", "{port}"),
            missing=f"{', '.join(packages)} not installed" if packages else None,
        ),
        "infinity": Server(
            (infinity or "", "v2", "--model-id", "{model}", "--served-model-name", "m", "--port", "{port}",
             "--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--log-level", "error"),
            {"model": "m", **as_base64},
            "/embeddings",
            2000,
            None if infinity else "EMBEDRT_INFINITY is not set",
        ),
        "llama.cpp": Server(
            (llama or "", "-m", "{gguf}", "--embeddings", "--port", "{port}", "--pooling", "mean",
             "-ub", "512", "-b", "2048", "-c", "4096", "-np", "8", "-t", cores, "--log-disable"),
            {"model": "m", **as_base64},
            "/v1/embeddings",
            2000,
            None if llama else "EMBEDRT_LLAMA_SERVER is not set",
        ),
    }  # fmt: skip


@dataclass
class Measured:
    """Measurements of one server.

    Attributes:
        error: The reason of a failure, or None.
        texts_per_second: By round.
        one: Latencies of one client in seconds, by round.
        eight: The same of eight clients.
        beside: The same beside a stream.
        start_seconds: From the start of the process to the first vector.
        peak_rss_mb: Memory at the end.
        max_error: The largest difference of a vector.
    """

    error: str | None = None
    texts_per_second: list[float] = field(default_factory=list)
    one: list[list[float]] = field(default_factory=list)
    eight: list[list[float]] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    start_seconds: float | None = None
    peak_rss_mb: float | None = None
    max_error: float | None = None


class Running:
    """A server process on a free port."""

    def __init__(self, server: Server, names: Mapping[str, str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._server = server
        self._log = log
        command = [part.format(port=self.port, **names) for part in server.command]
        started = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **OFFLINE, "DO_NOT_TRACK": "1"}, stdout=output, stderr=output
            )
        self._wait()
        self.start_seconds = time.perf_counter() - started

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            try:
                self.vectors(["first"])
            except (OSError, ValueError, KeyError):
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
            else:
                return
        self.close()
        raise RuntimeError(f"no reply: {self._log.read_text(encoding='utf-8', errors='replace')[-400:]}")

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some texts."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = json.dumps({"input": list(texts), **self._server.extra})
        connection.request("POST", self._server.path, body, {"content-type": "application/json"})
        data = json.loads(connection.getresponse().read())["data"]
        connection.close()
        found = [one["embedding"] for one in sorted(data, key=lambda one: one["index"])]
        if isinstance(found[0], str):
            return np.array([np.frombuffer(base64.b64decode(one), "<f4") for one in found])
        return np.array(found, np.float32)

    def load(self, **job: Any) -> dict[str, Any]:
        """Run a load on it, in another process."""
        fields = {"port": self.port, "path": self._server.path, "extra": dict(self._server.extra), **job}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.http_load"],
            input=json.dumps(fields),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-300:])
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @property
    def peak_rss_mb(self) -> float | None:
        """The most memory that the process had, with its children."""
        found = 0
        for pid in (self._process.pid, *_children(self._process.pid)):
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            except OSError:
                continue
            found += int(status.partition("VmHWM:")[2].split()[0]) * 1024
        return found / 1e6 or None

    def close(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


@dataclass(frozen=True)
class Texts:
    """The texts of a run.

    Attributes:
        mixed: Texts of all lengths, for throughput.
        queries: Short texts.
        stream: Texts of a bulk request, short enough for 10,000 to take seconds.
    """

    mixed: list[str]
    queries: list[str]
    stream: list[str]


def texts_of(bundle: Path, count: int) -> Texts:
    """Draw texts that the model reads whole: llama.cpp's server answers longer ones with an error."""
    texts = load_corpus().texts
    model = Embedder(bundle)
    limit = model.max_seq_length or sys.maxsize
    texts = [
        text for text, length in zip(texts, model.token_count(texts, truncation=False), strict=True) if length <= limit
    ]
    chance = random.Random(_SEED)
    mixed = chance.sample(texts, min(count, len(texts)))
    queries = [" ".join(text.split()[:8]) for text in chance.sample(texts, 200)]
    stream = [" ".join(chance.choice(texts).split()[:24]) for _ in range(_STREAM_TEXTS)]
    return Texts(mixed, queries, stream)


def in_parts(texts: Sequence[str], size: int) -> list[list[str]]:
    """Texts as requests of a given size."""
    return [list(texts[i : i + size]) for i in range(0, len(texts), size)]


def encode(bundle: Path, texts: Texts, dtype: str | None) -> tuple[float, float]:
    """Texts/s of `Embedder.encode`, and its median seconds of one query, in another process."""
    code = (
        "import json, sys, time; from embedrt import Embedder; job = json.load(sys.stdin)\n"
        "m = Embedder(job['bundle'], dtype=job['dtype']); m.encode(job['mixed'][:64]); m.encode(job['queries'][0])\n"
        "a = time.perf_counter(); m.encode(job['mixed']); speed = len(job['mixed']) / (time.perf_counter() - a)\n"
        "seconds = []\n"
        "for q in job['queries']:\n"
        "    a = time.perf_counter(); m.encode(q); seconds.append(time.perf_counter() - a)\n"
        "print(json.dumps([speed, sorted(seconds)[len(seconds) // 2]]))"
    )
    job = {"bundle": str(bundle), "dtype": dtype, "mixed": texts.mixed, "queries": texts.queries}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(job), capture_output=True, text=True, check=True, cwd=ROOT
    )
    speed, seconds = json.loads(done.stdout)
    return speed, seconds


def measure(
    names: Mapping[str, str], texts: Texts, rounds: int, only: Sequence[str]
) -> tuple[dict[str, Measured], dict[str, list[tuple[float, float]]]]:
    """Measure all servers in turn, and `encode` in each round."""
    found: dict[str, Measured] = {}
    encoded: dict[str, list[tuple[float, float]]] = {OWN: [], "embedrt int8": []}
    running: dict[str, Running] = {}
    bundle = Path(names["bundle"])
    expected = Embedder(bundle).encode(texts.mixed[:64])
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, server in servers().items():
            if only and name not in only:
                continue
            found[name] = Measured(server.missing)
            if server.missing is None:
                try:
                    running[name] = Running(server, names, scratch / "log")
                    stack.callback(running[name].close)
                    found[name].start_seconds = running[name].start_seconds
                    found[name].max_error = float(np.abs(running[name].vectors(texts.mixed[:64]) - expected).max())
                except (RuntimeError, OSError) as error:
                    found[name].error = str(error)
        for number in range(rounds + 1):
            for name, dtype in ((OWN, None), ("embedrt int8", "int8")):
                if name in running and number:
                    encoded[name].append(encode(bundle, texts, dtype))
            for name, one in running.items():
                _turn(found[name], one, texts, counts=number > 0)
        for name, one in running.items():
            _stream(found[name], one, texts, servers()[name].stream)
            found[name].peak_rss_mb = one.peak_rss_mb
    return found, encoded


def _turn(result: Measured, running: Running, texts: Texts, *, counts: bool) -> None:
    if result.error is not None:
        return
    mixed = texts.mixed if counts else texts.mixed[:128]
    queries = texts.queries if counts else texts.queries[:20]
    try:
        many = running.load(kind="together", clients=_CLIENTS, requests=in_parts(mixed, _TEXTS_OF_REQUEST))
        one = running.load(kind="together", clients=1, requests=[[text] for text in queries])
        eight = running.load(kind="together", clients=_CLIENTS, requests=[[text] for text in queries * 2])
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        result.error = str(error)
        return
    if counts:
        result.texts_per_second.append(len(mixed) / many["seconds"])
        result.one.append(one["latencies"])
        result.eight.append(eight["latencies"])


def _stream(result: Measured, running: Running, texts: Texts, size: int) -> None:
    """Queries beside a bulk load of 10,000 texts, or as many as the server embeds in some seconds."""
    if result.error is not None or not result.texts_per_second:
        return
    try:
        trial = running.load(kind="together", clients=1, requests=[texts.stream[:200]])
        count = min(_STREAM_TEXTS, int(200 / trial["seconds"] * _STREAM_SECONDS))
        parts = in_parts(texts.stream[:count], size)
        done = running.load(kind="beside", stream=parts, queries=texts.queries, least=_HEAD_START)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        result.error = f"beside a stream: {error}"
        return
    result.beside = done["latencies"]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def as_record(
    found: Mapping[str, Measured], encoded: Mapping[str, list[tuple[float, float]]]
) -> dict[str, dict[str, Any]]:
    """The results as plain data."""
    return {
        name: {
            "error": result.error,
            "texts_per_second": spread(result.texts_per_second),
            "share_of_encode": _share(result, encoded.get(name, [])),
            "encode_p50_ms": _ms([median(seconds for _, seconds in encoded[name])]) if encoded.get(name) else None,
            "one_p50_ms": _latency(result.one, 0.5),
            "one_p99_ms": _latency(result.one, 0.99),
            "eight_p50_ms": _latency(result.eight, 0.5),
            "eight_p99_ms": _latency(result.eight, 0.99),
            "beside_p50_ms": _latency([result.beside], 0.5) if result.beside else None,
            "beside_p99_ms": _latency([result.beside], 0.99) if result.beside else None,
            "beside_queries": len(result.beside),
            "start_s": None if result.start_seconds is None else round(result.start_seconds, 2),
            "peak_rss_mb": None if result.peak_rss_mb is None else round(result.peak_rss_mb),
            "max_error": result.max_error,
        }
        for name, result in found.items()
    }


def _share(result: Measured, encoded: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    return spread([own / speed for own, (speed, _) in zip(result.texts_per_second, encoded, strict=False)])


def _latency(rounds: Sequence[Sequence[float]], share: float) -> float | None:
    return _ms([percentile(one, share) for one in rounds if one])


def _ms(seconds: Sequence[float]) -> float | None:
    return round(median(seconds) * 1000, 3) if seconds else None


def verdicts(found: Mapping[str, Mapping[str, Any]], tokens_per_text: float, threads: int) -> Iterator[Verdict]:
    """The targets, line by line."""
    own = found[OWN]
    peers = {name: one for name, one in found.items() if not name.startswith(OWN) and one["texts_per_second"]}
    share = own["share_of_encode"]
    yield at_least("texts/s over HTTP to `Embedder.encode`", 0.9, share and share["median"])
    extra = None if own["one_p50_ms"] is None else own["one_p50_ms"] - own["encode_p50_ms"]
    yield at_most("one query, p50 over that of `encode`, ms", 1.0, extra)
    spread_of_8 = None if own["eight_p50_ms"] is None else own["eight_p99_ms"] / own["eight_p50_ms"]
    yield at_most("8 clients, p99 to p50", 5.0, spread_of_8)
    batch = None
    if own["texts_per_second"]:
        batch = 1000 * threads * 512 / (own["texts_per_second"]["median"] * tokens_per_text)
    beside = own["beside_p99_ms"] / batch if own["beside_p99_ms"] and batch else None
    yield at_most(
        "query beside 10,000 texts, p99 in batches of 512 tokens", 3.0, beside, f"{batch:.0f} ms each" if batch else ""
    )
    speeds = {name: one["texts_per_second"]["median"] for name, one in peers.items()}
    best = max(speeds, key=speeds.__getitem__, default=None)
    ratio = own["texts_per_second"]["median"] / speeds[best] if best and own["texts_per_second"] else None
    yield at_least("texts/s to the best other server", 2.0, ratio, best or "")
    for key, title in (
        ("one_p99_ms", "one query"),
        ("eight_p99_ms", "8 clients"),
        ("beside_p99_ms", "beside a stream"),
    ):
        tails = {name: one[key] for name, one in peers.items() if one[key]}
        best = min(tails, key=tails.__getitem__, default=None)
        tail = tails[best] / own[key] if best and own[key] else None
        yield at_least(f"p99 of {title}, the best other server's to ours", 2.0, tail, best or "")


def serving_tables(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each machine: a table of servers, and the targets."""
    for record in records:
        yield from heading("Servers", record)
        texts = f"{record['corpus']}, {record['tokens_per_text']:.0f} tokens on average"
        yield f"- all-MiniLM-L6-v2; texts: {texts}; {record['rounds']} rounds in turn; client on the same cores"
        yield ""
        yield (
            "| server | texts/s | of `encode` | one query p50 / p99, ms | 8 clients p50 / p99, ms "
            "| beside a stream p50 / p99, ms | cold start, s | peak memory, MB | max error |"
        )
        yield "|---|---|---|---|---|---|---|---|---|"
        for name, one in record["servers"].items():
            yield _row(name, one)
        yield ""
        yield from target_table(record["targets"])
        yield ""


def _row(name: str, one: Mapping[str, Any]) -> str:
    if one["error"]:
        return f"| {name} | {' '.join(one['error'].split()).replace('|', '/')[:120]} |" + " |" * 7
    pairs = [(one[f"{key}_p50_ms"], one[f"{key}_p99_ms"]) for key in ("one", "eight", "beside")]
    share, error = one["share_of_encode"], one["max_error"]
    cells = [
        f"**{name}**" if name.startswith(OWN) else name,
        f"{one['texts_per_second']['median']:.0f}",
        f"{share['median']:.0%}" if share else "-",
        *(f"{p50:.1f} / {p99:.1f}" if p50 and p99 else "-" for p50, p99 in pairs),
        f"{one['start_s']:.1f}",
        f"{one['peak_rss_mb']}",
        f"{error:.0e}" if error else "-",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure the servers, print the tables, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for the bundle and other files, used again if it has them")
    parser.add_argument("--output", type=Path, help="folder for the results file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=1024, help="mixed texts of a round")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a server to measure; repeatable")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kept: Path = (options.keep or Path(scratch)).absolute()
        kept.mkdir(parents=True, exist_ok=True)
        bundle, gguf = kept / "serve-bundle", kept / "serve.gguf"
        if not bundle.is_dir():
            export(str(packaged()), ["float32", "int8"], bundle, offline=True)
        if os.environ.get("EMBEDRT_LLAMA_SERVER") and not gguf.is_file():
            write_gguf(Files(packaged(), bundle, kept), gguf, "F32")
        texts = texts_of(bundle, options.texts)
        names = {"model": str(packaged()), "bundle": str(bundle), "gguf": str(gguf)}
        found, encoded = measure(names, texts, options.rounds, options.only)
        counts = Embedder(bundle).token_count(texts.mixed)
    servers_found = as_record(found, encoded)
    command = ["python", "-m", "benchmarks.serving", "--rounds", str(options.rounds), "--texts", str(options.texts)]
    record = circumstances(KIND, command)
    record |= {
        "rounds": options.rounds,
        "tokens_per_text": sum(counts) / len(counts),
        "units": UNITS,
        "servers": servers_found,
        "targets": [
            asdict(row) for row in verdicts(servers_found, sum(counts) / len(counts), record["machine"]["usable_cores"])
        ],
    }
    print("\n".join(serving_tables([{**record, "file": "(not written)"}])))
    if options.output is not None:
        write(record, options.output)


if __name__ == "__main__":
    main()
