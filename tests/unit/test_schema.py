"""The documented bundle format: schema and page follow the dataclasses, and real manifests satisfy them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests.kit.bundles import Json, read_raw
from tests.reference.make_schema import PAGE, SCHEMA, page, schema


@pytest.fixture(scope="module")
def validator() -> Any:
    made = json.loads(SCHEMA.read_bytes())
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


def test_the_schema_is_that_of_the_dataclasses() -> None:
    assert json.loads(SCHEMA.read_bytes()) == schema(), "run `python -m tests.reference.make_schema`"


def test_the_page_has_every_field() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "run `python -m tests.reference.make_schema`"
    assert "|  |" not in text, "every field has a meaning in the docstring of its dataclass"


def test_a_real_manifest_is_valid(tiny_bundle: Path, validator: Any) -> None:
    validator.validate(read_raw(tiny_bundle))


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw.update(format_version=2),
        lambda raw: raw.update(more=1),
        lambda raw: raw.pop("task"),
        lambda raw: raw["routes"]["default"]["variants"][0].update(dtype="fp32"),
        lambda raw: raw["routes"]["default"]["variants"][0].update(proof=None),
        lambda raw: raw["routes"]["default"]["variants"][0]["proof"].update(kind="quality"),
        lambda raw: raw["routes"]["default"]["outputs"]["sentence_embedding"].update(width="32"),
    ],
    ids=["version", "extra field", "missing field", "dtype", "no proof", "kind of proof", "type"],
)
def test_what_the_reader_rejects_is_not_valid(tiny_bundle: Path, validator: Any, edit: Callable[[Json], Any]) -> None:
    raw = read_raw(tiny_bundle)
    edit(raw)
    with pytest.raises(ValidationError):
        validator.validate(raw)
