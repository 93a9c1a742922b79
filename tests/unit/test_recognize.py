"""The task of a model, recognized by its files."""

from pathlib import Path
from typing import Any

import pytest

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.routes.recognize import STANFORD, TOP, Recognized, recognize
from tests.kit.models import write_json

MODULES = "modules.json"


def modules(*kinds: str) -> list[dict[str, str]]:
    return [{"type": f"sentence_transformers.x.{kind}"} for kind in kinds]


CASES: dict[str, tuple[dict[str, Any], Recognized]] = {
    "cross-encoder": (
        {TOP: {"model_type": "CrossEncoder"}, MODULES: modules("Transformer")},
        Recognized("score", f"by model_type CrossEncoder in {TOP}"),
    ),
    "sparse": ({TOP: {"model_type": "SparseEncoder"}}, Recognized("sparse", f"by model_type SparseEncoder in {TOP}")),
    "late": (
        {TOP: {"model_type": "MultiVectorEncoder"}},
        Recognized("multi-vector", f"by model_type MultiVectorEncoder in {TOP}"),
    ),
    "PyLate": ({TOP: {"model_type": "ColBERT"}}, Recognized("multi-vector", f"by model_type ColBERT in {TOP}")),
    "sentences": (
        {TOP: {"model_type": "SentenceTransformer"}, MODULES: modules("Transformer", "SpladePooling")},
        Recognized("embed", f"by model_type SentenceTransformer in {TOP}"),
    ),
    "module": (
        {TOP: {"prompts": {}}, MODULES: modules("MLMTransformer", "SpladePooling")},
        Recognized("sparse", f"by the module MLMTransformer in {MODULES}"),
    ),
    "causal": (
        {MODULES: modules("Transformer", "LogitScore")},
        Recognized("score", f"by the module LogitScore in {MODULES}"),
    ),
    "pooling": ({MODULES: modules("Transformer", "Pooling")}, Recognized("embed", f"by the modules in {MODULES}")),
    "modules before architectures": (
        {MODULES: modules("Transformer"), "config.json": {"architectures": ["BertForSequenceClassification"]}},
        Recognized("embed", f"by the modules in {MODULES}"),
    ),
    "PyLate's modules": (
        {MODULES: [*modules("Transformer"), {"type": "pylate.models.Dense.Dense"}]},
        Recognized("multi-vector", f"by the module pylate.models.Dense.Dense in {MODULES}"),
    ),
    "ColBERT": (
        {"config.json": {"architectures": ["HF_ColBERT"]}},
        Recognized("multi-vector", "by the architecture HF_ColBERT in config.json"),
    ),
    "Stanford": (
        {STANFORD: {}, "config.json": {"architectures": ["HF_ColBERT"]}},
        Recognized("multi-vector", f"by {STANFORD}"),
    ),
    "classifier": (
        {"config.json": {"architectures": ["BertForSequenceClassification"]}},
        Recognized("score", "by the architecture BertForSequenceClassification in config.json"),
    ),
    "masked language model": (
        {"config.json": {"architectures": ["BertForMaskedLM"]}},
        Recognized("embed", "the usual one"),
    ),
    "strange": ({"config.json": {"architectures": [1]}}, Recognized("embed", "the usual one")),
    "nothing": ({}, Recognized("embed", "the usual one")),
}


def folder(tmp_path: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        write_json(tmp_path / name, content)
    return tmp_path


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_recognized(files: dict[str, Any], expected: Recognized, tmp_path: Path) -> None:
    assert recognize(folder(tmp_path, files)) == expected


@pytest.mark.parametrize("files", [files for files, _ in CASES.values()], ids=CASES)
def test_as_requested(files: dict[str, Any], tmp_path: Path) -> None:
    assert recognize(folder(tmp_path, files), "sparse") == Recognized("sparse", "as requested")


@pytest.mark.parametrize("stated", ["VisionEncoder", 3, ["CrossEncoder"]])
def test_unknown_model_type(stated: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{TOP}: model_type: expected one of .*; name the task with"):
        recognize(folder(tmp_path, {TOP: {"model_type": stated}}))


@pytest.mark.parametrize("content", [3, {"type": "x"}, ["x"], [{}]])
def test_modules_of_another_form_are_left_to_the_reader(content: Any, tmp_path: Path) -> None:
    assert recognize(folder(tmp_path, {MODULES: content})).task == "embed"


def test_damaged_modules(tmp_path: Path) -> None:
    (tmp_path / MODULES).write_text("[")
    with pytest.raises(ExportError, match=MODULES):
        recognize(tmp_path)
