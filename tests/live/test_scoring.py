"""Models that score pairs against sentence-transformers itself: its `CrossEncoder` is the reference of each export."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder

from embedrt.bundle.manifest import read_manifest
from embedrt.bundle.reports import ParityReport
from embedrt_export import export
from tests.kit.scoring_heads import (
    CHAINS,
    REFERENCE,
    head_cases,
    pairs_for,
    write_chain_repo,
    write_head_repo,
)

TOLERANCE = 1e-5
HEADS = head_cases()
SHAPES: dict[str, Any] = json.loads((REFERENCE / "heads.json").read_bytes())["tensors"]
# Repos with names and keys of their own, which need code of their own in transformers.
FOREIGN = [name for name, case in HEADS.items() if case.repo_config is not None]
OWN = [name for name in HEADS if name not in FOREIGN]
# One model of each architecture, and all of them for the table in docs/models.md; all have golden logits.
FIRST = [name for i, name in enumerate(OWN) if HEADS[name].family not in {HEADS[other].family for other in OWN[:i]}]
CHOSEN = OWN if os.environ.get("EMBEDRT_ERRORS") else FIRST


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take longer than these small models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CHOSEN)
def test_classification_head(name: str, tmp_path: Path, record_error: Any) -> None:
    source = write_head_repo(tmp_path / "model", HEADS[name], SHAPES[name])
    check_seeded_weights(source)
    worst, by_batch = errors_of(export(source, tmp_path / "bundle"), len(pairs_for(HEADS[name])))
    record_error("head", name, worst, by_batch)


@pytest.mark.parametrize("name", FOREIGN)
def test_classification_head_of_a_hub_repo(name: str, tmp_path: Path, record_error: Any) -> None:
    """Its weights are those of a repo that transformers reads, with which it is compared."""
    case = HEADS[name]
    source = write_head_repo(tmp_path / "model", case, SHAPES[name])
    bundle = export(source, tmp_path / "bundle")
    plain = write_head_repo(tmp_path / "plain", case, SHAPES[name], plain=True)
    as_plain = export(plain, tmp_path / "as-plain")
    worst, by_batch = errors_of(as_plain, len(pairs_for(case)))
    record_error("head", name, worst, by_batch)
    for file in ("onnx/model.onnx", "onnx/model.onnx_data"):
        assert (bundle / file).read_bytes() == (as_plain / file).read_bytes()


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str, tmp_path: Path, record_error: Any) -> None:
    chain = CHAINS[name]
    source = write_chain_repo(tmp_path / "model", chain, SHAPES[chain.base])
    worst, by_batch = errors_of(export(source, tmp_path / "bundle"), len(pairs_for(HEADS[chain.base])))
    record_error("head", f"chain: {name}", worst, by_batch)


def test_what_sentence_transformers_saves_again(tmp_path: Path) -> None:
    """A folder that sentence-transformers loads and saves is exported too, to the same graph."""
    source = write_head_repo(tmp_path / "model", HEADS["bert: one label"], SHAPES["bert: one label"])
    model = CrossEncoder(str(source), device="cpu", model_kwargs={"dtype": torch.float32})
    model.save_pretrained(str(tmp_path / "saved"))
    bundles = [export(folder, folder.with_name(f"{folder.name}-bundle")) for folder in (source, tmp_path / "saved")]
    first, second = ((bundle / "onnx" / "model.onnx").read_bytes() for bundle in bundles)
    assert first == second


def errors_of(bundle: Path, pairs: int) -> tuple[float, float]:
    """The worst errors of a bundle that was compared with sentence-transformers over all pairs."""
    reports = [variant.proof for variant in read_manifest(bundle).routes["default"].variants]
    for report in reports:
        assert isinstance(report, ParityReport)
        assert report.independent
        assert report.reference.startswith("sentence-transformers ")
        assert report.texts == pairs
    proofs = [report for report in reports if isinstance(report, ParityReport)]
    worst, by_batch = max(proof.max_abs_error for proof in proofs), max(proof.max_batch_error for proof in proofs)
    assert worst <= TOLERANCE
    assert by_batch <= TOLERANCE
    return worst, by_batch


def check_seeded_weights(source: Path) -> None:
    """Guards the comparison itself: transformers neither makes up nor leaves out a tensor."""
    kind: Any = transformers.AutoModelForSequenceClassification
    _, info = kind.from_pretrained(source, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
