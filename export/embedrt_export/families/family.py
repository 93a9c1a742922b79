"""Contract of an architecture family, and the choice of an adapter."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from embedrt.errors import ExportError
from embedrt_export.layers.scope import Scope

logger = logging.getLogger("embedrt.export")


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture, from config and weights to token embeddings.

    Attributes:
        read_config: Reads the parsed `config.json` into the family's own config, or raises an error that names the key.
        prefixes: Prefixes of the backbone's tensors in repos that were saved with a head.
        backbone: Prefixes of the backbone's tensors after that; a tensor there that the graph does not use is an error.
        positions: Number of tokens that the position embeddings reach, or None without limit.
        build: Adds the model to a scope and returns the hidden states `[tokens, hidden]`: after the embeddings, after
            every layer, and as the last the token embeddings, with the final norm where the family has one.
        renames: Other names under which repos store tensors: patterns of `re` for whole names without prefix, and the
            names that `build` asks for.
        ignored: Patterns of tensors of the backbone that no encoder needs.
        needs_own_code: True if transformers can run a model of this config only with code from the repo.
        tasks: The tasks for which a model has adapters; `build` merges the one that the config's `task` names.
        aliases: Other values of `model_type` in hub repos that are made for code of their own.
        packs: True if a packed graph can express the attention: the bias of two tokens depends on nothing but their
            offset.
        claims: True for hub repos of this family whose `model_type` is that of another one.
    """

    read_config: Callable[[Mapping[str, Any]], Any]
    prefixes: tuple[str, ...] = ()
    backbone: tuple[str, ...]
    positions: Callable[[Any], int | None]
    build: Callable[[Scope, Any], list[str]]
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    needs_own_code: Callable[[Mapping[str, Any]], bool] = lambda _: False
    tasks: Callable[[Any], tuple[str, ...]] = lambda _: ()
    aliases: tuple[str, ...] = ()
    packs: bool = True
    claims: Callable[[Mapping[str, Any]], bool] = lambda _: False


def choose_task(family: Family, config: Any, task: str | None) -> Any:
    """Choose the adapter to merge; None leaves the model as it is without adapters.

    Returns:
        The config with the task in it.

    Raises:
        ExportError: The model has no such task.
    """
    tasks = family.tasks(config)
    if task is None:
        if tasks:
            logger.warning(
                "the model has adapters for the tasks %s, and none was chosen: they are left out", ", ".join(tasks)
            )
        return config
    if task not in tasks:
        known = f"it has {', '.join(tasks)}" if tasks else "it has none; leave the adapter out"
        raise ExportError(f"adapter {task!r}: the model has no adapter for this task; {known}")
    return dataclasses.replace(config, task=task)
