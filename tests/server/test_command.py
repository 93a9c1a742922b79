"""`embedrt serve` as users start it: flags, variables and a file, a reload, and its end."""

import json
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest

from embedrt import Embedder
from tests.kit.server_process import Process, running

pytestmark = pytest.mark.subprocess
SERVE = [sys.executable, "-m", "embedrt", "serve"]


def post(server: Process, path: str, body: Any, **headers: str) -> Any:
    request = Request(f"http://127.0.0.1:{server.port}{path}", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def test_a_drop_in_for_text_embeddings_inference(tmp_path: Path, tiny_bundle: Path, tiny: Embedder) -> None:
    """The variables of its charts and compose files are enough."""
    variables = {
        "MODEL_ID": str(tiny_bundle),
        "PORT": "0",
        "HOSTNAME": "127.0.0.1",
        "API_KEY": "a-key",
        "MAX_CLIENT_BATCH_SIZE": "2",
        "MAX_BATCH_TOKENS": "16384",
        "AUTO_TRUNCATE": "true",
        "JSON_OUTPUT": "true",
    }
    with running(SERVE, tmp_path, **variables) as server:
        found = post(server, "/embed", {"inputs": ["one", "two"]}, authorization="Bearer a-key")
        np.testing.assert_allclose(found, tiny.encode(["one", "two"]), atol=1e-6)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    lines = [json.loads(line) for line in server.lines]
    assert lines[0]["message"].startswith("MAX_BATCH_TOKENS: without effect here: ")
    assert sum("without effect" in line.get("message", "") for line in lines) == 1
    assert "a-key" not in "".join(server.lines)


def test_a_file_is_read_again(tmp_path: Path, tiny_bundle: Path, tiny: Embedder) -> None:
    """SIGHUP takes what changed in the file; what flags say stays, and a bad file changes nothing."""
    file = tmp_path / "serve.toml"
    model = f'[[models]]\nname = "a"\nsource = {json.dumps(str(tiny_bundle))}\n'
    file.write_text(f"port = 1\nstrict_model = true\n{model}", encoding="utf-8")
    expected = tiny.encode(["one"])
    with running([*SERVE, "--config", str(file), "--port", "0"], file) as server:
        body = {"input": ["one"], "model": "a"}
        np.testing.assert_allclose(post(server, "/v1/embeddings", body)["data"][0]["embedding"], expected[0], atol=1e-6)
        file.write_text("port = 1\nstrict_modle = true\n", encoding="utf-8")
        server.send(signal.SIGHUP)
        server.wait_for(r"was not reloaded.*strict_modle: unknown key; did you mean strict_model\?")
        assert post(server, "/v1/embeddings", body)["model"] == "a"
        file.write_text(f'strict_model = true\n{model}aliases = ["b"]\n', encoding="utf-8")
        server.send(signal.SIGHUP)
        server.wait_for("reloaded: a")
        assert post(server, "/v1/embeddings", {**body, "model": "b"})["model"] == "a"
        server.send(signal.SIGTERM)
        assert server.wait() == 0
