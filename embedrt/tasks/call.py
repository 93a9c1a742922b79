"""`Call`: a validated `encode` call, from arguments and the settings of a model."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Manifest
from embedrt.errors import TruncationWarning
from embedrt.inputs.check import check_texts, preview
from embedrt.run.runner import Runner
from embedrt.tasks.arguments import coordinates, one_of, positive
from embedrt.types import SENTENCE, OnTruncation, OutputValue, Precision

logger = logging.getLogger("embedrt")

# The prompts that `encode_query` and `encode_document` look for, the first that the model has.
_TASK_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


class Settings(Protocol):
    """The parts of an `Embedder` that a call reads."""

    prompts: dict[str, str]
    default_prompt_name: str | None
    lengths: dict[str, int | None]

    @property
    def folder(self) -> Path:
        """The bundle's folder."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""

    @property
    def truncate_dim(self) -> int | None:
        """Coordinates that calls keep if they name no number; None keeps all."""

    @property
    def runners(self) -> Mapping[str, Runner]:
        """The runners on the model's device, by route."""


@dataclass(frozen=True)
class Call:
    """A validated `encode` call.

    Attributes:
        route: The route that computes it.
        max_seq_length: Texts are truncated to so many tokens; None truncates nothing.
        prompt: Goes before every text.
        batch_size: Upper bound of texts in a batch.
        output_value: A sentence embedding for each text, its token embeddings, or with None all that the graph has.
        dim: Coordinates of a sentence embedding to keep.
        normalize: Scale sentence embeddings to length 1, after truncation.
        precision: The type in which vectors are stored.
        ranges: For int8 and uint8; None takes those of the vectors themselves.
        on_truncation: The reaction to truncated texts.
    """

    route: str
    max_seq_length: int | None
    prompt: str
    batch_size: int
    output_value: OutputValue | None
    dim: int
    normalize: bool
    precision: Precision
    ranges: NDArray[Any] | None
    on_truncation: OnTruncation

    def report(self, truncated: list[int], texts: int) -> None:
        """Logs the number of truncated texts among so many, and warns the caller's caller if the call asks for it."""
        if truncated:
            message = f"{len(truncated)} of {texts} texts truncated to {self.max_seq_length} tokens"
            logger.info("%s", message)
            if self.on_truncation == "warn":
                warnings.warn(f"{message}: {preview(truncated)}", TruncationWarning, stacklevel=3)


def call_for(
    model: Settings,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
    output_value: OutputValue | None = SENTENCE,
    precision: Precision | None = None,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    ranges: NDArray[Any] | None = None,
    task: str | None = None,
    on_truncation: OnTruncation = "ignore",
) -> Call:
    """Validates the arguments that all ways to encode have, before any work. `Embedder.encode` documents them."""
    manifest = model.manifest
    route = route_for(manifest, task)
    dim = (model.truncate_dim or manifest.dim) if truncate_dim is None else coordinates(truncate_dim, manifest.dim)
    one_of(on_truncation, OnTruncation, "on_truncation")
    if output_value is not None:
        one_of(output_value, OutputValue, "output_value")
    prompt = prompt_for(model.prompts, model.default_prompt_name, prompt_name, prompt)
    batch_size = positive(batch_size, "batch_size")
    stored: Precision = one_of(precision or "float32", Precision, "precision")
    if output_value != SENTENCE and not manifest.routes[route].has_token_embeddings:
        raise ValueError(f"output_value: {output_value!r}: the model {manifest.name!r} has no token embeddings")
    if output_value is None and stored != "float32":
        raise ValueError(f"precision: expected 'float32' for output_value=None, got {stored!r}")
    if stored in {"int8", "uint8"}:
        if ranges is None and output_value == SENTENCE:
            ranges = _bundled_ranges(manifest, route, dim, normalize=normalize_embeddings)
    elif ranges is not None:
        raise ValueError(f"ranges: only 'int8' and 'uint8' have a use for them, got precision={stored!r}")
    return Call(
        route=route,
        max_seq_length=model.lengths[route],
        prompt=prompt,
        batch_size=batch_size,
        output_value=output_value,
        dim=dim,
        normalize=normalize_embeddings,
        precision=stored,
        ranges=ranges,
        on_truncation=on_truncation,
    )


def _bundled_ranges(manifest: Manifest, route: str, dim: int, *, normalize: bool) -> NDArray[Any] | None:
    """The bundle's ranges for int8 and uint8 vectors; None if it has none.

    Raises:
        ValueError: They are of other vectors than the call's.
    """
    if manifest.vector_ranges is None:
        return None
    if normalize and (not manifest.routes[route].normalized or dim < manifest.dim):
        raise ValueError(
            "ranges: those in the bundle are of vectors as the model gives them, and normalize_embeddings scales them; "
            "give the ranges of normalized vectors"
        )
    return np.asarray(manifest.vector_ranges, np.float32)[:, :dim]


def route_for(manifest: Manifest, task: str | None) -> str:
    """The route that a task takes, or a ValueError that lists the tasks."""
    if task is not None and not isinstance(task, str):
        raise TypeError(f"task: expected str or None, got {type(task).__name__}")
    name = "" if task is None else task
    if name not in manifest.tasks:
        known = ", ".join(repr(known) for known in manifest.tasks if known)
        raise ValueError(
            f"task: {task!r} is unknown; known: {known}"
            if task
            else f"task: this model treats texts by task and has no default; one of {known} is needed"
        )
    return manifest.tasks[name]


def task_prompt(prompts: dict[str, str], task: str, name: str | None, prompt: str | None) -> str | None:
    """The name of the prompt for a task, where the call gives neither name nor prompt."""
    if name is not None or prompt is not None:
        return name
    return next((name for name in _TASK_PROMPTS[task] if name in prompts), None)


def prompt_for(prompts: dict[str, str], default: str | None, name: str | None, prompt: str | None) -> str:
    """The prompt that goes before every text of a call.

    Args:
        prompts: The model's prompts by name.
        default: The name of the one to take if the call gives neither.
        name: `prompt_name` of the call.
        prompt: `prompt` of the call, which wins.

    Raises:
        TypeError: It is not a str.
        ValueError: The name is unknown.
    """
    if prompt is not None and name is not None:
        logger.warning("both prompt and prompt_name are given; prompt wins")
    if prompt is None:
        name = default if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in prompts:
            raise ValueError(f"prompt_name: {name!r} is unknown; known: {', '.join(map(repr, prompts))}")
        prompt = prompts[name]
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected str or None, got {type(prompt).__name__}")
    check_texts(prompt, "prompt")
    return prompt
