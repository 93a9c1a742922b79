"""Tutorials: every file is saved, every command pasted, in order, in an empty folder, and the output is compared."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.kit.pages import FOLLOWED, ROOT, text
from tests.kit.tutorials import compare, follow, programs, steps

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not (shutil.which("bash") and shutil.which("curl")), reason="needs bash and curl"
)
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SECTIONS = ["If it fails", "Next"]
# Steps whose length does not matter; the guide to tuning measures in the tests of its own.
SHORTER = {
    "20000": "600",
    "5 of 5 parts": "4 of 4 parts",
    "--part-rows 4096": "--part-rows 150",
    "embedrt tune minilm/ --seconds 30": "embedrt tune minilm/ --clear",
}


class Chat(BaseHTTPRequestHandler):
    """A language model that answers with the first passage of the prompt."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        passage = body["messages"][0]["content"].split("\n\n")[1]
        reply = json.dumps({"choices": [{"message": {"content": passage}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        del format, args


@pytest.fixture
def chat() -> Iterator[int]:
    """The port of a server with OpenAI's API for chats."""
    with HTTPServer(("127.0.0.1", 0), Chat) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def end(state: Path) -> None:
    """End the servers that a tutorial has started."""
    for file in state.glob("*.pid"):
        try:
            os.kill(int(file.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_every_tutorial_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, minilm_bundle: Path, request: pytest.FixtureRequest
) -> None:
    models = {MINILM: minilm_bundle}
    words = text(page)
    shorter = dict(SHORTER)
    if "cross-encoder/" in words:
        models["cross-encoder/ms-marco-MiniLM-L6-v2"] = request.getfixturevalue("reranked") / "reranker-bundle"
    if "--dtype int8" in words:
        for dtypes in ("int8", "float32,int8"):
            models[f"{MINILM} {dtypes}"] = request.getfixturevalue("minilm_int8_bundle")
    if "127.0.0.1:11434" in words:
        shorter["127.0.0.1:11434"] = f"127.0.0.1:{request.getfixturevalue('chat')}"
    port = free_port()
    shorter |= {f"{address}:8080": f"{address}:{port}" for address in ("127.0.0.1", "0.0.0.0")}
    folder = tmp_path / "empty"
    folder.mkdir()
    state = tmp_path / "state"
    environment = programs(tmp_path / "programs", models) | {"STAND_IN_PORT": str(port), "STAND_IN_STATE": str(state)}
    try:
        follow(page, folder, environment, shorter)
    finally:
        end(state)


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_every_tutorial_has_the_same_form(page: Path) -> None:
    head = text(page).partition("\n## ")[0]
    assert "**At the end**" in head
    assert "**You need**" in head
    sections = re.findall(r"^## (.+)$", text(page), re.MULTILINE)
    assert sections[-2:] == SECTIONS
    assert sections[0].startswith("1. ")
    kinds = [step.kind for step in steps(page)]
    assert "sh" in kinds
    assert "text" in kinds
    files = [step.title for step in steps(page) if step.title]
    assert all(f"`{file}`" in text(page) for file in files), "a file is saved under a name that the text has"


def test_shorter_commands_are_those_of_the_tutorials() -> None:
    assert all(any(part in text(page) for page in FOLLOWED) for part in SHORTER)


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        ("0.52  a note", "0.53  a note\n", True),
        ("0.52  a note", "0.58  a note", False),
        ("0.52  a note", "0.52  another", False),
        ("...\nlast ...", "one\ntwo\nlast line\n", True),
        ("...\nlast 1.0", "one\nlast 2.0", False),
        ("[0.6..., 1.5e-08]", "[0.6624, 1.5e-08]", True),
        ("[0.6...]", "[0.7]", False),
        ("5 of 5 parts", "4 of 4 parts", False),
    ],
)
def test_output_is_compared(expected: str, got: str, equal: bool) -> None:
    if equal:
        compare(expected, got)
    else:
        with pytest.raises(AssertionError, match="expected:"):
            compare(expected, got)


def test_the_unit_of_the_raspberry_pi_is_valid(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    (unit,) = [step for step in steps(ROOT / "docs/tutorials/raspberry-pi.md") if step.title == "embedrt.service"]
    file = tmp_path / unit.title
    command = re.sub(r"^(ExecStart=)\S+", rf"\g<1>{shutil.which('true')}", unit.content, flags=re.MULTILINE)
    file.write_text(re.sub(r"^User=.*\n", "", command, flags=re.MULTILINE), encoding="utf-8")
    done = subprocess.run([program, "verify", str(file)], capture_output=True, text=True, check=False)
    assert file.name not in done.stderr, done.stderr


def test_the_dockerfile_has_no_findings(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed")
    (file,) = [step for step in steps(ROOT / "docs/tutorials/container.md") if step.title == "Dockerfile"]
    path = tmp_path / file.title
    path.write_text(file.content, encoding="utf-8")
    # Pinned versions are left to the reader, and a step of its own for the model keeps the packages in the cache.
    done = subprocess.run(
        [str(program), "--ignore", "DL3013", "--ignore", "DL3059", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
