"""MultiVectorMask: the tokens of a multi-vector model whose vectors count. The runtime leaves out the others."""

from dataclasses import dataclass
from pathlib import Path

from embedrt_export.heads.head import Head, HeadInputs, HeadOutputs, config_name
from embedrt_export.source.configs import read_config, strict


@dataclass(frozen=True)
class MultiVectorMask:
    """Settings of a MultiVectorMask module.

    Attributes:
        skiplist_words: Tokens that do not count.
        skiplist_tasks: The tasks of the skiplist.
        keep_only_token_ids: The only tokens of documents that count; None for all.
    """

    skiplist_words: tuple[str, ...] = ()
    skiplist_tasks: tuple[str, ...] = ("document",)
    keep_only_token_ids: tuple[int, ...] | None = None


def read(folder: Path) -> MultiVectorMask:
    """Read the module's config."""
    content = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
    stated = {key: value for key, value in content.items() if value is not None}
    if isinstance(tasks := stated.get("skiplist_tasks"), str):
        stated["skiplist_tasks"] = [tasks]
    return strict(MultiVectorMask, stated, config_name(folder))


def add(inputs: HeadInputs, settings: MultiVectorMask) -> HeadOutputs:
    """Add nothing: the graph has a vector for every token."""
    del inputs, settings
    return HeadOutputs({})


HEAD = Head(read, add)
