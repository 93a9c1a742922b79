"""The guide to the module `sentence_transformers`: its shell lines run in an environment of their own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from embedrt.compat.hook import VARIABLE
from tests.kit.pages import ROOT, blocks, shell_lines

PAGE = ROOT / "docs" / "guides" / "drop-in.md"
LINES = [line for line in shell_lines(PAGE) if not line.startswith("pip ")]
SCRIPT = """\
import sys
from sentence_transformers import SentenceTransformer
assert SentenceTransformer("tiny", local_files_only=True).encode("one cat").shape == (32,)
print("done", *sys.argv[1:])
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with the packages of this one, and site-packages of its own."""
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=os.name != "nt")
    (packages,) = folder.rglob("site-packages")
    (packages / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return folder


def run(line: str, environment: Path, folder: Path, **variables: str) -> str:
    """Runs a shell line, and returns what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", VARIABLE}}
    path = os.pathsep.join([str(environment / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env={**inherited, "PATH": path, "HF_HUB_OFFLINE": "1", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def workplace(tmp_path: Path, tiny_bundle: Path, own_store: Path) -> Path:
    """A folder with the programs of the page."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("script.py", "my_program.py"):
        (folder / name).write_text(SCRIPT, encoding="utf-8")
    shutil.copytree(tiny_bundle, own_store / "bundles" / "sentence-transformers--tiny")
    return folder


@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform == "win32", reason="needs sh")
def test_the_lines_of_the_page(environment: Path, workplace: Path) -> None:
    assert len(LINES) == 5
    found = [run(line, environment, workplace) for line in LINES]
    assert [output for output in found if output.startswith("done")] == ["done --verbose\n"] * 2 + ["done\n"] * 2
    (wrote,) = [output for output in found if output.startswith("wrote ")]
    assert VARIABLE in wrote


@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform == "win32", reason="needs sh")
def test_the_hook_in_a_whole_environment(environment: Path, workplace: Path) -> None:
    loaded = "python -c \"import sys; print({'embedrt', 'numpy'} & set(sys.modules))\""
    active = 'python -c "from embedrt.compat import is_active; print(is_active())"'
    doctor = "python -m embedrt doctor | grep ^drop-in -A1"
    switched_on = {VARIABLE: "1", "EMBEDRT_MODEL": "tiny"}
    assert "the hook is missing; run `python -m embedrt.compat hook`" in run(
        doctor, environment, workplace, **switched_on
    )
    run("python -m embedrt.compat hook", environment, workplace)
    assert run(active, environment, workplace) == "False\n"
    assert run(active, environment, workplace, **switched_on) == "True\n"
    assert run(loaded, environment, workplace, **switched_on) == "set()\n"
    assert "in place (embedrt.compat)" in run(doctor, environment, workplace, **switched_on)
    assert f"ready for {VARIABLE}=1" in run(doctor, environment, workplace)
    assert run("python -m embedrt.compat unhook", environment, workplace).startswith("removed ")
    assert run("python -m embedrt.compat unhook", environment, workplace) == "there was no hook\n"
    assert run(active, environment, workplace, **switched_on) == "False\n"


def test_the_settings_of_uv() -> None:
    (block,) = blocks("toml", PAGE)
    assert tomllib.loads(block)["tool"]["uv"]["override-dependencies"][0].startswith("sentence-transformers ;")
