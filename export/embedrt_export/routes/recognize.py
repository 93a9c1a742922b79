"""Recognition of a model's task by its files: embed, score, sparse or multi-vector."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedrt.bundle.strict_json import RecordError, read_json
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.types import Task
from embedrt_export.source.configs import read_config
from embedrt_export.source.files import MODULES

TOP = "config_sentence_transformers.json"
STANFORD = "artifact.metadata"
"""The settings of a ColBERT checkpoint in Stanford's format."""

_BY_MODEL_TYPE: dict[str, Task] = {
    "SentenceTransformer": "embed",
    "CrossEncoder": "score",
    "SparseEncoder": "sparse",
    "MultiVectorEncoder": "multi-vector",
    "ColBERT": "multi-vector",
}
_BY_MODULE: dict[str, Task] = {
    "LogitScore": "score",
    "SpladePooling": "sparse",
    "MLMTransformer": "sparse",
    "SparseStaticEmbedding": "sparse",
    "SparseAutoEncoder": "sparse",
    "MultiVectorMask": "multi-vector",
}
_PYLATE = "pylate."  # the package of modules that only multi-vector models have
# Models without modules.json. A masked or causal language model may be the base of any task: it embeds, as in
# sentence-transformers, unless the user names another task.
_BY_ARCHITECTURE: dict[str, Task] = {"ForSequenceClassification": "score", "HF_ColBERT": "multi-vector"}


@dataclass(frozen=True)
class Recognized:
    """A model's task.

    Attributes:
        task: The task.
        reason: The reason, for the log.
    """

    task: Task
    reason: str


def recognize(folder: Path, wanted: Task | None = None) -> Recognized:
    """Find the task of a model.

    Args:
        folder: The model folder.
        wanted: The task that the user named; None recognizes it.

    Raises:
        UnsupportedModelError: The model says that it is of a kind that embedrt does not know.
        ExportError: A file is damaged.
    """
    if wanted is not None:
        return Recognized(wanted, "as requested")
    stated = read_config(folder / TOP).get("model_type") if (folder / TOP).is_file() else None
    if stated is not None:
        if not isinstance(stated, str) or stated not in _BY_MODEL_TYPE:
            raise UnsupportedModelError(
                f"{TOP}: model_type: expected one of {', '.join(_BY_MODEL_TYPE)}, got {str(stated)[:80]!r}; name the "
                "task with `--task`"
            )
        return Recognized(_BY_MODEL_TYPE[stated], f"by model_type {stated} in {TOP}")
    if (folder / MODULES).is_file():
        return _by_modules(folder)
    if (folder / STANFORD).is_file():
        return Recognized("multi-vector", f"by {STANFORD}")
    config: Mapping[str, Any] = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    for ending, task in _BY_ARCHITECTURE.items():
        if architecture.endswith(ending):
            return Recognized(task, f"by the architecture {architecture} in config.json")
    return Recognized("embed", "the usual one")


def _by_modules(folder: Path) -> Recognized:
    try:
        content = read_json(folder / MODULES)
    except RecordError as error:
        raise ExportError(str(error)) from error
    entries = content if isinstance(content, list) else []
    types = [str(entry.get("type", "")) for entry in entries if isinstance(entry, dict)]
    for name in types:
        kind = name.rpartition(".")[2]
        if name.startswith(_PYLATE):
            return Recognized("multi-vector", f"by the module {name[:80]} in {MODULES}")
        if kind in _BY_MODULE:
            return Recognized(_BY_MODULE[kind], f"by the module {kind} in {MODULES}")
    return Recognized("embed", f"by the modules in {MODULES}")
