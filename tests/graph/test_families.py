"""Every architecture family against golden vectors of transformers: whole vectors, many lengths, alone and together."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from embedrt import Embedder
from embedrt_export import export, families
from embedrt_export.graph import long_attention
from embedrt_export.graph.opsets import all_nodes
from embedrt_export.heads.pooling import POOLERS
from tests.kit.family_models import FAMILIES, REFERENCE, cases, texts_for, write_repo

TOLERANCE = 1e-5
# Settings of long attention under which short texts are long ones.
SMALL = {"_SHORT": 5, "_SHORT_WIDE": 5, "_SHORT_BY_HEAD": 5, "_BLOCK": 4, "_NARROW_BLOCK": 3}
CASES = [(family, name) for family in FAMILIES for name in cases(family)]
# Keys of config.json on which the scores of attention, their biases and their shapes depend.
ATTENTION = re.compile(
    r"num_.*heads|head_dim|window|layer_types|relative|att_type|bucket|causal|bidirectional|is_decoder|max_relative"
)


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
    embedder = as_golden(family, name, tmp_path)

    for_cpu, for_all = embedder.manifest.routes["default"].variants
    portable, fused = (operators(embedder.folder / variant.file) for variant in (for_all, for_cpu))
    assert fused["Attention"] == portable["Softmax"] > 0
    assert fused["Softmax"] == portable["Attention"] == 0


def as_golden(family: str, name: str, folder: Path) -> Embedder:
    """Export a model and compare its vectors with the golden ones, together and alone."""
    made = record(family)["cases"][name]
    expected = np.load(REFERENCE / f"{family}.npz", allow_pickle=False)[name]
    source = write_repo(folder / "model", family, cases(family)[name], made["tensors"])
    embedder = Embedder(export(source, folder / "bundle"))
    texts = texts_for(made["max_seq_length"])
    together = embedder.encode(texts)
    alone = np.stack([embedder.encode(text) for text in texts])
    scale = max(1.0, float(np.linalg.norm(expected, axis=1).max()))
    assert np.abs(together - expected).max() <= TOLERANCE * scale
    assert np.abs(alone - expected).max() <= TOLERANCE * scale
    assert np.abs(together - alone).max() <= TOLERANCE * scale
    assert np.abs(np.linalg.norm(together, axis=1) - np.linalg.norm(expected, axis=1)).max() <= TOLERANCE * scale
    assert len(np.unique(expected.round(3), axis=0)) > len(texts) // 3, "these vectors tell texts apart"
    return embedder


def operators(path: Path) -> Counter[str]:
    """Number of nodes of each operator that a graph has for short texts."""
    return Counter(node.op_type for node in for_short_texts(onnx.load(path, load_external_data=False).graph))


def for_short_texts(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph, with those of the branch for short texts in place of a choice by length."""
    for node in graph.node:
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        if "else_branch" in branches:
            yield from for_short_texts(branches["else_branch"])
        else:
            yield node


def with_other_attention(family: str) -> list[str]:
    """The first case of a family, and those whose attention differs from it in more than the positions."""
    made = cases(family)
    usual = next(iter(made.values())).config

    def differs(config: dict[str, Any]) -> bool:
        changed = {key for key in {*config, *usual} if config.get(key) != usual.get(key)}
        return any(ATTENTION.search(key) for key in changed)

    return [name for i, (name, case) in enumerate(made.items()) if name != "long" and (i == 0 or differs(case.config))]


@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(family, name, id=f"{family}: {name}", marks=[pytest.mark.slow] if i else [])
        for family in FAMILIES
        for i, name in enumerate(with_other_attention(family))
    ],
)
def test_golden_vectors_in_blocks(family: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of more than 5 tokens count as long, and blocks have 3 or 4 queries."""
    for setting, value in SMALL.items():
        monkeypatch.setattr(long_attention, setting, value)
    embedder = as_golden(family, name, tmp_path)

    for_cpu, for_all = embedder.manifest.routes["default"].variants
    graph = onnx.load(embedder.folder / for_cpu.file, load_external_data=False).graph
    inner = Counter(node.op_type for node in all_nodes(graph.node))
    ways = inner["Loop"] + inner["MultiHeadAttention"] // 2  # with a mask and without
    by_both_tokens = family == "deberta-v2" and cases(family)[name].config.get("relative_attention", False)
    assert ways == (0 if by_both_tokens else operators(embedder.folder / for_all.file)["Softmax"])
    assert for_cpu.operators == ("onnxruntime" if inner["MultiHeadAttention"] else "portable")


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
