"""What a call of the encode API gives, as data: run a case, keep its outcome, compare two outcomes.

The same code runs with and without torch, on sentence-transformers and on embedrt.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.kit.api_cases import TABLES, Arguments, Case, data_digest

REFERENCE = Path(__file__).parents[1] / "reference" / "api"
TOLERANCE = 2e-6
QUANTIZED = ("int8", "uint8", "binary", "ubinary")

Loader = Callable[[str, Arguments], Any]


@dataclass(frozen=True)
class Array:
    """An array of numpy or a tensor of torch; `container` says which."""

    container: str
    values: NDArray[Any]


@dataclass(frozen=True)
class Failure:
    """An exception: the names of its class and of the classes that it is made from."""

    types: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a call gave.

    Attributes:
        result: A tree of lists, dicts, `Array`, plain values, or a `Failure`.
        warnings: The names of the categories of Python's warnings.
        floats: For quantized vectors, the result of the same call in float32.
    """

    result: Any
    warnings: tuple[str, ...] = ()
    floats: Any = None


def outcome(load: Loader, case: Case) -> Outcome:
    """Runs a case.

    Args:
        load: Makes the model of a variant with arguments of a constructor.
        case: What to call.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            result = described(_call(load(case.variant, case.constructor), case))
        except Exception as error:  # noqa: BLE001, what is raised is what is compared
            result = Failure(tuple(kind.__name__ for kind in type(error).__mro__[:-2]))
    return Outcome(result, tuple(sorted({warning.category.__name__ for warning in told})))


def in_float32(case: Case) -> Case | None:
    """The call whose result a quantized one is made of, if the case is quantized."""
    arguments = case.arguments or {}
    if arguments.get("precision") not in QUANTIZED:
        return None
    return replace(case, arguments={**arguments, "precision": "float32"})


def _call(model: Any, case: Case) -> Any:
    before = {name: deepcopy(getattr(model, name)) for name in case.settings}
    try:
        for name, value in case.settings.items():
            setattr(model, name, deepcopy(value))
        with ExitStack() as stack:
            if case.within != 0:
                stack.enter_context(model.truncate_embeddings(case.within))
            if case.arguments is None:
                return getattr(model, case.name)
            arguments = {
                name: TABLES[name][value] if name in TABLES else value for name, value in case.arguments.items()
            }
            if arguments.get("pool") is not None:
                pool = arguments["pool"] = model.start_multi_process_pool(arguments["pool"])
                stack.callback(model.stop_multi_process_pool, pool)
            values = list(arguments.values())[: case.by_position]
            named = dict(list(arguments.items())[case.by_position :])
            return getattr(model, case.name)(*values, **named)
    finally:
        for name, value in before.items():
            setattr(model, name, value)


def described(value: Any) -> Any:
    """A result as a tree."""
    if isinstance(value, np.ndarray | np.generic):
        return Array("numpy", np.asarray(value))
    if isinstance(value, Mapping):
        return {name: described(item) for name, item in value.items()}
    if isinstance(value, list):
        return [described(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ == "Tensor":
        return Array("torch", value.detach().numpy())
    return {f"{kind.__module__}.{kind.__name__}": str(value)}


def save(outcomes: Mapping[str, Outcome], made_with: dict[str, str]) -> None:
    """Writes outcomes to the reference folder; equal arrays are stored once.

    Args:
        outcomes: By the text of the case.
        made_with: Versions and hashes to keep with them.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def plain(tree: Any) -> Any:
        if isinstance(tree, Array):
            values = np.array(tree.values, order="C")
            digest = hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()[:16]
            arrays[digest] = values
            return {"array": digest, "of": tree.container}
        if isinstance(tree, Failure):
            return {"raises": list(tree.types)}
        if isinstance(tree, dict):
            return {"dict": {name: plain(item) for name, item in tree.items()}}
        return [plain(item) for item in tree] if isinstance(tree, list) else tree

    record = {}
    for case, made in outcomes.items():
        record[case] = {"result": plain(made.result)}
        if made.warnings:
            record[case]["warnings"] = list(made.warnings)
        if made.floats is not None:
            record[case]["floats"] = plain(made.floats)
    REFERENCE.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCE / "arrays.npz", **arrays)  # type: ignore[arg-type]
    digest = hashlib.sha256((REFERENCE / "arrays.npz").read_bytes()).hexdigest()
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(made)}" for case, made in record.items())
    head = json.dumps({"made_with": made_with, "data_sha256": data_digest(), "arrays_sha256": digest})[:-1]
    (REFERENCE / "outcomes.json").write_text(f'{head}, "outcomes": {{\n{lines}\n}}}}\n', encoding="utf-8")


def load() -> dict[str, Outcome]:
    """Reads what `save` wrote, if it was made of the data that `api_cases` has now."""
    record = json.loads((REFERENCE / "outcomes.json").read_bytes())
    assert record["data_sha256"] == data_digest(), "tests/api_cases.py changed: `make golden`"
    assert record["arrays_sha256"] == hashlib.sha256((REFERENCE / "arrays.npz").read_bytes()).hexdigest()
    with np.load(REFERENCE / "arrays.npz", allow_pickle=False) as file:
        arrays = dict(file)

    def tree(plain: Any) -> Any:
        if isinstance(plain, list):
            return [tree(item) for item in plain]
        if not isinstance(plain, dict):
            return plain
        if "array" in plain:
            return Array(plain["of"], arrays[plain["array"]])
        if "raises" in plain:
            return Failure(tuple(plain["raises"]))
        return {name: tree(item) for name, item in plain["dict"].items()}

    return {
        case: Outcome(tree(made["result"]), tuple(made.get("warnings", ())), tree(made.get("floats")))
        for case, made in record["outcomes"].items()
    }


def differences(found: Outcome, expected: Outcome) -> Iterator[str]:
    """Tells where an outcome is not the expected one."""
    if found.warnings != expected.warnings:
        yield f"warnings {found.warnings}, expected {expected.warnings}"
    yield from _compare(found.result, expected.result, expected.floats, _ranges(expected.floats), "")


def worst_error(found: Any, expected: Any) -> float:
    """The largest error of a float in two trees of the same shape, where rows longer than 1 count as of length 1."""
    if isinstance(found, Array) and isinstance(expected, Array):
        if found.values.dtype.kind != "f" or found.values.shape != expected.values.shape or not found.values.size:
            return 0.0
        return float(np.abs(found.values - expected.values).max() / _scale(expected.values))
    if isinstance(found, dict) and isinstance(expected, dict):
        return max((worst_error(found[name], expected[name]) for name in found if name in expected), default=0.0)
    if isinstance(found, list) and isinstance(expected, list):
        return max((worst_error(a, b) for a, b in zip(found, expected, strict=False)), default=0.0)
    return 0.0


def _compare(found: Any, expected: Any, floats: Any, ranges: NDArray[Any] | None, where: str) -> Iterator[str]:
    if isinstance(expected, Failure):
        if not (isinstance(found, Failure) and expected.types[0] in found.types):
            yield f"{where}: expected {expected.types[0]}, got {_brief(found)}"
    elif isinstance(expected, Array):
        if isinstance(found, Array) and _kind(found) == _kind(expected):
            yield from _compare_values(found.values, expected.values, floats, ranges, where)
        else:
            yield f"{where}: expected {_brief(expected)}, got {_brief(found)}"
    elif isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            yield f"{where}: expected {_brief(expected)}, got {_brief(found)}"
            return
        for name, item in expected.items():
            yield from _compare(found[name], item, floats and floats[name], ranges, f"{where}[{name!r}]")
    elif isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            yield f"{where}: expected {_brief(expected)}, got {_brief(found)}"
            return
        for i, item in enumerate(expected):
            yield from _compare(found[i], item, floats and floats[i], ranges, f"{where}[{i}]")
    elif found != expected or type(found) is not type(expected):
        yield f"{where}: expected {expected!r}, got {_brief(found)}"


def _compare_values(
    found: NDArray[Any], expected: NDArray[Any], floats: Any, ranges: NDArray[Any] | None, where: str
) -> Iterator[str]:
    if expected.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            close = (np.abs(found - expected) <= TOLERANCE * _scale(expected)) | (found == expected)
            close |= np.isnan(found) & np.isnan(expected)
    elif isinstance(floats, Array) and ranges is not None and floats.values.shape == expected.shape:
        close = _same_bucket(found, expected, floats.values, ranges)
    elif isinstance(floats, Array) and expected.dtype.itemsize == 1 and expected.size:
        close = _same_bits(found, expected, floats.values)
    else:
        close = found == expected
    if not close.all():
        first = tuple(int(i) for i in np.argwhere(~close)[0])
        yield (
            f"{where}: {(~close).sum()} of {close.size} values differ, first at {list(first)}: "
            f"expected {expected[first]}, got {found[first]}"
        )


def _same_bucket(found: NDArray[Any], expected: NDArray[Any], floats: NDArray[Any], ranges: NDArray[Any]) -> Any:
    """Equal, or neighbours where the float vector lies on the edge between the two buckets."""
    steps = (ranges[1] - ranges[0]) / 255
    offset = 128 if expected.dtype == np.int8 else 0
    a, b = found.astype(int) + offset, expected.astype(int) + offset
    edge = ranges[0] + np.maximum(a, b) * np.where(steps == 0, 1, steps)
    on_edge = np.abs(floats - edge) <= TOLERANCE * _scale(floats)
    return (a == b) | ((np.abs(a - b) == 1) & on_edge)


def _same_bits(found: NDArray[Any], expected: NDArray[Any], floats: NDArray[Any]) -> Any:
    """Equal, or the bytes differ in bits of which the float vector is zero."""
    offset = 128 if expected.dtype == np.int8 else 0
    a, b = ((some.astype(int) + offset).astype(np.uint8) for some in (found, expected))
    zeros = np.packbits(np.abs(floats) <= TOLERANCE * _scale(floats), axis=-1)
    return ((a ^ b) & ~zeros) == 0


def _ranges(floats: Any) -> NDArray[Any] | None:
    """Least and greatest of every coordinate, over all vectors of a call."""
    arrays = [item.values for item in (floats if isinstance(floats, list) else [floats]) if isinstance(item, Array)]
    rows = [np.atleast_2d(values) for values in arrays if values.size]
    if not rows:
        return None
    together = np.concatenate(rows)
    return np.stack([together.min(axis=0), together.max(axis=0)])


def _scale(values: NDArray[Any]) -> float:
    """The length of the longest row, or 1: errors count relative to it, as if rows were normalized."""
    if not values.size or not np.isfinite(values).all():
        return 1.0
    return max(1.0, float(np.linalg.norm(np.atleast_1d(values).astype(float), axis=-1).max()))


def _kind(array: Array) -> tuple[str, Any, tuple[int, ...]]:
    return array.container, array.values.dtype, array.values.shape


def _brief(tree: Any) -> str:
    if isinstance(tree, Array):
        return f"{tree.container} {tree.values.dtype}{list(tree.values.shape)}"
    if isinstance(tree, Failure):
        return f"{tree.types[0]} raised"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{name}: {_brief(item)}" for name, item in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_brief, tree)) + "]"
    return repr(tree)
