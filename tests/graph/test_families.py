"""Every architecture family against golden vectors of transformers: whole vectors, many lengths, alone and together."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from embedrt import Embedder
from embedrt_export import export, families
from embedrt_export.heads.pooling import POOLERS
from tests.kit.family_models import FAMILIES, REFERENCE, cases, texts_for, write_repo

TOLERANCE = 1e-5
CASES = [(family, name) for family in FAMILIES for name in cases(family)]


def record(family: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((REFERENCE / f"{family}.json").read_bytes())
    return content


@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(family, name, id=f"{family}: {name}", marks=[pytest.mark.slow] if name == "long" else [])
        for family, name in CASES
    ],
)
def test_golden_vectors(family: str, name: str, tmp_path: Path) -> None:
    made = record(family)["cases"][name]
    expected = np.load(REFERENCE / f"{family}.npz", allow_pickle=False)[name]
    source = write_repo(tmp_path / "model", family, cases(family)[name], made["tensors"])
    embedder = Embedder(export(source, tmp_path / "bundle"))
    texts = texts_for(made["max_seq_length"])
    together = embedder.encode(texts)
    alone = np.stack([embedder.encode(text) for text in texts])
    scale = max(1.0, float(np.linalg.norm(expected, axis=1).max()))
    assert np.abs(together - expected).max() <= TOLERANCE * scale
    assert np.abs(alone - expected).max() <= TOLERANCE * scale
    assert np.abs(together - alone).max() <= TOLERANCE * scale
    assert np.abs(np.linalg.norm(together, axis=1) - np.linalg.norm(expected, axis=1)).max() <= TOLERANCE * scale
    assert len(np.unique(expected.round(3), axis=0)) > len(texts) // 3, "these vectors tell texts apart"

    for_cpu, for_all = embedder.manifest.routes["default"].variants
    portable, fused = (operators(embedder.folder / variant.file) for variant in (for_all, for_cpu))
    assert fused["Attention"] == portable["Softmax"] > 0
    assert fused["Softmax"] == portable["Attention"] == 0


def operators(path: Path) -> Counter[str]:
    """How many nodes of each operator a graph has."""
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_files_are_those_that_were_made(family: str) -> None:
    made = record(family)
    assert hashlib.sha256((REFERENCE / f"{family}.npz").read_bytes()).hexdigest() == made["vectors_sha256"]
    assert list(made["cases"]) == list(cases(family))


def test_every_family_has_cases() -> None:
    assert set(FAMILIES) == set(families.FAMILIES)


def test_the_docs_list_every_case_and_every_pooling_mode() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for family in FAMILIES:
        assert f"| {family} | {', '.join(cases(family))} |" in page, "`make table` writes docs/models.md"
    for mode in POOLERS:
        assert f"| pooling {mode} |" in page
