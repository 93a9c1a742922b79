"""Which reference an export takes, and what happens where it fails."""

from pathlib import Path

import pytest

from embedrt.errors import ExportError
from embedrt_export import export


def test_a_broken_sentence_transformers_is_told_and_not_replaced(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "sentence_transformers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('a library is missing')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(ExportError, match=r"sentence-transformers is installed, .*a library is missing"):
        export(tiny_source, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
