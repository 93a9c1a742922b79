"""A server with the real all-MiniLM-L6-v2, and programs of its clients in an environment of their own."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from embedrt.server.settings import ModelSettings, Settings
from tests.kit.clients import TEXTS, npm_version, package_version
from tests.kit.pages import ROOT
from tests.kit.server import Running, serving

MODEL = "all-MiniLM-L6-v2"
RERANKER = "reranker"
PROGRAMS = Path(__file__).parent / "programs"
CLIENTS = Path(os.environ.get("EMBEDRT_CLIENTS", ROOT / ".venv-clients")).absolute()
PYTHON = CLIENTS / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
# As many as OpenAI takes in a request.
MANY = [f"{TEXTS[i % 3]} {i}" for i in range(2048)]

Program = Callable[..., Any]


@pytest.fixture(scope="session")
def server(minilm_bundle: Path, reranker_bundle: Path) -> Iterator[Running]:
    """A server with the real model and a cross-encoder."""
    models = (ModelSettings(MODEL, str(minilm_bundle)), ModelSettings(RERANKER, str(reranker_bundle)))
    with serving(Settings(models)) as running:
        yield running


def environment(folder: Path) -> dict[str, str]:
    """The environment of a program: a home of its own, no proxy, no telemetry, nothing that warns in silence."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "TIKTOKEN_CACHE_DIR": str(vocabulary().parent),
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "ANONYMIZED_TELEMETRY": "False",
        "LANGSMITH_TRACING": "false",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "NODE_PATH": str(CLIENTS / "node_modules"),
    }


def vocabulary() -> Path:
    """The vocabulary of cl100k_base in tiktoken's format: a package of LlamaIndex has it."""
    # The name is the SHA-1 of the address that tiktoken would download it from.
    return next(CLIENTS.glob("**/llama_index/core/_static/tiktoken_cache/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"))


def version(package: str) -> str:
    """The package of a client in Python and its version."""
    return package_version(package, CLIENTS)


def javascript_version(package: str) -> str:
    """The package of a client in JavaScript and its version."""
    return npm_version(package, CLIENTS)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run a program of a client against a server; returns what it prints."""

    def run(name: str, server: Running, **given: Any) -> Any:
        return outcome(PROGRAMS / name, tmp_path, {"url": server.url, "model": MODEL, "texts": TEXTS, **given})

    return run


def outcome(path: Path, folder: Path, given: Mapping[str, Any]) -> Any:
    """The result of a program: it reads JSON and prints JSON."""
    if path.suffix == ".mjs":
        # Modules of JavaScript are searched from their own folder upwards.
        shutil.copy(path, CLIENTS / path.name)
        command = [shutil.which("node") or "node", str(CLIENTS / path.name)]
    else:
        command = [str(PYTHON), str(path)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{path.name}\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout)
