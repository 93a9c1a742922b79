"""Every architecture family against transformers itself: whole vectors, alone, together, and padded on either side."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from embedrt import Embedder
from embedrt.engine.session import onnxruntime
from embedrt.inputs.padding import pad
from embedrt.inputs.text import Tokens, flat, offsets_of
from embedrt_export import export
from tests.kit.family_models import FAMILIES, REFERENCE, Case, as_transformers, cases, texts_for, write_repo

TOLERANCE = 1e-5
CASES = [(family, name) for family in FAMILIES for name in cases(family)]


@pytest.mark.parametrize(("family", "name"), CASES, ids=[f"{family}: {name}" for family, name in CASES])
def test_family(family: str, name: str, tmp_path: Path, record_error: Any) -> None:
    case, shapes = (
        cases(family)[name],
        json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"][name]["tensors"],
    )
    plain = write_repo(tmp_path / "plain", family, as_transformers(case), shapes)
    check_seeded_weights(plain, case)
    source = write_repo(tmp_path / "model", family, case, shapes)
    embedder = Embedder(export(source, tmp_path / "bundle"))
    model = SentenceTransformer(str(plain), device="cpu", model_kwargs={"dtype": "float32"})

    texts = texts_for(embedder.manifest.routes["default"].max_seq_length)
    expected = np.stack([model.encode(text, show_progress_bar=False) for text in texts])
    together, alone = embedder.encode(texts), np.stack([embedder.encode(text) for text in texts])
    scale = max(1.0, float(np.linalg.norm(expected, axis=1).max()))
    assert np.abs(together - expected).max() <= TOLERANCE * scale
    assert np.abs(alone - expected).max() <= TOLERANCE * scale
    assert np.abs(together - alone).max() <= TOLERANCE * scale
    assert np.abs(np.linalg.norm(together, axis=1) - np.linalg.norm(expected, axis=1)).max() <= TOLERANCE * scale
    worst = [float(max(np.abs(together - expected).max(), np.abs(alone - expected).max()))]
    for left in (False, True):
        found, reference = padded(embedder, model, texts, left=left)
        worst.append(float(np.abs(found - reference).max()))
        assert worst[-1] <= TOLERANCE * scale
    record_error(family, name, max(worst) / scale, float(np.abs(together - alone).max()) / scale)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_limit_beyond_the_positions(family: str, tmp_path: Path) -> None:
    """There sentence-transformers fails on long texts, and must be asked for what the model has."""
    case = dataclasses.replace(cases(family)["plain"], max_seq_length=None)
    shapes = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"]["plain"]["tensors"]
    source = write_repo(tmp_path / "model", family, case, shapes)
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 66}')
    embedder = Embedder(export(source, tmp_path / "bundle"))
    assert embedder.manifest.routes["default"].max_seq_length == 64
    model = SentenceTransformer(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    with pytest.raises((IndexError, RuntimeError)):
        model.encode("one " * 100)
    model.max_seq_length = 64
    texts = ["one " * n for n in (1, 60, 62, 63, 100)]
    assert np.abs(embedder.encode(texts) - model.encode(texts)).max() <= TOLERANCE


def check_seeded_weights(source: Path, case: Case) -> None:
    """Guards the comparison itself: transformers neither makes up nor leaves out a tensor."""
    kind: Any = getattr(transformers, case.model_class)
    _, info = kind.from_pretrained(source, output_loading_info=True)
    assert not info["missing_keys"] - {"pooler.dense.weight", "pooler.dense.bias"}
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def padded(
    embedder: Embedder, model: SentenceTransformer, texts: list[str], *, left: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of one batch that is padded on the given side, by the bundle's graph and by torch on the same ids."""
    ids = [embedder.tokenize(text)["input_ids"][0].tolist() for text in texts[::3]]
    longest = max(map(len, ids))
    tokens = Tokens(flat(ids), offsets_of(np.array([len(row) for row in ids], np.int64)), None, [])
    how = dataclasses.replace(
        embedder.manifest.routes["default"].tokenization, padding_side="left" if left else "right"
    )
    feeds = pad(tokens, np.arange(len(ids)), longest, how)
    session = onnxruntime().InferenceSession(embedder.folder / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    found, by_token = session.run(["sentence_embedding", "token_embeddings"], feeds)
    assert np.isfinite(by_token).all()
    with torch.no_grad():
        reference = model({name: torch.from_numpy(values) for name, values in feeds.items()})["sentence_embedding"]
    return found, reference.numpy()
