"""A soak of the server: random requests with random faults of clients, and reloads, for as long as asked.

    python -m tests.endurance.soak_server --minutes 10

Clients send requests of all sizes, vanish in the middle, drip, stop to read, flood, lie, and are killed; models are
exchanged by SIGHUP all the while. Every vector is compared with that of its text alone, from one of the models that it
may come from. Every request gets an answer or a closed connection within its deadline. Memory, threads and descriptors
of the server may not grow from the middle of the run to its end, and SIGTERM ends it under load with status 0.
"""

import argparse
import http.client
import json
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from secrets import randbits
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt_export import export
from tests.kit.models import WORDS, make_model
from tests.kit.server_process import Process, process

BOUND = 2e-6
"""Largest difference of a coordinate between batches."""
GROWTH = {"memory MB": 24.0, "threads": 0.0, "descriptors": 0.0}
"""Largest growth from the middle of a run to its end."""
_KEY = "a-key"
_CLIENTS = 8
_ENOUGH = 20  # findings that end a run
_HANG_S = 60
_RELOAD_S = 3.0
_LIMITS = {"header_seconds": 1, "body_seconds": 1, "body_bytes": 1 << 20, "idle_seconds": 5, "requests": 16}
# What a request may get: an answer, or an error that the server's state explains.
_EXPECTED = {200, 429}


@dataclass
class Soak:
    """The state of a run.

    Attributes:
        server: The server.
        port: Its port.
        texts: The texts.
        expected: For each model, the vector of each text alone, `[texts, dim]`.
        wrong: Descriptions of what went wrong.
        done: What clients did, by name.
        statuses: Answers by status.
        samples: The memory, once a second.
        rests: What may not grow, in the middle and at the end, while no client is connected.
        resting: Set while clients wait.
        idle: Clients that wait.
        ended: Set at the end.
        ending: Set once the server has had its signal to end.
    """

    server: Process
    port: int
    texts: list[str]
    expected: list[NDArray[np.float32]]
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    samples: list[float] = field(default_factory=list)
    rests: list[dict[str, float]] = field(default_factory=list)
    resting: threading.Event = field(default_factory=threading.Event)
    idle: Counter[str] = field(default_factory=Counter)
    ended: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=_HANG_S)


def _request(body: bytes, path: str = "/v1/embeddings", *more: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {_KEY}", f"content-length: {len(body)}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _body(soak: Soak, draw: Random, most: int) -> tuple[list[int], bytes]:
    """Random texts, and a request for them."""
    chosen = [draw.randrange(len(soak.texts)) for _ in range(draw.randint(1, most))]
    return chosen, json.dumps({"input": [soak.texts[i] for i in chosen]}).encode()


def _check(soak: Soak, chosen: list[int], content: bytes) -> None:
    """Compare an answer with the vectors of the texts alone."""
    data = json.loads(content)["data"]
    found = np.array([one["embedding"] for one in data], np.float32)
    if [one["index"] for one in data] != [*range(len(chosen))] or len(found) != len(chosen):
        soak.wrong.append(f"{len(chosen)} texts, {len(found)} vectors")
    elif min(float(np.abs(found - one[chosen]).max()) for one in soak.expected) > BOUND:
        soak.wrong.append(f"wrong vectors of {len(chosen)} texts")


def _ask(soak: Soak, draw: Random, most: int) -> None:
    """Some requests over one connection, each checked."""
    connection = http.client.HTTPConnection("127.0.0.1", soak.port, timeout=_HANG_S)
    try:
        for _ in range(draw.randint(1, 5)):
            chosen, body = _body(soak, draw, most)
            try:
                connection.request("POST", "/v1/embeddings", body, {"authorization": f"Bearer {_KEY}"})
                answer = connection.getresponse()
                content = answer.read()
            except (http.client.HTTPException, OSError) as error:
                if not soak.ending.is_set() or isinstance(error, TimeoutError):
                    soak.wrong.append(f"a request has no answer: {error!r}")
                return
            soak.statuses[answer.status] += 1
            if answer.status == 200:
                _check(soak, chosen, content)
            elif answer.status not in _EXPECTED and not soak.ending.is_set():
                soak.wrong.append(f"status {answer.status}: {content[:200]!r}")
            if answer.headers.get("connection") == "close":
                return
    finally:
        connection.close()


def query(soak: Soak, draw: Random) -> None:
    """A few texts."""
    _ask(soak, draw, 3)


def bulk(soak: Soak, draw: Random) -> None:
    """Many texts."""
    _ask(soak, draw, 300)


def vanish(soak: Soak, draw: Random) -> None:
    """A client that closes or resets its connection anywhere."""
    whole = _request(_body(soak, draw, 300)[1])
    with soak.connect() as one:
        one.sendall(whole[: draw.randint(0, len(whole))])
        if draw.random() < 0.5:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def drip(soak: Soak, draw: Random) -> None:
    """A client that sends a part, and waits for the deadline."""
    whole = _request(_body(soak, draw, 20)[1])
    with soak.connect() as one:
        one.sendall(whole[: draw.randint(1, len(whole) - 1)])
        answer = _read(one)
        if answer and not answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 503 ")):
            soak.wrong.append(f"a part of a request: {answer[:100]!r}")


def stop_reading(soak: Soak, draw: Random) -> None:
    """A client that does not read a large answer, for longer than its deadline."""
    _, body = _body(soak, draw, 1)
    text = json.loads(body)["input"][0]
    with socket.socket() as one:
        one.settimeout(_HANG_S)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", soak.port))
        one.sendall(_request(json.dumps({"input": [text[:4]] * 8000}).encode()))
        soak.ended.wait(3)
        _read(one)


def flood(soak: Soak, draw: Random) -> None:
    """A body that is too large, with its length declared or in chunks."""
    size = draw.choice((2 << 20, 100 << 20))
    with soak.connect() as one:
        chunked = draw.random() < 0.5
        how = "transfer-encoding: chunked" if chunked else f"content-length: {size}"
        one.sendall(
            f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {_KEY}\r\n{how}\r\n\r\n".encode()
        )
        block = b"x" * (1 << 16)
        with suppress(OSError):
            for _ in range(size // len(block)):
                one.sendall(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
        with suppress(OSError):
            answer = one.recv(1 << 12)
            if answer and not answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 503 ")):
                soak.wrong.append(f"too large a body: {answer[:100]!r}")


def lie(soak: Soak, draw: Random) -> None:
    """Damaged JSON, random bytes, unknown routes, and wrong keys."""
    body = bytearray(_body(soak, draw, 3)[1])
    kind = draw.randrange(4)
    if kind == 0:
        for _ in range(draw.randint(1, 5)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        sent = _request(bytes(body), "/v1/embeddings", "connection: close")
    elif kind == 1:
        sent = draw.randbytes(draw.randint(1, 2000)) + b"\r\n\r\n"
    elif kind == 2:
        sent = _request(bytes(body), f"/{draw.randrange(1000)}", "connection: close")
    else:
        sent = _request(bytes(body), "/v1/embeddings", "connection: close").replace(_KEY.encode(), b"another")
    with soak.connect() as one:
        one.sendall(sent)
        answer = _read(one)
    if answer.startswith(b"HTTP/1.1 5") and not answer.startswith(b"HTTP/1.1 503 "):
        soak.wrong.append(f"{sent[:300]!r}: {answer[:300]!r}")


def pipeline(soak: Soak, draw: Random) -> None:
    """Several requests at once over one connection."""
    requests = [_body(soak, draw, 3)[1] for _ in range(draw.randint(2, 20))]
    last = _request(requests[-1], "/v1/embeddings", "connection: close")
    with soak.connect() as one:
        one.sendall(b"".join(map(_request, requests[:-1])) + last)
        answers = _read(one).count(b"HTTP/1.1 ")
    if answers != len(requests) and not soak.ending.is_set():
        soak.wrong.append(f"{len(requests)} requests in a row, {answers} answers")


def killed(soak: Soak, draw: Random) -> None:
    """A process that is killed while it waits for its answer."""
    program = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        "s.sendall(sys.stdin.buffer.read()); print('sent', flush=True); s.recv(1); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, str(soak.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(_request(_body(soak, draw, 300)[1]))
        client.stdin.close()
        client.stdout.readline()
        client.kill()


def look(soak: Soak, draw: Random) -> None:
    """Health and metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", soak.port, timeout=_HANG_S)
    try:
        path = draw.choice(("/health", "/metrics"))
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200 and not soak.ending.is_set():
            soak.wrong.append(f"{path}: status {answer.status}")
    except OSError as error:
        if not soak.ending.is_set():
            soak.wrong.append(f"{error!r}")
    finally:
        connection.close()


ACTIONS: dict[Callable[[Soak, Random], None], int] = {
    query: 40,
    bulk: 10,
    vanish: 20,
    drip: 2,
    stop_reading: 1,
    flood: 2,
    lie: 15,
    pipeline: 5,
    killed: 1,
    look: 4,
}
"""Actions of the clients, and their weights."""


def _read(one: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    blocks: list[bytes] = []
    try:
        while block := one.recv(1 << 16):
            blocks.append(block)
    except ConnectionError:
        pass
    return b"".join(blocks)


def _client(soak: Soak, seed: str) -> None:
    draw = Random(seed)
    while not soak.ended.is_set() and len(soak.wrong) < _ENOUGH:
        (action,) = draw.choices([*ACTIONS], [*ACTIONS.values()])
        try:
            action(soak, draw)
        except (ConnectionError, http.client.HTTPException):  # the server may close at any moment
            if soak.ending.is_set():
                return
        except Exception as error:  # noqa: BLE001 - findings
            soak.wrong.append(f"{action.__name__}: {error!r}")
        soak.done[action.__name__] += 1
        while soak.resting.is_set() and not soak.ended.is_set():
            soak.idle[seed] = 1
            soak.ended.wait(0.05)
        soak.idle[seed] = 0


def _sample(pid: int) -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "memory MB": int(status["VmRSS"].split()[0]) / 1024,
        "threads": float(status["Threads"]),
        "descriptors": float(len([*Path(f"/proc/{pid}/fd").iterdir()])),
    }


def _rest(soak: Soak) -> None:
    """Let the clients finish what they do, and note what the server has left."""
    soak.resting.set()
    end = time.monotonic() + 2 * _HANG_S
    while soak.idle.total() < _CLIENTS and time.monotonic() < end:
        soak.ended.wait(0.05)
    lowest: dict[str, float] = {}
    for _ in range(10):  # connections end a moment after their clients
        soak.ended.wait(1)
        found = _sample(soak.server.process.pid)
        lowest = {name: min(value, lowest.get(name, value)) for name, value in found.items()}
    soak.rests.append(lowest)
    soak.resting.clear()


def _growth(soak: Soak) -> dict[str, float]:
    """Growth from the middle of the run to its end."""
    half = soak.samples[len(soak.samples) // 2 :]
    middle, end = half[: len(half) // 3 + 1], half[-(len(half) // 3 + 1) :]
    grown = {name: soak.rests[-1][name] - soak.rests[0][name] for name in GROWTH}
    return {**grown, "memory MB": statistics.median(end) - statistics.median(middle)}


def soak_server(minutes: float, seed: int, folder: Path) -> Soak:
    """Run a server and its clients."""
    texts = [" ".join(Random(f"{seed} {i}").choices(WORDS, k=1 + i % 60)) for i in range(400)]
    bundles = []
    for i in range(2):
        make_model(folder / f"model-{i}", seed=i)
        bundles.append(folder / f"bundle-{i}")
        export(folder / f"model-{i}", bundles[-1])
    expected = []
    for bundle in bundles:
        with Embedder(bundle) as model:
            expected.append(np.stack([model.encode(text) for text in texts]))
    with process(folder, {"tiny": bundles[0]}, keys=[_KEY], limits=_LIMITS, threads=2) as server:
        soak = Soak(server, server.port, texts, expected)
        clients = [threading.Thread(target=_client, args=(soak, f"{seed} {i}"), daemon=True) for i in range(_CLIENTS)]
        for one in clients:
            one.start()
        began, reloaded, current = time.monotonic(), time.monotonic(), 0
        while (now := time.monotonic()) - began < minutes * 60 and len(soak.wrong) < _ENOUGH:
            if now - reloaded > _RELOAD_S:
                reloaded, current = now, 1 - current
                server.rewrite(models=[{"name": "tiny", "source": str(bundles[current])}])
                server.send(signal.SIGHUP)
                soak.done["reload"] += 1
            if server.process.poll() is not None:
                soak.wrong.append(f"the server ended: {server.lines[-5:]}")
                break
            soak.samples.append(_sample(server.process.pid)["memory MB"])
            soak.ended.wait(1)
            if not soak.rests and now - began > minutes * 30:
                _rest(soak)
        _rest(soak)
        soak.ended.wait(2)  # under load again
        soak.ending.set()
        server.send(signal.SIGTERM)
        status = server.wait()
        soak.ended.set()
        for one in clients:
            one.join(_HANG_S + 10)
        if status != 0 or any(one.is_alive() for one in clients):
            soak.wrong.append(f"exit status {status}, {sum(one.is_alive() for one in clients)} clients hang")
        soak.wrong += [line for line in server.lines if "Traceback" in line or " ERROR " in line]
    return soak


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak the server.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    arguments: Any = parser.parse_args()
    seed = randbits(32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        soak = soak_server(arguments.minutes, seed, Path(folder))
    grown = _growth(soak)
    print(f"done: {dict(soak.done)}")
    print(f"statuses: {dict(soak.statuses)}")
    print(f"at the end: {soak.rests[-1]}; growth: {grown}")
    if arguments.minutes >= 2:  # a shorter run still warms up
        soak.wrong += [f"{name} grew by {grown[name]:.1f}" for name, most in GROWTH.items() if grown[name] > most]
    for one in soak.wrong[:_ENOUGH]:
        print(f"wrong: {one}")
    return int(bool(soak.wrong))


if __name__ == "__main__":
    sys.exit(main())
