"""Scripts of sentence-transformers run with one line changed, its import, or as they are by `python -m embedrt.compat`.

tests/st_scripts has them: the calls of the page "Computing Embeddings" of its documentation, in words of our own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder

pytestmark = pytest.mark.subprocess

SCRIPTS = Path(__file__).parent / "st_scripts"
BEFORE = "from sentence_transformers import SentenceTransformer\n"
AFTER = "from embedrt import Embedder as SentenceTransformer\n"
TOLERANCE = 2e-6


@pytest.fixture
def workplace(tmp_path: Path, own_store: Path, minilm_bundle: Path) -> Path:
    """A folder to run in; the store has the model under its name on the hub."""
    shutil.copytree(minilm_bundle, own_store / "bundles" / "sentence-transformers--all-MiniLM-L6-v2")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture(params=["changed", "unchanged"])
def unchanged(request: pytest.FixtureRequest) -> bool:
    """Whether a script runs as it is."""
    is_unchanged: bool = request.param == "unchanged"
    return is_unchanged


def run(name: str, folder: Path, unchanged: bool) -> dict[str, Any]:
    """Runs a script; the last line that it prints is its result."""
    script = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    assert script.count(BEFORE) == 1
    (folder / "script.py").write_text(script if unchanged else script.replace(BEFORE, AFTER), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, *(["-m", "embedrt.compat"] if unchanged else []), "script.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def error(found: Any, expected: NDArray[np.float32]) -> float:
    assert np.shape(found) == expected.shape
    return float(np.abs(np.asarray(found) - expected).max())


def test_every_script_is_run() -> None:
    tested = {"encode", "prompts", "max_seq_length", "pickled", "stored", "processes"}
    assert {path.stem for path in SCRIPTS.glob("*.py")} == tested


def test_encode(workplace: Path, unchanged: bool, minilm: Embedder) -> None:
    found = run("encode", workplace, unchanged)
    texts = ["The ferry leaves at noon.", "Our boat departs at twelve.", "He collects old stamps."]
    vectors = minilm.encode(texts)
    assert found["shape"] == [3, 384]
    assert found["dimension"] == 384
    assert error(found["embeddings"], vectors) <= TOLERANCE
    assert error(found["similarities"], vectors @ vectors.T) <= TOLERANCE
    assert found["similarities"][0][1] > 0.5 > found["similarities"][0][2]


def test_prompts(workplace: Path, unchanged: bool, minilm: Embedder) -> None:
    found = run("prompts", workplace, unchanged)
    with_prompt = minilm.encode("Find a text like this: How are bricks fired?")
    for name in ("explicit", "by_name", "by_default", "set_later", "written_out"):
        assert error(found[name], with_prompt) <= TOLERANCE, name
    assert error(found["without"], minilm.encode("How are bricks fired?")) <= TOLERANCE
    assert error(found["without"], with_prompt) > 0.01


def test_max_seq_length(workplace: Path, unchanged: bool, minilm: Embedder) -> None:
    found = run("max_seq_length", workplace, unchanged)
    assert (found["before"], found["after"]) == (256, 200)
    assert error(found["whole"], minilm.encode("brick " * 254)) <= TOLERANCE
    assert error(found["cut"], minilm.encode("brick " * 198)) <= TOLERANCE
    assert error(found["same"], minilm.encode("brick " * 198)) <= TOLERANCE
    assert error(found["cut"], minilm.encode("brick " * 254)) > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["pickled", "stored"])
def test_stored(name: str, workplace: Path, unchanged: bool, minilm: Embedder) -> None:
    found = run(name, workplace, unchanged)
    texts = ["The ferry leaves at noon.", "He collects old stamps."]
    assert found["sentences"] == texts
    assert error(found["embeddings"], minilm.encode(texts)) <= TOLERANCE


@pytest.mark.slow
def test_processes(workplace: Path, unchanged: bool) -> None:
    found = run("processes", workplace, unchanged)
    assert found["shape"] == [40, 384]
    assert set(found["largest"]) == {"by_devices", "by_pool", "again", "old", "streamed"}
    assert max(found["largest"].values()) <= TOLERANCE
