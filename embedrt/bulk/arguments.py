"""Keyword arguments to the options of a bulk job, for the functions that users call."""

from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict, cast

from embedrt.bulk.options import LongTexts, Meaning, ModelChoice, OnError, PartFormat, VectorType


class Options(TypedDict, total=False):
    """The options of `Meaning` and of `ModelChoice`, by name. A single column may be a str."""

    text: str | tuple[str, ...] | list[str]
    template: str | None
    id: str | None
    keep: str | tuple[str, ...] | list[str] | None
    vector: str
    prompt_name: str | None
    prompt: str | None
    task: str | None
    normalize: bool
    dim: int | None
    vector_type: VectorType
    fixed_size: bool
    long_texts: LongTexts
    on_error: OnError
    with_tokens: bool
    part_format: PartFormat
    part_rows: int
    device: str | None
    dtype: str | None
    threads: int | None
    max_tokens: int | None
    max_seq_length: int | None
    local_files_only: bool


def choices(model: str | Path, options: Options) -> tuple[ModelChoice, Meaning]:
    """Sort keyword arguments into the choice of the model and the options that decide the result.

    Args:
        model: A bundle folder, a name in the local store, or a hub id.
        options: The other arguments.

    Raises:
        TypeError: There is no such option.
    """
    given = {name: _columns(value) if name in {"text", "keep"} else value for name, value in options.items()}
    of_model = {field.name for field in fields(ModelChoice)} - {"source"}
    of_result = {field.name for field in fields(Meaning)}
    if unknown := sorted(given.keys() - of_model - of_result):
        raise TypeError(f"{unknown[0]}: no such option; there are {', '.join(sorted(of_model | of_result))}")
    choice = ModelChoice(str(model), **cast(dict[str, Any], {name: given[name] for name in given.keys() & of_model}))
    return choice, Meaning(**cast(dict[str, Any], {name: given[name] for name in given.keys() & of_result}))


def _columns(value: Any) -> tuple[str, ...] | None:
    """Column names as a tuple."""
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)
