"""A type checker infers the result of the common calls, as tests/kit/typing_cases.py has it, and finds wrong ones."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "kit" / "typing_cases.py"


def check(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs mypy on a file with this text, with the settings of the project."""
    (folder / "typed.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [*command, "--cache-dir", str(folder / "cache"), str(folder / "typed.py")],
        cwd=ROOT,
        env={**os.environ, "MYPY_FORCE_COLOR": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_types(tmp_path: Path) -> None:
    text = CASES.read_text(encoding="utf-8")
    assert text.count("assert_type(") > 30
    done = check(text, tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_wrong_type_is_found(tmp_path: Path) -> None:
    """Three changes to the file, three messages."""
    text = CASES.read_text(encoding="utf-8")
    for right, wrong in (
        ('precision="int8"), NDArray[Any]', 'precision="int8"), NDArray[np.uint8]'),
        ("model.encode(5)  # type: ignore[call-overload]", "model.encode(5)"),
        ('model.encode(texts, precision="float16")', 'model.encode(texts, precision="binary")'),
    ):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    done = check(text, tmp_path)
    assert done.returncode == 1
    for message in ("Expression is of type", "No overload variant", 'Unused "type: ignore'):
        assert message in done.stdout
    assert "Found 3 errors" in done.stdout
