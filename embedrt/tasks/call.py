"""`Call`: a validated `encode` call, made from its arguments and the settings of a model."""

import logging
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Manifest
from embedrt.errors import TruncationWarning
from embedrt.inputs.check import check_texts, preview
from embedrt.inputs.values import one_of, positive, shown, truth
from embedrt.tasks.arguments import coordinates
from embedrt.types import SENTENCE, TOKENS, OnTruncation, OutputValue, Precision
from embedrt.vectors.quantization import check_ranges

logger = logging.getLogger("embedrt")

# Prompt names that `encode_query` and `encode_document` try, in order.
_TASK_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


class Settings(Protocol):
    """The settings of an `Embedder` that a call reads."""

    prompts: dict[str, str]
    default_prompt_name: str | None
    lengths: dict[str, int | None]

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""

    @property
    def truncate_dim(self) -> int | None:
        """The default number of coordinates to keep; None keeps all."""


@dataclass(frozen=True)
class Call:
    """A validated `encode` call.

    Attributes:
        route: The name of the route.
        max_seq_length: Maximum tokens of a text, which is truncated to them; None truncates nothing.
        prompt: Prompt before every text.
        batch_size: Maximum number of texts in a batch; None leaves it to the token budget.
        output_value: A sentence embedding per text, its token embeddings, or None for all inputs and outputs.
        dim: Coordinates of a sentence embedding to keep.
        normalize: True to scale sentence embeddings to length 1, after truncation.
        precision: The number format of the stored vectors.
        ranges: `[2, dim]` for int8 and uint8; None takes the ranges of the vectors themselves.
        on_truncation: The action for truncated texts.
        more: Other outputs of the graph than embeddings of sentences and tokens.
        skipped: Tokens at the start of a text whose vectors do not count as multi-vector embeddings.
    """

    route: str
    max_seq_length: int | None
    prompt: str
    batch_size: int | None
    output_value: OutputValue | None
    dim: int
    normalize: bool
    precision: Precision
    ranges: NDArray[Any] | None
    on_truncation: OnTruncation
    more: tuple[str, ...] = ()
    skipped: int = 0

    def report(self, truncated: list[int], texts: int) -> None:
        """Log the number of truncated texts; warn the caller's caller if the call has `on_truncation="warn"`."""
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
    batch_size: int | None = None,
    output_value: OutputValue | None = SENTENCE,
    precision: Precision | None = None,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    ranges: NDArray[Any] | None = None,
    task: str | None = None,
    on_truncation: OnTruncation = "ignore",
) -> Call:
    """Validate the arguments that all encode methods share; `Embedder.encode` documents them."""
    manifest = model.manifest
    route = route_for(manifest, task)
    dim = (model.truncate_dim or manifest.dim) if truncate_dim is None else coordinates(truncate_dim, manifest.dim)
    on_truncation = one_of(on_truncation, OnTruncation, "on_truncation")
    if output_value is not None:
        output_value = one_of(output_value, OutputValue, "output_value")
    normalize = truth(normalize_embeddings, "normalize_embeddings")
    prompt = prompt_for(model.prompts, model.default_prompt_name, prompt_name, prompt)
    batch_size = None if batch_size is None else positive(batch_size, "batch_size")
    stored: Precision = "float32" if precision is None else one_of(precision, Precision, "precision")
    if output_value != SENTENCE and not manifest.routes[route].has_token_embeddings:
        raise ValueError(f"output_value: {output_value!r}: the model {manifest.name!r} has no token embeddings")
    if output_value is None and stored != "float32":
        raise ValueError(f"precision: expected 'float32' for output_value=None, got {stored!r}")
    if stored in {"int8", "uint8"}:
        if ranges is not None:
            width = dim if output_value == SENTENCE else manifest.routes[route].outputs[TOKENS].width
            ranges = check_ranges(ranges, width)
        elif output_value == SENTENCE:
            ranges = _bundled_ranges(manifest, route, dim, normalize=normalize)
    elif ranges is not None:
        raise ValueError(f"ranges: expected None for precision={stored!r}; only 'int8' and 'uint8' use ranges")
    return Call(
        route=route,
        max_seq_length=model.lengths[route],
        prompt=prompt,
        batch_size=batch_size,
        output_value=output_value,
        dim=dim,
        normalize=normalize,
        precision=stored,
        ranges=ranges,
        on_truncation=on_truncation,
        more=tuple(name for name in manifest.routes[route].outputs if name not in {SENTENCE, TOKENS}),
        skipped=0 if manifest.multi_vector is None else manifest.multi_vector.skipped_start,
    )


def _bundled_ranges(manifest: Manifest, route: str, dim: int, *, normalize: bool) -> NDArray[Any] | None:
    """The bundle's ranges for int8 and uint8 vectors, `[2, dim]`; None if it has none.

    Raises:
        ValueError: The call scales its vectors, so that the ranges do not apply.
    """
    if manifest.vector_ranges is None:
        return None
    if normalize and (not manifest.routes[route].normalized or dim < manifest.dim):
        raise ValueError(
            "ranges: the bundle's ranges are of unscaled vectors, but normalize_embeddings=True scales them; "
            "pass the ranges of normalized vectors"
        )
    return np.asarray(manifest.vector_ranges, np.float32)[:, :dim]


def route_for(manifest: Manifest, task: str | None) -> str:
    """The route of a task.

    Raises:
        ValueError: The task is unknown; the message lists the tasks.
    """
    if task is not None and not isinstance(task, str):
        raise TypeError(f"task: expected str or None, got {type(task).__name__}")
    name = "" if task is None else task
    if name not in manifest.tasks:
        known = ", ".join(repr(known) for known in manifest.tasks if known)
        raise ValueError(
            f"task: expected one of {known}, got {task!r}"
            if task
            else f"task: expected one of {known}, got {task!r}; this model has no default task"
        )
    return manifest.tasks[name]


def task_prompt(prompts: dict[str, str], task: str, name: str | None, prompt: str | None) -> str | None:
    """The prompt name for a task, if the call has neither prompt name nor prompt."""
    if name is not None or prompt is not None:
        return name
    return next((name for name in _TASK_PROMPTS[task] if name in prompts), None)


def prompt_for(prompts: dict[str, str], default: str | None, name: str | None, prompt: str | None) -> str:
    """Choose the prompt of a call.

    Args:
        prompts: The model's prompts by name.
        default: The name of the default prompt.
        name: `prompt_name` of the call.
        prompt: `prompt` of the call, which takes precedence.

    Raises:
        TypeError: The prompt is not a str.
        ValueError: The name is unknown.
    """
    if prompt is not None and name is not None:
        logger.warning("both prompt and prompt_name are given; prompt_name is ignored")
    if prompt is None:
        name = default if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in prompts:
            raise ValueError(f"prompt_name: expected one of {', '.join(map(repr, prompts))}, got {shown(name)}")
        prompt = prompts[name]
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected str or None, got {type(prompt).__name__}")
    return check_texts(prompt, "prompt")[0][0]
