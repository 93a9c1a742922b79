"""Config files of a model repo to frozen dataclasses."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from embedrt.bundle.strict_json import RecordError, decode, read_json
from embedrt.errors import ExportError, UnsupportedModelError

Config = TypeVar("Config")

_MAX_LAYERS = 10_000


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ExportError: The file is missing, damaged or not an object.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise ExportError(f"{path.name}: missing in {path.parent.name}; a model folder needs it") from error
    except RecordError as error:
        raise ExportError(str(error)) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path.name}: expected an object, got {type(content).__name__}")
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ExportError(f"{path.name}: a lone surrogate, which no encoding can express") from None
    return content


def strict(kind: type[Config], content: Any, where: str) -> Config:
    """Decode a config whose every key matters: an unknown key may change the numbers and is an error.

    Raises:
        UnsupportedModelError: Names the key, what it holds and what is known.
    """
    try:
        return decode(kind, content, where)
    except RecordError as error:
        raise UnsupportedModelError(str(error)) from error


def pick(
    kind: type[Config],
    content: Mapping[str, Any],
    where: str = "config.json",
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Decode the keys that `kind` knows out of a config that has many more; null counts as absent.

    Args:
        kind: A dataclass, with the defaults of transformers for one `model_type`.
        content: The config.
        where: Its name, for messages.
        defaults: Defaults of another `model_type` of the same family, where they differ.

    Raises:
        UnsupportedModelError: Names the key, what it holds and what is known.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    stated = {key: value for key, value in content.items() if key in known and value is not None}
    return strict(kind, {**(defaults or {}), **stated}, where)


def check_sizes(config: Any, *, unchecked: Collection[str] = ()) -> None:
    """Check the integers in a family's config: sizes are positive, and ids are not negative.

    Without a `head_dim`, `hidden_size` must be a multiple of `num_attention_heads`. A number of layers beyond what any
    model has would fill the memory before the first tensor turns out to be missing.

    Args:
        config: A dataclass with the names of transformers.
        unchecked: Fields for which other values are valid, or which the family checks.

    Raises:
        UnsupportedModelError: Names the key and its value.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name, value in values.items():
        lowest = 0 if name.endswith("_id") else 1
        if name not in unchecked and type(value) is int and value < lowest:
            expected = "an id" if lowest == 0 else "a positive integer"
            raise UnsupportedModelError(f"config.json.{name}: expected {expected}, got {value}")
    for name in ("num_hidden_layers", "num_layers"):
        if values.get(name, 0) > _MAX_LAYERS:
            raise UnsupportedModelError(f"config.json.{name}: {values[name]}, no model has more than {_MAX_LAYERS}")
    if "head_dim" not in values and {"hidden_size", "num_attention_heads"} <= values.keys():
        check_multiple("hidden_size", values["hidden_size"], "num_attention_heads", values["num_attention_heads"])


def check_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Check that one size is a multiple of another.

    Raises:
        UnsupportedModelError: Names both keys and their values.
    """
    if divisor < 1 or value % divisor:
        raise UnsupportedModelError(f"config.json: {name} {value} is not a multiple of {divisor_name} {divisor}")
