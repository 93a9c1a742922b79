"""Strict JSON: every kind of field, and an error with a path for everything else."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt.bundle import strict_json as records
from embedrt.bundle.manifest import Manifest
from embedrt.bundle.strict_json import RecordError, decode, read_json


@dataclass(frozen=True)
class Inner:
    number: int


@dataclass(frozen=True)
class Outer:
    text: str
    whole: int
    real: float
    flag: bool
    choice: Literal["left", "right"]
    number: Literal[1, 2]
    maybe: str | None
    many: tuple[Inner, ...]
    named: dict[str, Inner]
    anything: Any
    later: int = 7
    fresh: tuple[str, ...] = dataclasses.field(default_factory=lambda: ("new",))


GOOD: dict[str, Any] = {
    "text": "é",
    "whole": -3,
    "real": 0.5,
    "flag": True,
    "choice": "left",
    "number": 2,
    "maybe": None,
    "many": [{"number": 1}, {"number": 2}],
    "named": {"a": {"number": 3}},
    "anything": {"deep": [1, None, "x"]},
}


def test_every_kind_of_field_is_decoded() -> None:
    assert decode(Outer, GOOD, "doc") == Outer(
        text="é",
        whole=-3,
        real=0.5,
        flag=True,
        choice="left",
        number=2,
        maybe=None,
        many=(Inner(1), Inner(2)),
        named={"a": Inner(3)},
        anything={"deep": [1, None, "x"]},
    )


def test_defaults_are_used_only_for_what_is_absent() -> None:
    assert decode(Outer, GOOD, "doc").fresh == ("new",)
    assert decode(Outer, {**GOOD, "later": 8, "fresh": []}, "doc").later == 8
    assert decode(Outer, {**GOOD, "fresh": []}, "doc").fresh == ()


def test_an_integer_is_a_number_and_becomes_a_float() -> None:
    real = decode(Outer, {**GOOD, "real": 2}, "doc").real
    assert type(real) is float
    assert real == 2.0


def test_an_optional_string_may_be_a_string() -> None:
    assert decode(Outer, {**GOOD, "maybe": "yes"}, "doc").maybe == "yes"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("text", 1, "doc.text: expected a string, got int '1'"),
        ("text", None, "doc.text: expected a string, got null"),
        ("text", ["x"], "doc.text: expected a string, got list"),
        ("whole", 1.0, "doc.whole: expected an integer, got float '1.0'"),
        ("whole", True, "doc.whole: expected an integer, got bool 'True'"),
        ("whole", "1", "doc.whole: expected an integer, got str '1'"),
        ("real", "0.5", "doc.real: expected a number, got str '0.5'"),
        ("real", False, "doc.real: expected a number, got bool 'False'"),
        ("real", math.inf, "doc.real: expected a finite number, got float 'inf'"),
        ("real", math.nan, "doc.real: expected a finite number, got float 'nan'"),
        ("real", 10**400, "doc.real: expected a finite number, got int '1000"),
        ("flag", 1, "doc.flag: expected a boolean, got int '1'"),
        ("choice", "up", "doc.choice: expected one of 'left', 'right', got str 'up'"),
        ("choice", ["left"], "doc.choice: expected one of 'left', 'right', got list"),
        ("number", True, "doc.number: expected one of 1, 2, got bool 'True'"),
        ("number", 1.0, "doc.number: expected one of 1, 2, got float '1.0'"),
        ("maybe", 3, "doc.maybe: expected a string, got int '3'"),
        ("many", {"number": 1}, "doc.many: expected a list, got dict"),
        ("many", "ab", "doc.many: expected a list, got str 'ab'"),
        ("many", [{"number": 1}, 5], "doc.many[1]: expected an object, got int '5'"),
        ("many", [{"number": 1}, {"number": "x"}], "doc.many[1].number: expected an integer, got str 'x'"),
        ("many", [{}], "doc.many[0]: missing field 'number'"),
        ("named", [], "doc.named: expected an object, got list"),
        ("named", {"a": {"number": None}}, "doc.named.a.number: expected an integer, got null"),
        ("named", {"a": {"number": 1, "more": 2}}, "doc.named.a: unknown field 'more'; known: number"),
    ],
)
def test_an_error_names_the_path_the_value_and_what_may_be_there(field: str, value: Any, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        decode(Outer, {**GOOD, field: value}, "doc")
    assert str(caught.value).startswith(message)


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"]
    radius: float


@dataclass(frozen=True)
class Square:
    side: float
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Drawing:
    shape: Circle | Square | None


def test_the_kind_decides_which_dataclass_it_is() -> None:
    assert decode(Drawing, {"shape": {"kind": "circle", "radius": 2}}, "doc") == Drawing(Circle("circle", 2.0))
    assert decode(Drawing, {"shape": {"kind": "square", "side": 1}}, "doc") == Drawing(Square(1.0))
    assert decode(Drawing, {"shape": None}, "doc") == Drawing(None)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"kind": "ring", "radius": 2}, "doc.shape.kind: expected one of 'circle', 'square', got str 'ring'"),
        ({"kind": None, "radius": 2}, "doc.shape.kind: expected one of 'circle', 'square', got null"),
        ({"kind": ["circle"]}, "doc.shape.kind: expected one of 'circle', 'square', got list"),
        ({"side": 2}, "doc.shape: missing field 'kind'"),
        ({"kind": "square", "radius": 2}, "doc.shape: unknown field 'radius'; known: side, kind"),
        ({"kind": "circle"}, "doc.shape: missing field 'radius'"),
        ("circle", "doc.shape: expected an object, got str 'circle'"),
    ],
)
def test_an_unknown_kind_is_refused(shape: Any, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        decode(Drawing, {"shape": shape}, "doc")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("field", list(GOOD))
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(RecordError, match=rf"^doc: missing field '{field}'$"):
        decode(Outer, {name: value for name, value in GOOD.items() if name != field}, "doc")


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    with pytest.raises(RecordError, match=r"^doc: unknown field 'extra'; known: text, whole, real"):
        decode(Outer, {**GOOD, "extra": 1}, "doc")


@pytest.mark.parametrize("value", [None, [], "text", 3, True])
def test_a_document_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(RecordError, match=r"^doc: expected an object, got "):
        decode(Outer, value, "doc")


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(RecordError) as caught:
        decode(Outer, {**GOOD, "whole": "x" * 10_000}, "doc")
    assert len(str(caught.value)) < 200


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "some.json"
    path.write_bytes(content)
    return path


def test_a_good_file_is_parsed(tmp_path: Path) -> None:
    assert read_json(_written(tmp_path, '{"é": [1, 2.5, null, true]}'.encode())) == {"é": [1, 2.5, None, True]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        (b"[NaN]", "NaN is not a finite number"),
        (b"[Infinity]", "Infinity is not a finite number"),
        (b"[-Infinity]", "-Infinity is not a finite number"),
        (b"[1e999]", "1e999 is not a finite number"),
        (b"[-1e999]", "-1e999 is not a finite number"),
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1} x', "Extra data"),
        (b"{'a': 1}", "Expecting property name"),
        ('{"a": "é"}'.encode("latin-1"), "'utf-8' codec can't decode"),
        ('{"a": 1}'.encode("utf-16"), "'utf-8' codec can't decode"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[" * 100_000 + b"]" * 100_000, "recursion"),
        (b"1" * 5000, "4300 digits"),
        (b"\0" * 30, "Expecting value"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_not_json_is_refused_and_the_file_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_json(_written(tmp_path, content))
    assert str(caught.value).startswith("some.json: not valid JSON: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b'["\\ud800"]', b'{"a\\uDFFF": 1}', b'["\\udc00\\ud800"]'])
def test_lone_surrogates_are_refused(tmp_path: Path, content: bytes) -> None:
    """No text, message or log can hold them."""
    with pytest.raises(RecordError, match=r"^some\.json.*: expected valid Unicode, got a lone surrogate in"):
        read_json(_written(tmp_path, content))


def test_the_message_about_a_surrogate_can_be_written(tmp_path: Path) -> None:
    """Also if the key above the string has another."""
    path = tmp_path / "file.json"
    path.write_bytes(rb'{"\udfff": {"a": "\ud800"}}')
    with pytest.raises(RecordError, match="lone surrogate") as caught:
        read_json(path)
    assert str(caught.value).encode()


def test_pairs_of_surrogates_are_one_character(tmp_path: Path) -> None:
    assert read_json(_written(tmp_path, b'["\\ud83d\\ude42", "\\\\ud800"]')) == ["🙂", "\\ud800"]


def test_a_huge_file_is_refused_by_its_size_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_BYTES", 10)
    assert read_json(_written(tmp_path, b"[1,2,3,45]")) == [1, 2, 3, 45]
    with pytest.raises(RecordError, match=r"^some\.json: expected at most 10 bytes, got 11$"):
        read_json(_written(tmp_path, b"not json at"))


def test_an_absent_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json")


TEXT = st.text(max_size=8)


def nested(scalars: st.SearchStrategy[Any], leaves: int) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=leaves,
    )


FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = nested(st.none() | st.booleans() | st.integers() | st.floats() | TEXT, 12)
CLEAN_JSON = nested(st.none() | st.booleans() | st.integers() | FINITE | TEXT, 5)


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    Any: CLEAN_JSON,
    str: TEXT,
    int: st.integers(),
    bool: st.booleans(),
    float: FINITE,
    type(None): st.none(),
}


def of_kind(kind: Any) -> st.SearchStrategy[Any]:
    """Values of any annotation that `decode` knows."""
    if kind in SCALARS:
        return SCALARS[kind]
    if dataclasses.is_dataclass(kind):
        fields = {name: of_kind(hint) for name, hint in get_type_hints(kind).items()}
        return st.fixed_dictionaries(fields).map(lambda given: kind(**given))  # type: ignore[operator]
    arguments = get_args(kind)
    containers: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        Literal: lambda: st.sampled_from(arguments),
        tuple: lambda: st.lists(of_kind(arguments[0]), max_size=2).map(tuple),
        dict: lambda: st.dictionaries(TEXT, of_kind(arguments[1]), max_size=2),
    }
    return containers.get(get_origin(kind), lambda: st.one_of(*map(of_kind, arguments)))()


def as_json(record: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(record)))


MANIFESTS = of_kind(Manifest)


@given(MANIFESTS)
def test_a_manifest_survives_json(manifest: Manifest) -> None:
    assert decode(Manifest, as_json(manifest), "doc") == manifest


@given(JSON)
def test_any_json_raises_record_errors_only(value: Any) -> None:
    with pytest.raises(RecordError, match=r"^doc"):
        decode(Manifest, value, "doc")


@given(MANIFESTS, st.data())
def test_a_changed_field_is_decoded_or_refused_by_its_name(manifest: Manifest, data: st.DataObject) -> None:
    raw = as_json(manifest)
    field = data.draw(st.sampled_from(sorted(raw)))
    raw[field] = data.draw(JSON)
    refusal = None
    try:
        decoded = decode(Manifest, raw, "doc")
    except RecordError as error:
        refusal = str(error)
    if refusal is None:
        assert contains(as_json(decoded)[field], raw[field])
    else:
        assert refusal.startswith(f"doc.{field}")


@given(MANIFESTS)
def test_an_empty_record_gets_its_defaults(manifest: Manifest) -> None:
    decoded = as_json(decode(Manifest, {**as_json(manifest), "sparse": {}}, "doc"))
    assert decoded["sparse"] == {"max_active_dims": None}
    assert contains(decoded["sparse"], {})
    assert not contains(decoded["sparse"], {"max_active_dims": 3})
    assert not contains(decoded["sparse"], {"other": None})


def contains(decoded: Any, given_value: Any) -> bool:
    """Return True if a value is what was given, but for optional fields of records, which have defaults."""
    if isinstance(decoded, dict) and isinstance(given_value, dict):
        return all(name in decoded and contains(decoded[name], value) for name, value in given_value.items())
    if isinstance(decoded, list) and isinstance(given_value, list):
        return len(decoded) == len(given_value) and all(map(contains, decoded, given_value))
    return bool(decoded == given_value)
