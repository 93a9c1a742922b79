"""The programs in `examples/` run as they stand, and what they print makes sense."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.pages import ROOT

EXAMPLES = ROOT / "examples"
MODEL = "sentence-transformers--all-MiniLM-L6-v2"
QUERY = "how does inheritance look up an attribute"


@pytest.fixture
def store(own_store: Path, minilm_bundle: Path) -> Path:
    """A store that has the default model."""
    shutil.copytree(minilm_bundle, own_store / "bundles" / MODEL, copy_function=os.link)
    return own_store


def run(name: str, folder: Path, *arguments: str) -> str:
    """The output of a program, which runs in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.subprocess
def test_similarity(store: Path, tmp_path: Path) -> None:
    rows = [
        [float(value) for value in re.findall(r"-?\d\.\d\d", line)]
        for line in run("similarity.py", tmp_path).splitlines()
    ]
    matrix = [row for row in rows if row]
    assert [row[i] for i, row in enumerate(matrix)] == [1, 1, 1, 1]
    assert min(matrix[0][1], matrix[2][3]) > 0.4
    assert max(matrix[0][2], matrix[1][3]) < 0.2


@pytest.mark.slow
@pytest.mark.subprocess
def test_semantic_search_stores_its_vectors_and_reuses_them(store: Path, tmp_path: Path) -> None:
    first = run("semantic_search.py", tmp_path, QUERY)
    stored = tmp_path / "python-topics.npy"
    written = stored.stat().st_mtime_ns
    again = run("semantic_search.py", tmp_path, QUERY)
    assert first.startswith("encoding ")
    assert again.startswith("reading ")
    assert stored.stat().st_mtime_ns == written
    hits = [line for line in again.splitlines() if re.match(r"0\.\d\d  ", line)]
    assert len(hits) == 5
    assert hits == [line for line in first.splitlines() if re.match(r"0\.\d\d  ", line)]
    assert hits[0].split()[1] == "attribute-references:"
    assert {line.split()[1] for line in hits} <= {"attribute-references:", "attribute-access:", "class:", "types:"}


@pytest.mark.slow
@pytest.mark.subprocess
def test_rag_finds_the_passage_that_answers(store: Path, tmp_path: Path) -> None:
    output = run("rag.py", tmp_path, "How do I compare two text files?")
    modules = re.findall(r"^\[\d\] module (\w+) ", output, re.MULTILINE)
    assert len(modules) == 3
    assert {"difflib", "filecmp"} <= set(modules)
    assert output.endswith("Question: How do I compare two text files?\n")


@pytest.mark.slow
@pytest.mark.subprocess
def test_long_document_shows_what_context_adds(store: Path, tmp_path: Path) -> None:
    output = run("long_document.py", tmp_path)
    windows = re.search(r"256 tokens at a time: (\d+) windows", output)
    assert windows is not None
    assert int(windows[1]) > 3
    scores = re.findall(r"^ *(-?0\.\d\d) +(-?0\.\d\d)  (\w+)", output, re.MULTILINE)
    assert [word for *_, word in scores] == ["Berlin", "It", "The"]
    for alone, in_context, word in scores[1:]:
        assert float(in_context) > float(alone) + 0.1, word


@pytest.mark.slow
@pytest.mark.subprocess
def test_retrieve_and_rerank(store: Path, reranked: Path) -> None:
    measured = (reranked / "output.txt").read_text(encoding="utf-8")
    found = re.search(r"nDCG@10 retrieved (0\.\d+), reranked (0\.\d+), both (0\.\d+)\n$", measured)
    assert found is not None, measured
    assert min(map(float, found.groups())) > 0.3
    assert measured.startswith("reranker\nexporting reranker-bundle\n")
    query = "reading files of comma separated values"
    answer = run("retrieve_and_rerank.py", reranked, "--dictionary", str(reranked / "modules.dict.dz"), query)
    assert len(answer.splitlines()) == 5


def test_every_example_is_run_here() -> None:
    code = Path(__file__).read_text(encoding="utf-8") + Path(__file__).with_name("conftest.py").read_text(
        encoding="utf-8"
    )
    assert not [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in code]
