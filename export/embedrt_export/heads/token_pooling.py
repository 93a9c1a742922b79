"""HierarchicalTokenPooling of a saved model. The runtime pools, as the number of vectors depends on their values."""

from dataclasses import dataclass
from pathlib import Path

from embedrt.errors import ExportError
from embedrt.vectors import token_pooling
from embedrt_export.heads.head import Head, HeadInputs, HeadOutputs, config_name
from embedrt_export.source.configs import read_config, strict


@dataclass(frozen=True)
class HierarchicalTokenPooling:
    """Settings of a HierarchicalTokenPooling module; saved models without `normalize_embeddings` do not normalize."""

    pool_factor: float = 1.0
    num_protected_tokens: int = 1
    normalize_embeddings: bool = False
    tasks: tuple[str, ...] = ("document",)


def read(folder: Path) -> HierarchicalTokenPooling:
    """Read the module's config."""
    content = {key: value for key, value in read_config(folder / "config.json").items() if value is not None}
    if isinstance(tasks := content.get("tasks"), str):
        content["tasks"] = [tasks]
    settings = strict(HierarchicalTokenPooling, content, config_name(folder))
    try:
        token_pooling.HierarchicalTokenPooling(settings.pool_factor, settings.num_protected_tokens)
    except ValueError as error:
        raise ExportError(f"{config_name(folder)}: {error}") from error
    return settings


def add(inputs: HeadInputs, settings: HierarchicalTokenPooling) -> HeadOutputs:
    """Add nothing: the graph has a vector for every token."""
    del inputs, settings
    return HeadOutputs({})


HEAD = Head(read, add)
