"""The code of the guide, each block against a running server: the clients of the page on serving."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from embedrt import CrossEncoder, Embedder
from tests.clients.conftest import CLIENTS, outcome
from tests.kit.pages import ROOT, blocks, shell_lines, titled_blocks
from tests.kit.server import Running

GUIDE = ROOT / "docs" / "guides" / "serving.md"
ADDRESS = "http://127.0.0.1:8080"
PYTHON_CODE = titled_blocks("python", GUIDE)
JAVASCRIPT_CODE = titled_blocks("javascript", GUIDE)
QUERY = "How do otters sleep?"
# What each block makes, if it is not `vector`.
RESULTS = {"OpenAI": "vectors[0]", "Cohere": "scores"}


def program(folder: Path, code: str, name: str, server: Running) -> Path:
    """The code of a block as a program for this server that prints its result."""
    assert ADDRESS in code
    path = folder / name
    path.write_text(code.replace(ADDRESS, server.url), encoding="utf-8")
    return path


@pytest.mark.parametrize("title", PYTHON_CODE)
def test_python(title: str, server: Running, minilm: Embedder, reranker_bundle: Path, tmp_path: Path) -> None:
    result = RESULTS.get(title, "vector")
    code = f"{PYTHON_CODE[title]}\nimport json\nprint(json.dumps({result}, default=lambda value: value.tolist()))\n"
    found = outcome(program(tmp_path, code, "guide.py", server), tmp_path, {})
    if title == "Cohere":
        documents = ["The stadium is full.", "Sea otters hold hands while asleep."]
        ranked = CrossEncoder(reranker_bundle).rank(QUERY, documents)
        assert [index for index, _ in found] == [hit["corpus_id"] for hit in ranked]
        return
    np.testing.assert_allclose(found, np.asarray(minilm.encode(QUERY)), atol=1e-6)


@pytest.mark.skipif(
    shutil.which("node") is None or not (CLIENTS / "node_modules").is_dir(), reason="needs node and npm"
)
@pytest.mark.parametrize("title", JAVASCRIPT_CODE)
def test_javascript(title: str, server: Running, minilm: Embedder, tmp_path: Path) -> None:
    code = f"{JAVASCRIPT_CODE[title]}\nconsole.log(JSON.stringify(vector));\n"
    found = outcome(program(tmp_path, code, "guide.mjs", server), tmp_path, {})
    np.testing.assert_allclose(found, np.asarray(minilm.encode(QUERY)), atol=1e-6)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(server: Running, minilm: Embedder) -> None:
    (line,) = [line for line in shell_lines(GUIDE) if line.startswith("curl ")]
    command = [*shlex.split(line.replace(ADDRESS, server.url)), "--silent", "--noproxy", "*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    vector = json.loads(done.stdout)["data"][0]["embedding"]
    np.testing.assert_allclose(vector, np.asarray(minilm.encode(QUERY)), atol=1e-6)


def test_the_error_in_the_guide_is_what_the_server_says(server: Running) -> None:
    (block,) = blocks("json", GUIDE)
    answer = server.post("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": ["a text", 1]})
    assert answer.status == 400
    assert answer.json == json.loads(block)


def test_the_numbers_in_the_guide_are_the_defaults(server: Running) -> None:
    page, limits = GUIDE.read_text(encoding="utf-8"), server.state.settings.limits
    for said in (
        f"may have {limits.request_texts:,} texts and {limits.body_bytes // 2**20} MiB",
        f"When {limits.requests} requests or {limits.waiting_texts:,} texts wait",
        f"after {limits.header_seconds:.0f} s without complete headers",
        f"{limits.body_seconds:.0f} s without a complete body",
        f"`http://{server.state.settings.host}:{server.state.settings.port}`",
    ):
        assert said in page
