"""What the arguments of a call mean: checked, and looked up in the bundle."""

import logging
import warnings
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Manifest
from embedrt.inputs.text import check_texts
from embedrt.run.runner import SENTENCE, Request, Runner

logger = logging.getLogger("embedrt")

# The prompts that `encode_query` and `encode_document` look for, the first that the model has.
_TASK_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
# Arguments of sentence-transformers that have no meaning without torch, and what to do instead.
_INSTEAD = {
    "modules": "embedrt runs exported models: build it with sentence-transformers, save it, then `embedrt export`",
    "backend": "there is one engine, ONNX Runtime; leave it out, and choose the hardware with device=",
    "model_kwargs": "there is no transformers model; dtype= chooses among the bundle's dtypes",
    "processor_kwargs": "the tokenizer is fixed by the export; set max_seq_length on the model instead",
    "tokenizer_kwargs": "the tokenizer is fixed by the export; set max_seq_length on the model instead",
    "config_kwargs": "the config is fixed by the export; change it in the repo and export again",
    "model_card_data": "push_to_hub writes the card from the bundle",
}


def passages(spans: Any, text: str) -> list[tuple[int, int]]:
    """Pairs of characters, from and to, within the text, or an error that names the first other one."""
    found = list(spans)
    for i, span in enumerate(found):
        pair = tuple(span) if isinstance(span, (tuple, list)) else ()
        if len(pair) != 2 or not all(type(end) is int for end in pair) or not 0 <= pair[0] < pair[1] <= len(text):
            raise ValueError(f"spans[{i}]: expected (from, to) within 0 and {len(text)} characters, got {span!r}")
    return [(span[0], span[1]) for span in found]


def refuse(**arguments: object) -> None:
    """Raises a ValueError for the first argument of sentence-transformers that is given and has no meaning here."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name}: not available in embedrt; {_INSTEAD[name]}")


def deprecated(old: str, new: str) -> None:
    """Warns the caller's caller of an old name."""
    warnings.warn(f"{old} is the old name of {new}", DeprecationWarning, stacklevel=3)


def positive(value: Any, name: str) -> int:
    """A positive integer, or a ValueError."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {value!r}")
    return value


def one_of(value: Any, literal: Any, name: str) -> Any:
    """One of the values of a Literal, or a ValueError."""
    if value not in get_args(literal):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, get_args(literal)))}, got {value!r}")
    return value


def device_name(device: Any) -> str | None:
    """A torch.device by its name; anything else as it is."""
    name: str | None = str(device) if type(device).__module__ == "torch" else device
    return name


def coordinates(value: Any, dim: int) -> int:
    """How many coordinates to keep of `dim`, or a ValueError."""
    if type(value) is not int or not 1 <= value <= dim:
        raise ValueError(f"truncate_dim: expected 1 to {dim} or None, got {value!r}")
    return value


def length_for(runner: Runner, value: Any, name: str = "max_seq_length") -> int | None:
    """A number of tokens that this route can read, or a ValueError: room for text, and not beyond its positions."""
    least, limit = runner.tokenize.special_tokens + 1, runner.route.position_limit
    if value is None:
        fits = limit is None
    else:
        fits = type(value) is int and least <= value and (limit is None or value <= limit)
    if not fits:
        allowed = f"{least} or more, or None" if limit is None else f"{least} to {limit}, its positions"
        raise ValueError(f"{name}: expected {allowed}, got {value!r}")
    length: int | None = value
    return length


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


def ranges_for(manifest: Manifest, ranges: NDArray[Any] | None, route: str, request: Request) -> NDArray[Any] | None:
    """The ranges for int8 and uint8 vectors: the call's, else the bundle's; None if it has none.

    Raises:
        ValueError: The bundle's are of other vectors than the request's.
    """
    kept = manifest.vector_ranges
    if ranges is not None or kept is None or request.output_value != SENTENCE:
        return ranges
    scaled = not manifest.routes[route].normalized or request.dim < manifest.dim
    if request.normalize_embeddings and scaled:
        raise ValueError(
            "ranges: those in the bundle are of vectors as the model gives them, and normalize_embeddings scales them; "
            "give the ranges of normalized vectors"
        )
    return np.asarray(kept, np.float32)[:, : request.dim]
