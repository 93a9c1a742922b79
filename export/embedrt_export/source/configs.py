"""Config files of a model repo to frozen dataclasses."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from embedrt.bundle.strict_json import RecordError, decode, read_json
from embedrt.errors import ExportError, UnsupportedModelError

Config = TypeVar("Config")

_MAX_LAYERS = 10_000


def read_config(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

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
    """Decodes a config whose every key matters: an unknown key may change the numbers, so it is refused.

    Raises:
        UnsupportedModelError: Names the key, what it holds and what is known.
    """
    try:
        return decode(kind, content, where)
    except RecordError as error:
        raise UnsupportedModelError(str(error)) from error


def pick(kind: type[Config], content: Mapping[str, Any], where: str = "config.json") -> Config:
    """Decodes the keys that `kind` knows out of a config that has many more, null counting as absent.

    Raises:
        UnsupportedModelError: Names the key, what it holds and what is known.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return strict(kind, {key: value for key, value in content.items() if key in known and value is not None}, where)


def check_positive(config: Any, *names: str) -> None:
    """Checks that fields of a family's config are above 0; None is left to the family.

    Raises:
        UnsupportedModelError: Names the key and what it holds.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise UnsupportedModelError(f"config.json.{name}: expected a positive number, got {value}")


def check_layers(layers: int) -> None:
    """Checks a number of layers against what any model has.

    More would only fill the memory of whoever plans them, before the first tensor turns out to be missing.

    Raises:
        UnsupportedModelError: There are too many.
    """
    if layers > _MAX_LAYERS:
        raise UnsupportedModelError(f"config.json.num_hidden_layers: {layers}, no model has more than {_MAX_LAYERS}")
