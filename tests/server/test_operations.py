"""Keys, logs, metrics, requests of other origins, and connections, each with what only it does."""

import gzip
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from embedrt.errors import MissingDependencyError
from embedrt.server import tracing
from embedrt.server.keys import Keys, key_of, parse_keys
from embedrt.server.logs import Log, logging_to
from embedrt.server.settings import Limits, ModelSettings, Settings
from tests.kit.server import Answer, Running, serving

SECRET = "a-text-that-no-log-may-have"
KEY = "a-key-that-no-log-may-have"


@pytest.fixture(scope="module")
def settings(tiny_bundle: Path) -> Settings:
    return Settings((ModelSettings("tiny", str(tiny_bundle), aliases=("small",)),), keys=(KEY,))


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Running]:
    with serving(replace(settings, cors_origins=("https://app.example",))) as running:
        yield running


def embed(running: Running, body: Any, **headers: str) -> int:
    return running.post("/v1/embeddings", body, authorization=f"Bearer {KEY}", **headers).status


def metrics(running: Running) -> dict[tuple[str, ...], float]:
    """The value of each sample by its name and labels."""
    text = running.get("/metrics").body.decode()
    samples = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
    return {
        (name, *(f"{label}={value}" for label, value in sorted(re.findall(r'(\w+)="([^"]*)"', labels)))): float(value)
        for name, labels, value in samples
    }


class TestKeys:
    def test_lines(self) -> None:
        assert parse_keys("# ours\n one \n\ntwo\r\n", "keys.txt") == ("one", "two")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "keys.txt: expected at least one API key on a line of its own, found none"),
            ("# only a comment", "found none"),
            ("one\ntwo words", "key 2 has others"),
            ("schlüssel", "key 1 has others"),
        ],
    )
    def test_bad_files(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_keys(text, "keys.txt")

    def test_a_file_without_keys_does_not_open_the_server(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="found none"):
            Keys(path=_written(tmp_path / "keys", ""))
        with pytest.raises(FileNotFoundError):
            Keys(path=tmp_path / "missing")

    def test_a_changed_file_is_read_within_a_second(self, tmp_path: Path) -> None:
        now = [0.0]
        keys = Keys(["fixed"], _written(tmp_path / "keys", "old"), lambda: now[0])
        assert [keys.accept(_bearer(key)) for key in ("old", "new", "fixed")] == [True, False, True]
        _written(tmp_path / "other", "new-key").rename(tmp_path / "keys")
        now[0] = 0.9
        assert keys.accept(_bearer("old"))
        now[0] = 1.0
        assert [keys.accept(_bearer(key)) for key in ("old", "new-key", "fixed")] == [False, True, True]

    def test_a_damaged_file_keeps_the_keys(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        now = [0.0]
        keys = Keys(path=_written(tmp_path / "keys", "old"), clock=lambda: now[0])
        for step in (1, 2):
            if step == 1:
                _written(tmp_path / "keys", "")
            else:
                (tmp_path / "keys").unlink()
            now[0] = 10.0 * step
            assert keys.accept(_bearer("old"))
            assert not keys.accept(_bearer(""))
        assert [record.message.partition(":")[0] for record in caplog.records] == [
            "API keys were not reloaded, the old ones stay"
        ] * 2

    def test_no_keys_need_none(self) -> None:
        assert Keys().accept([])
        assert Keys().accept(_bearer(""))

    def test_headers(self) -> None:
        assert key_of([(b"api-key", b"x")]) == b"x"
        assert key_of([(b"authorization", b"BEARER  x ")]) == b"x"
        assert key_of([(b"authorization", b"Bearer x"), (b"api-key", b"y")]) == b"x"
        assert key_of([(b"authorization", b"Bearer "), (b"api-key", b"y")]) == b"y"
        assert key_of([(b"authorization", b"\xff")]) is None


class TestLogs:
    @pytest.mark.parametrize("style", ["plain", "json"])
    def test_no_text_no_key_and_no_path_of_a_client(self, settings: Settings, style: Any) -> None:
        output = BytesIO()
        with logging_to(output, style) as log, serving(settings, log=log) as running:
            embed(running, {"input": SECRET, "user": SECRET, f"field {SECRET}": 1, "new_field": SECRET})
            embed(running, {"input": SECRET, "model": "another"})
            embed(running, {"input": [SECRET, {}]})
            embed(running, {"input": SECRET, "dimensions": 10_000})
            embed(running, b'{"input": "' + SECRET.encode())
            running.post(f"/{SECRET}", {}, authorization=f"Bearer x{KEY}")
            running.post("/v1/embeddings", {"input": SECRET}, authorization=f"Bearer x{KEY}")
            running.get(f"/metrics?{SECRET}={KEY}")
            embed(running, {"input": "x"}, **{"x-request-id": "mine"})
            embed(running, {"input": "x"}, **{"x-request-id": "ours not"})
        written = output.getvalue().decode()
        assert SECRET not in written
        assert KEY not in written
        assert "new_field" in written
        assert "mine" in written
        assert "ours not" not in written
        if style == "json":
            entries = [json.loads(line) for line in written.splitlines()]
            requests = [entry for entry in entries if "request" in entry]
            assert len(requests) == 10
            assert {entry["route"] for entry in requests} == {"/v1/embeddings", "unmatched", "/metrics"}
            assert requests[0]["texts"] == 1
            assert requests[0]["tokens"] > 0

    def test_a_line_is_a_line(self) -> None:
        output = BytesIO()
        with logging_to(output, "plain"):
            logging.getLogger("embedrt.server").warning("one\ntwo\x1b[31m %s", "\r\nthree")
        assert output.getvalue().count(b"\n") == 1
        assert rb"one\x0atwo\x1b[31m \x0d\x0athree" in output.getvalue()

    def test_a_writer_that_blocks_stops_nobody(self) -> None:
        class Stuck(RawIOBase):
            """An output whose reader has stopped."""

            def write(self, data: Any) -> int:
                begun.set()
                go_on.wait(60)
                written.append(bytes(data))
                return len(data)

        written: list[bytes] = []
        begun, go_on = threading.Event(), threading.Event()
        log = Log(Stuck(), "plain")  # type: ignore[arg-type]  # it can write
        log.request({"first": 1})
        assert begun.wait(60)
        for _ in range(20_000):
            log.request({"route": "x"})
        go_on.set()
        log.close(60)
        lines = b"".join(written).splitlines()
        assert len(lines) == 10_002
        assert b"10000 lines of the log were dropped" in lines[-1]

    def test_a_full_disk_stops_nobody(self) -> None:
        with Path("/dev/full").open("wb", 0) as full, logging_to(full, "json") as log:
            log.request({"route": "x"})


class TestMetrics:
    def test_figures_of_requests(self, settings: Settings) -> None:
        settings = replace(settings, limits=Limits(request_texts=100))
        with serving(settings) as running:
            assert embed(running, {"input": "one"}) == 200
            assert embed(running, {"input": ["word " * 300, "two", "three"]}) == 200
            assert embed(running, {"input": []}) == 400
            assert embed(running, {"input": ["x"] * 101}) == 413
            assert running.post("/v1/embeddings", {"input": "x"}).status == 401
            assert running.get("/missing").status == 404
            found = metrics(running)
        route = ("model=tiny", "route=/v1/embeddings")
        assert found["embedrt_requests_total", *route, "status=200"] == 2
        assert found["embedrt_requests_total", "model=", "route=/v1/embeddings", "status=401"] == 1
        assert found["embedrt_requests_total", "model=", "route=unmatched", "status=404"] == 1
        assert found["embedrt_request_duration_seconds_count", *route] >= 2
        assert found["embedrt_request_duration_seconds_bucket", "le=0.001", *route] <= 2
        assert found["embedrt_texts_total", "model=tiny"] == 4
        assert found["embedrt_truncated_texts_total", "model=tiny"] == 1
        assert found["embedrt_errors_total", "kind=unauthorized", "model="] == 1
        assert found["embedrt_batch_fill_ratio_count", "lane=query", "model=tiny"] >= 2
        assert found["embedrt_queue_age_seconds_count", "lane=query", "model=tiny"] >= 2
        assert found["te_request_count", "method=single"] == 4
        assert found["te_request_count", "method=batch"] == 1
        assert found["te_request_success", "method=batch"] == 1
        assert found["te_request_failure", "err=batch_size"] == 1
        assert found["te_embed_count",] == 4
        assert found["te_request_duration_count",] == 2
        assert found["te_queue_size",] == 0
        assert found["embedrt_model_info", "device=cpu", "dtype=float32", "model=tiny", "task=embed"] == 1

    def test_names_types_and_buckets_are_those_of_tei(self, server: Running) -> None:
        text = server.get("/metrics").body.decode()
        kinds = dict(re.findall(r"^# TYPE (te_\S+) (\S+)$", text, re.MULTILINE))
        steps = ("", "_tokenization", "_queue", "_inference")
        histograms = {f"te_{what}{step}_duration" for what in ("request", "embed", "predict") for step in steps}
        histograms |= {"te_request_input_length", "te_batch_next_size", "te_batch_next_tokens"}
        counters = {f"te_request_{what}" for what in ("count", "success", "failure")}
        counters |= {f"te_{work}_{what}" for work in ("embed", "predict") for what in ("count", "success")}
        assert kinds == {
            **dict.fromkeys(histograms, "histogram"),
            **dict.fromkeys(counters, "counter"),
            "te_queue_size": "gauge",
        }
        bounds = [float(x) for x in re.findall(r'^te_request_duration_bucket\{le="([^"]+)"\}', text, re.MULTILINE)]
        assert len(bounds) == 36
        assert bounds[:2] == pytest.approx([1.5e-5, 2.25e-5])
        assert bounds[34] == pytest.approx(1e-5 * 1.5**35)

    def test_names_of_clients_make_no_labels(self, server: Running) -> None:
        names = []
        for start in (0, 25):
            for i in range(start, start + 25):
                server.get(f"/missing/{i}")
                embed(server, {"input": "x", "model": f"name-{i}"})
            names.append({*metrics(server)})
        assert names[0] == names[1]

    def test_a_port_of_their_own(self, settings: Settings) -> None:
        with serving(replace(settings, metrics_port=0)) as running:
            assert running.get("/metrics").status == 404
            assert running.metrics_port is not None
            own = replace(running, port=running.metrics_port)
            assert b"te_request_count" in own.get("/metrics").body
            assert own.post("/v1/embeddings", {"input": "x"}).status == 404

    def test_none(self, settings: Settings) -> None:
        with serving(replace(settings, metrics=False)) as running:
            assert running.get("/metrics").status == 404
            assert embed(running, {"input": "x"}) == 200


class TestOtherOrigins:
    @staticmethod
    def preflight(running: Running, origin: str) -> Answer:
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, x-stainless-lang, other",
        }
        return running.request("OPTIONS", "/v1/embeddings", None, asked)

    def test_a_preflight_needs_no_key(self, server: Running) -> None:
        answer = self.preflight(server, "https://app.example")
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        allowed = {*answer.headers["access-control-allow-headers"].split(", ")}
        assert {"authorization", "content-type", "api-key", "x-stainless-lang"} <= allowed
        assert "other" not in allowed

    def test_a_request(self, server: Running) -> None:
        headers = {"origin": "https://app.example", "authorization": f"Bearer {KEY}"}
        answer = server.post("/v1/embeddings", {"input": "x"}, **headers)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]

    def test_another_origin(self, server: Running) -> None:
        answers = (
            self.preflight(server, "https://evil.example"),
            server.post("/v1/embeddings", {"input": "x"}, origin="https://evil.example"),
        )
        assert [answer.status for answer in answers] == [405, 401]
        assert not any("access-control-allow-origin" in answer.headers for answer in answers)

    def test_off(self, settings: Settings) -> None:
        with serving(settings) as running:
            answer = self.preflight(running, "https://app.example")
            assert answer.status == 405
            assert answer.headers["allow"] == "POST"


class TestConnections:
    def test_java_asks_for_http_2_and_sends_its_body_at_once(self, server: Running) -> None:
        """Java's client does so with its first request, and the parser takes the body for another protocol."""
        body = b'{"input": "x"}'
        with socket.create_connection((server.host, server.port), timeout=60) as one:
            for upgrade in (
                b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n",
                b"",
            ):
                head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"
                one.sendall(head + upgrade + b"content-length: %d\r\n\r\n" % len(body) + body)
                assert _response(one).startswith(b"HTTP/1.1 200 ")

    def test_pipelined_requests_are_answered_in_order(self, server: Running) -> None:
        with socket.create_connection((server.host, server.port), timeout=60) as one:
            one.sendall(
                b"".join(b"GET /metrics HTTP/1.1\r\nhost: x\r\nx-request-id: %d\r\n\r\n" % i for i in range(20))
            )
            ids = [re.search(rb"x-request-id: (\d+)", _response(one)) for _ in range(20)]
        assert [found and int(found[1]) for found in ids] == [*range(20)]

    def test_expect_100(self, server: Running) -> None:
        """The body is asked for only if the request may pass."""
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 14\r\n"
        with socket.create_connection((server.host, server.port), timeout=60) as one:
            one.sendall(head + b"\r\n")
            assert one.recv(1000).startswith(b"HTTP/1.1 401 ")
        with socket.create_connection((server.host, server.port), timeout=60) as one:
            one.sendall(head + b"authorization: Bearer " + KEY.encode() + b"\r\n\r\n")
            assert one.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            one.sendall(b'{"input": "x"}')
            assert _response(one).startswith(b"HTTP/1.1 200 ")

    def test_an_idle_connection_is_closed(self, settings: Settings) -> None:
        with (
            serving(replace(settings, limits=Limits(idle_seconds=0.1))) as running,
            socket.create_connection((running.host, running.port), timeout=60) as one,
        ):
            one.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            assert _response(one).startswith(b"HTTP/1.1 200 ")
            assert one.recv(1) == b""

    def test_head_and_a_trailing_slash(self, server: Running) -> None:
        answer = server.request("HEAD", "/metrics")
        assert (answer.status, answer.body) == (200, b"")
        assert server.get("/metrics/").status == 200


def test_only_monotonic_clocks_measure(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day may jump."""
    root = Path(__file__).parents[2] / "embedrt"
    wall = re.compile(r"(?<![.\w])time\(\)|\btime\.time\b|datetime\.now|time_ns\(\)|utcnow")
    found = {
        path.name for path in (*root.glob("server/**/*.py"), root / "run/queue.py") if wall.search(path.read_text())
    }
    dialects = {"ollama.py", "openai.py", "vllm.py"}  # have the time of day in replies
    assert found <= {"logs.py", "serving.py", "tracing.py", *dialects}
    for jump in (1e9, -1e9, 4e9):
        monkeypatch.setattr("time.time", lambda jump=jump: jump)
        assert embed(server, {"input": "x"}) == 200


def test_traces_need_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(tracing, "import_module", missing)
    with pytest.raises(MissingDependencyError, match="pip install opentelemetry-sdk"):
        tracing.open_tracer("http://127.0.0.1:4318", "embedrt")


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + key.encode())]


def _response(one: socket.socket) -> bytes:
    """One response with its body, whose length is in a header."""
    read = b""
    while b"\r\n\r\n" not in read:
        read += one.recv(1)
    length = re.search(rb"content-length: (\d+)", read)
    assert length is not None
    end = len(read) + int(length[1])
    while len(read) < end:
        read += one.recv(end - len(read))
    return read


def test_traces(settings: Settings) -> None:
    """A span for each request, below that of the client, sent by the end of the server."""
    collected: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            collected.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
            with serving(replace(settings, otlp_endpoint=endpoint, otlp_service_name="ours")) as running:
                parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                assert embed(running, {"input": [SECRET, "two"]}, traceparent=parent) == 200
                assert embed(running, {"input": []}) == 400
        finally:
            collector.shutdown()
            thread.join()
    requests = [ExportTraceServiceRequest.FromString(body) for body in collected]
    (resource,) = (one for request in requests for one in request.resource_spans)
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "ours"
    good, bad = resource.scope_spans[0].spans
    assert good.name == bad.name == "POST /v1/embeddings"
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == tuple(parent.split("-")[1:3])
    values = {one.key: one.value for one in good.attributes}
    assert values["embedrt.texts"].int_value == 2
    assert values["http.response.status_code"].int_value == 200
    assert {one.key: one.value.string_value for one in bad.attributes}["error.type"] == "empty"
    assert 0 < good.end_time_unix_nano - good.start_time_unix_nano < 60e9
    assert SECRET.encode() not in b"".join(collected)
