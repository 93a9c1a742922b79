"""Clients that vanish, drip, flood and lie, and engines that fail: all others are served, and nothing is left over."""

import asyncio
import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt import Embedder
from embedrt.server.errors import RequestError
from embedrt.server.settings import Limits, ModelSettings, Settings
from tests.kit.bundles import copy_bundle, poison
from tests.kit.server import Address, Running, serving
from tests.kit.server_process import process

TEXTS = ["one river", "two banks"]
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
MANY = {"input": ["a long text about rivers and banks " * 20] * 400}


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Running]:
    """A server with short deadlines."""
    limits = Limits(header_seconds=1, body_seconds=1, body_bytes=1 << 20, request_texts=20000)
    with serving(Settings((ModelSettings("tiny", str(tiny_bundle)),), limits=limits)) as running:
        yield running


@pytest.fixture(scope="module")
def patient(tiny_bundle: Path) -> Iterator[Running]:
    """A server with the usual deadlines."""
    limits = Limits(body_bytes=1 << 20)
    with serving(Settings((ModelSettings("tiny", str(tiny_bundle)),), limits=limits)) as running:
        yield running


@pytest.fixture(autouse=True)
def serves_on(request: pytest.FixtureRequest, tiny: Embedder) -> Iterator[None]:
    """After every fault the server has nothing left of it, and serves with the same vectors."""
    yield
    name = next((name for name in ("server", "patient") if name in request.fixturenames), None)
    if name is not None:
        running: Running = request.getfixturevalue(name)
        until(lambda: figure(running, "embedrt_requests_in_flight") == 1)
        until(lambda: figure(running, "embedrt_connections") == 1)  # both are those that ask
        assert [
            queue.waiting(lane)[:2] for queue in running.queues.by_device.values() for lane in ("query", "bulk")
        ] == [(0, 0)] * 2
        answer = running.post("/v1/embeddings", {"input": TEXTS})
        np.testing.assert_allclose([one["embedding"] for one in answer.json["data"]], tiny.encode(TEXTS), atol=1e-6)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "the condition does not come true"
        time.sleep(0.005)


def figure(running: Running, name: str) -> float:
    """A value of the metrics."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", running.get("/metrics").body.decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def connect(running: Address) -> socket.socket:
    return socket.create_connection((running.host, running.port), timeout=60)


def vanish(one: socket.socket) -> None:
    """Close without a farewell: a reset."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def read_all(one: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    blocks = []
    try:
        while block := one.recv(1 << 16):
            blocks.append(block)
    except ConnectionResetError:
        pass
    return b"".join(blocks)


def request_of(body: Any) -> bytes:
    raw = json.dumps(body).encode()
    return HEAD + b"content-length: %d\r\n\r\n" % len(raw) + raw


def test_200_clients_vanish_in_the_middle(patient: Running) -> None:
    whole = request_of(MANY)
    cuts = [10, len(HEAD), len(HEAD) + 40, len(whole) // 2, len(whole)]
    clients = [connect(patient) for _ in range(200)]
    for i, one in enumerate(clients):
        one.sendall(whole[: cuts[i % len(cuts)]])
    for i, one in enumerate(clients):
        vanish(one) if i % 2 else one.close()


def test_a_client_that_is_killed(patient: Running) -> None:
    program = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        "s.sendall(sys.stdin.buffer.read()); print('sent', flush=True); s.recv(1); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(patient.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(request_of({"input": MANY["input"] * 5}))
        client.stdin.close()
        assert client.stdout.readline() == b"sent\n"
        client.kill()


def test_headers_that_drip(server: Running) -> None:
    """50 clients with half of their headers end by the deadline; a request meanwhile is served."""
    clients = [connect(server) for _ in range(50)]
    for one in clients:
        one.sendall(HEAD[:-10])
    assert server.post("/v1/embeddings", {"input": TEXTS}).status == 200
    for one in clients:
        with one:
            assert read_all(one).startswith(b"HTTP/1.1 408 ")


def test_headers_one_byte_at_a_time(server: Running) -> None:
    """Bytes do not extend the deadline."""
    with connect(server) as one:
        ended = threading.Event()
        replies: list[bytes] = []

        def read() -> None:
            replies.append(read_all(one))
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for byte in HEAD + b"x-long: " + b"y" * 10_000:
                if ended.wait(0.01):
                    break
                one.sendall(bytes([byte]))
        except OSError:
            pass
        reader.join(60)
    assert replies[0].startswith(b"HTTP/1.1 408 ")


def test_a_silent_connection_is_closed(server: Running) -> None:
    with connect(server) as one:
        assert read_all(one) == b""


def test_bodies_that_drip(server: Running) -> None:
    clients = [connect(server) for _ in range(50)]
    for one in clients:
        one.sendall(HEAD + b'content-length: 100\r\n\r\n{"input":')
    for one in clients:
        with one:
            answer = read_all(one)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'"code":"slow_body"' in answer


def test_headers_without_end(server: Running) -> None:
    with connect(server) as one:
        one.sendall(HEAD)
        with pytest.raises(OSError):  # noqa: PT012 - some write fails, once the server has closed the connection
            for i in range(100_000):
                one.sendall(b"x-%d: %s\r\n" % (i, b"y" * 1000))


def test_trailers_without_end(server: Running) -> None:
    with connect(server) as one:
        one.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        with pytest.raises(OSError):  # noqa: PT012
            for i in range(100_000):
                one.sendall(b"x-%d: %s\r\n" % (i, b"y" * 1000))


def test_a_reader_that_stops_reading(server: Running) -> None:
    """Its reply is dropped after the deadline, and the connection with it."""
    before = figure(server, 'embedrt_ended_connections{reason="slow_client"}')
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect((server.host, server.port))
        one.sendall(request_of({"input": ["x"] * 20000}))
        until(lambda: figure(server, 'embedrt_ended_connections{reason="slow_client"}') > before)
        read = read_all(one)
        assert read.startswith(b"HTTP/1.1 200 ")
        head, _, body = read.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        assert len(body) < int(length[1])


def test_100_megabytes_declared(patient: Running) -> None:
    """The answer comes before the body, and a client that sends first and reads later gets it too."""
    with connect(patient) as one:
        one.sendall(HEAD + b"content-length: 100000000\r\n\r\n")
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    answer = patient.post("/v1/embeddings", b'{"input":"' + b"x" * 100_000_000 + b'"}')
    assert answer.status == 413
    assert "1048576 bytes" in answer.json["error"]["message"]
    assert figure(patient, "process_resident_memory_bytes") < 2e9


def test_100_megabytes_in_chunks(patient: Running) -> None:
    with connect(patient) as one:
        one.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        block = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            for _ in range(100_000_000 // len(block)):
                one.sendall(block)
        except OSError:
            pass
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_many_large_bodies_at_once(patient: Running) -> None:
    """Together they take a bounded part of the memory; what came first is answered."""
    whole = request_of({"input": "x" * 1_000_000})
    patient.state.bodies.most, before = 10_000_000, patient.state.bodies.most
    clients = [connect(patient) for _ in range(30)]
    try:
        for one in clients:
            one.sendall(whole[:-2])
        until(lambda: patient.state.bodies.used > 9_000_000)
        assert patient.state.bodies.used < 11_000_000
        statuses = []
        for one in clients:
            one.sendall(whole[-2:])
            statuses.append(one.recv(1 << 12).split()[1])
        assert {b"200", b"429"} == {*statuses}
    finally:
        patient.state.bodies.most = before
        for one in clients:
            one.close()


def test_an_encoded_body(server: Running) -> None:
    answer = server.request("POST", "/v1/embeddings", b"\x1f\x8b", {"content-encoding": "gzip"})
    assert answer.status == 415


BAD = {
    "empty": b"",
    "no JSON": b"input=x",
    "cut": b'{"input": "x"',
    "trailing": b'{"input": "x"} {}',
    "UTF-16": '{"input": "x"}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"input": "x"}',
    "no UTF-8": b'{"input": "\xff\xfe"}',
    "lone surrogate": b'{"input": "\\ud800"}',
    "NaN": b'{"input": NaN}',
    "deep arrays": b"[" * 1_000_000,
    "deep objects": b'{"input":' * 100_000,
    "deep unknown field": b'{"input": "x", "other": ' + b"[" * 500_000,
    "null": b"null",
    "array": b"[]",
    "number": b"1",
    "no input": b"{}",
    "object": b'{"input": {}}',
    "mixed": b'{"input": ["x", 1.5]}',
    "nulls": b'{"input": [null]}',
    "long number": b'{"input": "x", "dimensions": ' + b"9" * 100_000 + b"}",
    "text for a number": b'{"input": "x", "dimensions": "y"}',
    "control character": b'{"input": "\x00"}',
    "zero bytes": bytes(1000),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_json(server: Running, name: str) -> None:
    answer = server.post("/v1/embeddings", BAD[name])
    assert answer.status == 400, answer.body[:200]
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_duplicate_keys_and_unknown_fields_are_no_error(server: Running) -> None:
    assert server.post("/v1/embeddings", b'{"input": "x", "input": "y", "user": "u", "new": [{}]}').status == 200


@given(st.binary(max_size=200))
def test_random_bodies(server: Running, body: bytes) -> None:
    assert server.post("/v1/embeddings", body).status in {200, 400}


@given(st.binary(max_size=400))
def test_random_bytes(server: Running, sent: bytes) -> None:
    """No request, no crash: an answer with status 400, or the connection ends by its deadline."""
    with connect(server) as one:
        one.sendall(sent)
        one.shutdown(socket.SHUT_WR)
        answer = read_all(one)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


def test_paths_do_not_get_around_keys(tiny_bundle: Path) -> None:
    settings = Settings((ModelSettings("tiny", str(tiny_bundle)),), keys=("secret-key", "other"))
    body = {"input": TEXTS}
    with serving(settings) as running:
        for path in (
            "/v1/embeddings",
            "/v1/embeddings/",
            "/v1//embeddings",
            "//v1/embeddings",
            "/v1/%65mbeddings",
            "/metrics/../v1/embeddings",
        ):
            assert running.post(path, body, host="metrics").status in {401, 404}
        bad = ("", "Bearer", "Bearer ", "Basic c2VjcmV0", "Bearer secret-ke", "bearer secret-key2", "secret-key")
        for value in bad:
            answer = running.post("/v1/embeddings", body, authorization=value)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "secret" not in answer.body.decode()
        good = ({"authorization": "Bearer secret-key"}, {"authorization": "bearer  other"}, {"api-key": "other"})
        for headers in good:
            assert running.request("POST", "/v1/embeddings", body, headers).status == 200
        assert running.get("/metrics").status == 200


def test_a_model_that_returns_nan(tmp_path: Path, tiny_bundle: Path) -> None:
    """The error names the text; the others of the batch, from other requests, are served."""
    bundle = copy_bundle(tiny_bundle, tmp_path / "nan")
    poison(bundle, "river", np.nan)
    with serving(Settings((ModelSettings("nan", str(bundle)),))) as running:
        answers: list[int] = []

        def ask(text: str) -> None:
            answers.extend(running.post("/v1/embeddings", {"input": ["bank", text]}).status for _ in range(10))

        clients = [threading.Thread(target=ask, args=(text,)) for text in ("river", "bank", "money", "river")]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        assert sorted(answers) == [200] * 20 + [500] * 20
        answer = running.post("/v1/embeddings", {"input": ["bank", "river"]})
        assert answer.json["error"]["message"] == "input[1]: the model returned NaN or infinity"
        assert b"nan" not in answer.body.lower().replace(b"returned nan", b"")
        assert figure(running, 'embedrt_errors_total{kind="backend",model="nan"}') == 21


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_thread(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the dead: requests in progress, new ones and health checks fail with status 503."""
    settings = Settings((ModelSettings("tiny", str(tiny_bundle)),), threads=1)
    with serving(settings) as running:
        assert running.server.metrics is not None
        ill, dying = threading.Event(), threading.Event()

        def die(batch: object) -> None:
            ill.set()
            dying.wait(60)
            raise SystemExit  # ends a thread without a word

        monkeypatch.setattr(running.server.metrics, "batch", die)
        first = threading.Thread(target=lambda: running.post("/v1/embeddings", {"input": TEXTS}))
        first.start()
        assert ill.wait(60)
        answers: list[int] = []
        waiting = threading.Thread(
            target=lambda: answers.append(running.post("/v1/embeddings", {"input": TEXTS}).status)
        )
        waiting.start()
        until(lambda: running.queues.by_device["cores"].waiting("query")[1] >= 2)
        dying.set()
        waiting.join(60)
        first.join(60)
        assert answers == [503]
        answer = running.post("/v1/embeddings", {"input": TEXTS})
        assert answer.status == 503
        assert "the engine has stopped" in answer.json["error"]["message"]
        check = asyncio.run_coroutine_threadsafe(running.state.models.served[0].check(), running.loop)
        with pytest.raises(RequestError, match="the engine has stopped"):
            check.result(60)
        assert running.get("/metrics").status == 200


@pytest.mark.subprocess
def test_descriptors_run_out(tmp_path: Path, tiny_bundle: Path) -> None:
    """With more clients than descriptors, those that wait longest for a request go, and new requests are served."""
    with process(tmp_path, {"tiny": tiny_bundle}, descriptors=200) as server:
        running = Address("127.0.0.1", server.port)
        clients = [connect(running) for _ in range(400)]
        assert running.post("/v1/embeddings", {"input": TEXTS}).status == 200
        assert len([*Path(f"/proc/{server.process.pid}/fd").iterdir()]) < 200
        busy = []
        for _ in range(200):  # all of them in the middle of a request
            one = connect(running)
            one.sendall(HEAD + b"content-length: 100\r\n\r\n{")
            busy.append(one)
        with connect(running) as another:
            another.sendall(request_of({"input": TEXTS}))
            assert read_all(another).startswith(b"HTTP/1.1 503 ")
        for one in (*clients, *busy):
            one.close()
        until(lambda: running.post("/v1/embeddings", {"input": TEXTS}).status == 200)
        server.send(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.subprocess
def test_a_log_that_nobody_reads(tmp_path: Path, tiny_bundle: Path) -> None:
    """Lines are dropped, requests are not."""
    with process(tmp_path, {"tiny": tiny_bundle}) as server:
        running = Address("127.0.0.1", server.port)
        server.reading.clear()
        connection = http.client.HTTPConnection(running.host, running.port, timeout=60)
        for _ in range(1000):  # twice what a pipe takes
            connection.request("GET", "/missing")
            response = connection.getresponse()
            response.read()
            assert response.status == 404
        connection.close()
        assert running.post("/v1/embeddings", {"input": TEXTS}).status == 200
        server.reading.set()
        server.send(signal.SIGTERM)
        assert server.wait() == 0
