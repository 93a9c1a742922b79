"""A process that ends while its threads encode ends at once, with its own status, and says nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.subprocess

SCRIPT = """
import atexit, os, sys, threading
from pathlib import Path
import embedrt
from embedrt.inputs.text import TextTokenizer

folder, action, end = sys.argv[1:]
ready = threading.Semaphore(0)
texts = [f"{'one two ' * (i % 40)} {i}" for i in range(300)]

def loop(act, count):
    def work():
        while True:
            act()
            ready.release()
    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(3 * count):
        assert ready.acquire(timeout=60)

def main():
    model = embedrt.Embedder(folder, threads=2)
    if end == "atexit":
        expected = model.encode(texts)
        def check():
            assert abs(model.encode(texts[7]) - expected[7]).max() < 2e-6
            assert abs(model.encode(texts) - expected).max() < 2e-6
            os.write(1, b"encoded")
        checks.append(check)
    if action == "single":
        loop(lambda: model.encode("one cat"), 6)
    elif action == "list":
        loop(lambda: model.encode(texts), 2)
    elif action == "load":
        loop(lambda: embedrt.Embedder(folder, threads=1).encode("one cat"), 3)
    elif action == "tokenize":
        tokenizer = TextTokenizer(Path(folder) / "tokenizer.json", max_seq_length=64, with_type_ids=False)
        loop(lambda: tokenizer(texts), 3)
    elif action == "pool":
        pool = model.start_multi_process_pool(["cpu", "cpu"])
        loop(lambda: model.encode(texts, pool=pool), 2)
    if end == "3":
        sys.exit(3)
    if end == "1":
        raise LookupError("the end")

checks = []
if __name__ == "__main__":
    main()
"""
# Registered before the import, so that it runs after embedrt's own.
BEFORE = "import atexit\natexit.register(lambda: [check() for check in checks])\n"


def run(bundle: Path, folder: Path, action: str, ends: list[str]) -> list[tuple[int, str, str]]:
    """Status, output and errors of processes that end while their threads work."""
    script = folder / "script.py"
    script.write_text(BEFORE + SCRIPT)
    processes = [
        subprocess.Popen(
            [sys.executable, script, bundle, action, end],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONFAULTHANDLER": ""},
        )
        for end in ends
    ]
    found = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        found.append((process.returncode, output, errors))
    return found


@pytest.mark.parametrize("action", ["single", "list", "load", "tokenize", "pool"])
def test_the_status_is_the_processs_own(tiny_bundle: Path, tmp_path: Path, action: str) -> None:
    for _ in range(3):
        normal, exit_3, uncaught = run(tiny_bundle, tmp_path, action, ["0", "3", "1"])
        assert normal == (0, "", "")
        assert exit_3 == (3, "", "")
        assert uncaught[0] == 1
        assert uncaught[2].splitlines()[-1] == "LookupError: the end"
        assert uncaught[2].count("Traceback") == 1


@pytest.mark.parametrize("action", ["single", "list"])
def test_an_exit_handler_may_encode(tiny_bundle: Path, tmp_path: Path, action: str) -> None:
    assert run(tiny_bundle, tmp_path, action, ["atexit"] * 3) == [(0, "encoded", "")] * 3
