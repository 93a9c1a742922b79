"""The code of the guides that needs torch."""

from pathlib import Path

import pytest

from tests.kit.pages import INTEGRATION_PAGES, TORCH_BLOCKS, titled_blocks


@pytest.mark.parametrize("title", TORCH_BLOCKS)
def test_a_block_runs(title: str, minilm_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").symlink_to(minilm_bundle)
    monkeypatch.chdir(tmp_path)
    (code,) = (
        blocks[title] for blocks in (titled_blocks("python", one) for one in INTEGRATION_PAGES) if title in blocks
    )
    exec(compile(code, title, "exec"), {"__name__": "__main__"})
