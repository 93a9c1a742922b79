"""The code of the guides about frameworks: every block with a title runs, beside a bundle and a reranker."""

import os
import shutil
from pathlib import Path

import pytest

from tests.kit.pages import CLUSTER_BLOCKS, INTEGRATION_PAGES, TORCH_BLOCKS, titled_blocks

BLOCKS = {title: code for page in INTEGRATION_PAGES for title, code in titled_blocks("python", page).items()}


@pytest.mark.usefixtures("event_loop")
@pytest.mark.parametrize("title", [one for one in BLOCKS if one not in (*TORCH_BLOCKS, *CLUSTER_BLOCKS)])
def test_a_block_runs(
    title: str, own_minilm_bundle: Path, reranker_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(own_minilm_bundle, tmp_path / "bundle", copy_function=os.link)
    shutil.copytree(reranker_bundle, tmp_path / "reranker")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[title], title, "exec"), {"__name__": "__main__"})


def test_the_blocks_that_run_elsewhere_exist() -> None:
    assert {*TORCH_BLOCKS, *CLUSTER_BLOCKS} <= BLOCKS.keys()


def test_titles_are_of_one_block_each() -> None:
    assert len(BLOCKS) == sum(len(titled_blocks("python", page)) for page in INTEGRATION_PAGES)
