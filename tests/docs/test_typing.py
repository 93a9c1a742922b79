"""A type checker infers the result of the common calls, as tests/kit/typing_cases.py has it, and finds wrong ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "kit" / "typing_cases.py"


@pytest.mark.slow
@pytest.mark.subprocess
def test_types_are_inferred_and_wrong_ones_are_found(tmp_path: Path) -> None:
    """The file as it is, and with three changes: three messages. One process, as it reads numpy's types first."""
    text = CASES.read_text(encoding="utf-8")
    assert text.count("assert_type(") > 30
    (tmp_path / "typed.py").write_text(text, encoding="utf-8")
    for right, wrong in (
        ('precision="int8"), NDArray[Any]', 'precision="int8"), NDArray[np.int8]'),
        ("model.encode(5)  # type: ignore[call-overload]", "model.encode(5)"),
        ('model.encode(texts, precision="float16")', 'model.encode(texts, precision="binary")'),
    ):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    (tmp_path / "mistyped.py").write_text(text, encoding="utf-8")

    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, str(tmp_path / "typed.py"), str(tmp_path / "mistyped.py")],
        cwd=ROOT,
        env={**os.environ, "MYPY_FORCE_COLOR": "0"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    for message in ("Expression is of type", "No overload variant", 'Unused "type: ignore'):
        assert message in done.stdout
    assert "Found 3 errors in 1 file (checked 2 source files)" in done.stdout
    assert "mistyped.py" in done.stdout
    assert "/typed.py" not in done.stdout
