"""Read config files of a model repo into frozen dataclasses."""

import dataclasses
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
        raise ExportError(f"{path.name}: missing in {path.parent.name}; get the model again") from error
    except RecordError as error:
        raise ExportError(str(error)) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path.name}: expected an object, got {type(content).__name__}")
    return content


def strict(kind: type[Config], content: Any, where: str) -> Config:
    """Decode a config whose every key matters: an unknown key may change the vectors and is an error.

    Raises:
        UnsupportedModelError: A key or value is not supported; the message names it.
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
    """Decode the keys that `kind` knows from a config that may have others; null counts as absent.

    Args:
        kind: A dataclass, with the defaults of transformers for one `model_type`.
        content: The config.
        where: The config's name in messages.
        defaults: Defaults that differ for another `model_type` of the same family.

    Raises:
        UnsupportedModelError: A key or value is not supported; the message names it.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    stated = {key: value for key, value in content.items() if key in known and value is not None}
    return strict(kind, {**(defaults or {}), **stated}, where)


def check_sizes(config: Any, *, unchecked: Collection[str] = ()) -> None:
    """Check the integers in a family's config: sizes are positive, and ids are not negative.

    Without a `head_dim`, `hidden_size` must be a multiple of `num_attention_heads`. An absurd number of layers
    would fill the memory before the first tensor is missed.

    Args:
        config: A dataclass with the key names of transformers.
        unchecked: Fields that may have other values, or that the family checks.

    Raises:
        UnsupportedModelError: A size is not supported; the message names the key and its value.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name, value in values.items():
        lowest = 0 if name.endswith("_id") else 1
        if name not in unchecked and type(value) is int and value < lowest:
            expected = "an id" if lowest == 0 else "a positive integer"
            raise UnsupportedModelError(f"config.json.{name}: expected {expected}, got {value}")
    for name in ("num_hidden_layers", "num_layers"):
        if values.get(name, 0) > _MAX_LAYERS:
            raise UnsupportedModelError(f"config.json.{name}: expected at most {_MAX_LAYERS}, got {values[name]}")
    if values.get("head_dim") is None and {"hidden_size", "num_attention_heads"} <= values.keys():
        size, heads = values["hidden_size"], values["num_attention_heads"]
        if "head_dim" not in values:
            check_multiple("hidden_size", size, "num_attention_heads", heads)
        elif size < heads:
            raise UnsupportedModelError(
                f"config.json.hidden_size: expected at least one for each of {heads} heads, got {size}"
            )


def check_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Check that one size is a multiple of another.

    Raises:
        UnsupportedModelError: It is not; the message names both keys and their values.
    """
    if divisor < 1 or value % divisor:
        raise UnsupportedModelError(f"config.json: {name} {value} is not a multiple of {divisor_name} {divisor}")
