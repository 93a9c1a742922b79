"""Processes that serve: signals, reloads, sockets, exit statuses."""

import asyncio
import http.client
import json
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.server.settings import ModelSettings, Settings
from embedrt.server.sockets import bound
from embedrt_export import export
from tests.kit.bundles import copy_bundle
from tests.kit.models import make_model
from tests.kit.server import serving
from tests.kit.server_process import process

BODY = {"input": ["one river", "two banks"]}

pytestmark = pytest.mark.subprocess


class Client:
    """A connection that is kept open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def embed(self, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request."""
        self.connection.request("POST", "/v1/embeddings", json.dumps(BODY), headers)
        response = self.connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


def test_sigterm_finishes_what_was_accepted(tmp_path: Path, tiny_bundle: Path) -> None:
    """Clients that send one request after the other lose none: the last reply says that the connection ends."""
    replies: list[int] = []
    lost: list[BaseException] = []
    running = threading.Barrier(9)

    def work(port: int) -> None:
        with Client(port) as client:
            try:
                client.embed()
                running.wait(60)
                while True:
                    status, headers, body = client.embed()
                    assert len(json.loads(body)["data"]) == 2
                    replies.append(status)
                    if headers.get("connection") == "close":
                        return
            except BaseException as error:
                lost.append(error)
                raise

    with process(tmp_path, {"tiny": tiny_bundle}) as server:
        clients = [threading.Thread(target=work, args=(server.port,)) for _ in range(8)]
        for one in clients:
            one.start()
        running.wait(60)
        while len(replies) < 50:
            assert not lost
        server.send(signal.SIGTERM)
        for one in clients:
            one.join(60)
        assert server.wait() == 0
    assert not lost
    assert {*replies} == {200}
    assert any("every accepted request has its reply" in line for line in server.lines)


def test_an_idle_server_ends_at_once_and_with_status_0(tmp_path: Path, tiny_bundle: Path) -> None:
    with process(tmp_path, {"tiny": tiny_bundle}) as server:
        assert server.port
        server.send(signal.SIGINT)
        assert server.wait() == 0


def test_a_second_signal_ends_at_once(tmp_path: Path, tiny_bundle: Path) -> None:
    with (
        process(tmp_path, {"tiny": tiny_bundle}) as server,
        socket.create_connection(("127.0.0.1", server.port)) as one,
        Client(server.port) as client,
    ):
        one.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert client.embed()[0] == 200
        server.send(signal.SIGTERM)
        server.wait_for("ending: 1 requests")
        server.send(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM


def test_the_deadline_of_the_end_cuts_requests(tmp_path: Path, tiny_bundle: Path) -> None:
    limits = {"shutdown_seconds": 0.2}
    with (
        process(tmp_path, {"tiny": tiny_bundle}, limits=limits) as server,
        socket.create_connection(("127.0.0.1", server.port)) as one,
        Client(server.port) as client,
    ):
        one.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert client.embed()[0] == 200
        server.send(signal.SIGTERM)
        assert server.wait() == 1
        assert any("1 requests were cut after 0.2 s" in line for line in server.lines)


def test_sighup_reloads_models_keys_and_prompts(tmp_path: Path, tiny_bundle: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\n")
    with process(tmp_path, {"tiny": tiny_bundle}, key_file=str(keys)) as server, Client(server.port) as client:
        assert client.embed()[0] == 401
        status, _, plain = client.embed(authorization="Bearer first")
        assert status == 200
        keys.write_text("second\n")
        model = {"name": "tiny", "source": str(tiny_bundle), "default_prompt": "query: "}
        server.rewrite(models=[model], port=1)
        server.send(signal.SIGHUP)
        server.wait_for("reloaded: tiny")
        assert client.embed(authorization="Bearer first")[0] == 401
        status, _, prompted = client.embed(authorization="Bearer second")
        assert status == 200
        one, other = (np.float32(json.loads(body)["data"][0]["embedding"]) for body in (plain, prompted))
        assert np.abs(one - other).max() > 1e-4
        assert any("a reload cannot change these settings, restart for them: port" in line for line in server.lines)


def test_a_reload_opens_a_replaced_bundle_and_keeps_the_others(tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = copy_bundle(tiny_bundle, tmp_path / "bundle")
    settings = Settings((ModelSettings("kept", str(tiny_bundle)), ModelSettings("replaced", str(bundle))))
    with serving(settings, lambda: settings) as running:
        kept, old = running.state.models.served
        before = running.post("/v1/embeddings", {**BODY, "model": "replaced"}).json["data"]
        export(make_model(tmp_path / "another", seed=1), bundle, overwrite=True)
        asyncio.run_coroutine_threadsafe(running.server.reload(), running.loop).result(60)
        assert running.state.models.served[0] is kept
        assert running.state.models.served[1] is not old
        assert running.post("/v1/embeddings", {**BODY, "model": "replaced"}).json["data"] != before


def test_a_bad_reload_keeps_the_old_state(tmp_path: Path, tiny_bundle: Path) -> None:
    with process(tmp_path, {"tiny": tiny_bundle}) as server, Client(server.port) as client:
        before = client.embed()[2]
        server.rewrite(models=[{"name": "tiny", "source": str(tmp_path)}])
        server.send(signal.SIGHUP)
        assert "the old one stays" in server.wait_for("the configuration was not reloaded")
        server.settings.write_text("{")
        server.send(signal.SIGHUP)
        server.wait_for("Expecting property name")
        assert client.embed()[2] == before


def test_a_port_in_use_and_a_missing_model_end_with_an_error(tmp_path: Path, tiny_bundle: Path) -> None:
    settings = Settings((ModelSettings("tiny", str(tiny_bundle)),), port=0)
    with bound(settings) as taken:
        taken[0].listen()
        port = taken[0].getsockname()[1]
        with (
            pytest.raises(OSError, match=rf"127\.0\.0\.1, port {port}: .* with --port"),
            bound(Settings(settings.models, port=port)),
        ):
            pass


def test_a_unix_socket(tmp_path: Path, tiny_bundle: Path, tiny: Embedder) -> None:
    path = tmp_path / "embedrt.sock"
    settings = Settings((ModelSettings("tiny", str(tiny_bundle)),), socket=path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # left over by a server that died
    with serving(settings), socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))
        body = json.dumps(BODY).encode()
        one.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nconnection: close\r\n")
        one.sendall(b"content-length: %d\r\n\r\n" % len(body) + body)
        with one.makefile("rb") as stream:
            data = json.loads(stream.read().partition(b"\r\n\r\n")[2])["data"]
        np.testing.assert_allclose([item["embedding"] for item in data], tiny.encode(BODY["input"]), atol=1e-6)
        with pytest.raises(OSError, match="another server listens there"), bound(settings):
            pass
    assert not path.exists()
