"""Whatever a model folder is called, its default name is one that the store takes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt.hub import local as store
from embedrt_export.source.locate import locate

ODD = ["my model (1)", "my--model", "-", "..model..", "größe-模型", "a" * 200, "v1.0-", "@x", "_"]
FOLDERS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=60)


@pytest.mark.parametrize("folder", ODD)
def test_odd_names(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    located = locate(tmp_path / folder, None, None)
    assert store.stored_path(located.name).parent == store.home() / "bundles"
    assert located.source.id == located.name


@given(folder=FOLDERS)
def test_any_name(folder: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.getbasetemp() / f"x{folder}" / "y"
    if len(place.parent.name.encode()) > 255:
        return
    place.mkdir(parents=True, exist_ok=True)
    assert store.stored_path(locate(place.parent, None, None).name)
