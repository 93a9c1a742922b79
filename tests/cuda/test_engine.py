"""The whole way from texts to vectors on the real CUDA provider: sessions, bindings, scratch memory, CUDA graphs.

The kernels compute nothing, so only the shapes of vectors can be right.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.engine import cuda_setup
from embedrt.errors import EngineError
from embedrt_export import export
from tests.cuda.stubs import StubCuda
from tests.kit.family_models import REFERENCE, Case, cases, write_repo

DTYPES = ["float32", "float16", "bfloat16"]
# PagedAttention rotates heads of a multiple of 16.
HEAD = 16
TEXTS = ["the cat " * n for n in range(60)]


@pytest.fixture(scope="module", params=["bert", "deberta-v2", "qwen3"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed encoder, a padded one, and a packed decoder."""
    family, folder = request.param, tmp_path_factory.mktemp("engine")
    name = "version 3" if family == "deberta-v2" else "plain"
    case = cases(family)[name]
    record: dict[str, Any] = json.loads((REFERENCE / f"{family}.json").read_bytes())
    shapes = record["cases"][name]["tensors"]
    if family == "qwen3":
        case, shapes = wider_heads(case, shapes)
    return export(write_repo(folder / "model", family, case, shapes), folder / "bundle", dtype=DTYPES)


@pytest.fixture(autouse=True)
def any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are what was in memory, which may be no number; and no fact about the cards is kept from other tests."""
    monkeypatch.setattr("embedrt.run.runner.np.isfinite", lambda array: np.ones(np.shape(array), bool))
    monkeypatch.setattr(cuda_setup, "_known", [])


def wider_heads(case: Case, shapes: dict[str, list[int]]) -> tuple[Case, dict[str, list[int]]]:
    """The same decoder with heads that rotate in the attention operator."""
    factor = HEAD // case.config["head_dim"]
    wide = {}
    for name, shape in shapes.items():
        at = 1 if "o_proj" in name else 0
        is_heads = any(part in name for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"))
        wide[name] = [size * factor if is_heads and i == at else size for i, size in enumerate(shape)]
    return replace(case, config={**case.config, "head_dim": HEAD}), wide


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_texts_become_vectors(bundle: Path, dtype: str) -> None:
    with Embedder(bundle, device="cuda", dtype=dtype) as embedder:
        width = embedder.get_embedding_dimension()
        assert embedder.encode(TEXTS).shape == (len(TEXTS), width)
        assert embedder.encode("one text").shape == (width,)
        assert embedder.encode([""]).shape == (1, width)
        tokens = embedder.encode(["one text", "a longer text"], output_value="token_embeddings")
        assert [array.dtype for array in tokens] == [np.float32, np.float32]
        assert all(array.shape[1] == width for array in tokens)


def test_a_packed_graph_is_captured(bundle: Path) -> None:
    with Embedder(bundle, device="cuda", dtype="float16") as embedder:
        packed = embedder.manifest.routes["default"].variants_in("float16")[0].layout == "packed"
        assert ("CUDA graphs" in embedder.engine) == packed


def test_two_cards_share_the_texts(bundle: Path, cuda: StubCuda) -> None:
    cuda.configure(capability=90, devices=2)
    with Embedder(bundle, device=["cuda:0", "cuda:1"], dtype="float16") as embedder:
        assert len(embedder.encode(TEXTS * 20)) == len(TEXTS) * 20


def test_float32_without_cudnn_names_the_package(bundle: Path) -> None:
    embedder = Embedder(bundle, device="cuda", dtype="float32")
    with pytest.raises(EngineError, match="nvidia-cudnn-cu13"):
        embedder.encode(TEXTS)
