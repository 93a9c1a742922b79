"""What tests of the docs share: a core for each process, and the cross-encoder of the examples."""

import ast
import gzip
import os
import shutil
import string
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.kit.pages import ROOT
from tests.kit.shared_folders import shared_folder


@pytest.fixture(autouse=True)
def _one_core(request: pytest.FixtureRequest) -> None:
    """A core for each process of the run, and for the commands that it runs: their threads would only spin."""
    if request.path.stem != "test_many_cores":
        request.getfixturevalue("one_core")


@pytest.fixture(scope="session")
def reranked(tmp_path_factory: pytest.TempPathFactory, minilm_bundle: Path) -> Path:
    """A folder in which `retrieve_and_rerank.py` has measured: its output, a dictionary, and `reranker-bundle`."""

    def make(folder: Path) -> None:
        home = folder / "home"
        shutil.copytree(
            minilm_bundle, home / "bundles" / "sentence-transformers--all-MiniLM-L6-v2", copy_function=os.link
        )
        dictionary = write_dictionary(folder)
        with (folder / "output.txt").open("w", encoding="utf-8") as output:
            for program, *arguments in (
                ("reranker.py", "reranker"),
                ("retrieve_and_rerank.py", "--dictionary", str(dictionary)),
            ):
                subprocess.run(
                    [sys.executable, "-W", "error", str(ROOT / "examples" / program), *arguments],
                    cwd=folder,
                    env={**os.environ, "HF_HUB_OFFLINE": "1", "EMBEDRT_HOME": str(home)},
                    stdout=output,
                    timeout=500,
                    check=True,
                )

    return shared_folder(tmp_path_factory, "reranked", make)


def write_dictionary(folder: Path) -> Path:
    """Modules of Python and what they are for, in the format of dictd."""
    content, index = b"", ""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
        text = " ".join((ast.get_docstring(ast.parse(path.read_bytes())) or "").split())
        entry = f"{path.stem}\n\n   {text}\n".encode()
        index += f"{path.stem}\t{in_base_64(len(content))}\t{in_base_64(len(entry))}\n"
        content += entry
    (folder / "modules.dict.dz").write_bytes(gzip.compress(content))
    (folder / "modules.index").write_text(index, encoding="utf-8")
    return folder / "modules.dict.dz"


def in_base_64(number: int) -> str:
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    return (in_base_64(number // 64) if number >= 64 else "") + digits[number % 64]
