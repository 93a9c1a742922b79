"""Where embedrt differs from sentence-transformers on purpose: one table, and what embedrt gives instead.

A test fails where embedrt does anything else than what sentence-transformers or this table says.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embedrt.types import DeviceName
from tests.kit.api_cases import ARRAYS, LIMIT, NARROW, NOT_TEXTS, VARIANTS, WIDTH, WRONG, Case
from tests.kit.api_outcomes import Array, Failure, Outcome, in_float32, load

Change = Callable[[Case, Outcome], Outcome]


@dataclass(frozen=True)
class Difference:
    """A row of the table.

    Attributes:
        what: The calls that differ.
        theirs: What sentence-transformers does.
        ours: What embedrt does.
        reason: Why.
        applies: Whether a case, with the outcome in sentence-transformers, is such a call.
        instead: The outcome in embedrt.
    """

    what: str
    theirs: str
    ours: str
    reason: str
    applies: Callable[[Case, Outcome], bool]
    instead: Change


def expected(case: Case, theirs: Outcome, *, torch: bool) -> tuple[Outcome, list[str]]:
    """What embedrt gives for a case.

    Args:
        case: The call.
        theirs: The outcome in sentence-transformers.
        torch: Whether torch is installed.

    Returns:
        The outcome, and which differences it has to that in sentence-transformers.
    """
    applied = []
    outcome = theirs
    for row in DIFFERENCES if torch else [*DIFFERENCES, WITHOUT_TORCH]:
        if row.applies(case, theirs):
            outcome = row.instead(case, outcome)
            applied.append(row.what)
    return outcome, applied


def _arguments(case: Case) -> dict[str, Any]:
    return case.arguments or {}


def _inputs(case: Case) -> Any:
    return _arguments(case).get("inputs", _arguments(case).get("sentences"))


def _encodes(case: Case) -> bool:
    return case.name.startswith("encode")


def _tensors(case: Case) -> bool:
    """Whether the caller asks for tensors of torch."""
    arguments = _arguments(case)
    return bool(arguments.get("convert_to_tensor")) or arguments.get("convert_to_numpy") is False


def _raises(*names: str) -> Change:
    return lambda _, outcome: replace(outcome, result=Failure(names), floats=None)


def _each_array(change: Callable[[Array], Array]) -> Change:
    def walk(tree: Any) -> Any:
        if isinstance(tree, Array):
            return change(tree)
        if isinstance(tree, dict):
            return {name: walk(item) for name, item in tree.items()}
        return [walk(item) for item in tree] if isinstance(tree, list) else tree

    return lambda _, outcome: replace(outcome, result=walk(outcome.result))


_in_numpy = _each_array(lambda array: replace(array, container="numpy"))


def _dim(case: Case) -> int:
    """Coordinates of a vector."""
    whole = {"dense": NARROW, "router": NARROW, "truncated": 2 * WIDTH}.get(case.variant, WIDTH)
    variant = VARIANTS[case.variant]
    of_model = None if variant is None else variant.settings.get("truncate_dim")
    of_model = case.settings.get("truncate_dim") or case.constructor.get("truncate_dim") or of_model
    return _arguments(case).get("truncate_dim") or (of_model if case.within == 0 else case.within) or whole


def _default_prompt_is_missing(case: Case) -> bool:
    variant = VARIANTS[case.variant]
    of_model = {} if variant is None else variant.settings
    name = case.settings.get("default_prompt_name", of_model.get("default_prompt_name"))
    prompts = case.settings.get("prompts", {"query": "", "document": "", **of_model.get("prompts", {})})
    known = set(prompts) | set(case.constructor.get("prompts", {}))
    looks_it_up = case.name == "encode" or (case.name == "encode_document" and "document" not in known)
    return looks_it_up and name is not None and name not in known


def _empty(case: Case, outcome: Outcome) -> bool:
    result = outcome.result
    return isinstance(result, Array) and result.values.shape == (0,) and _no_texts(case) and not _wrong(case)


def _no_texts(case: Case) -> bool:
    return str(_inputs(case)).startswith("empty")


def _with_shape(case: Case, outcome: Outcome) -> Outcome:
    precision = _arguments(case).get("precision") or "float32"
    dtype = {"binary": "int8", "ubinary": "uint8"}.get(precision, precision)
    dim = -(-_dim(case) // 8) if precision.endswith("binary") else _dim(case)
    return replace(outcome, result=Array(outcome.result.container, np.empty((0, dim), dtype)))


def _unpadded(case: Case, outcome: Outcome) -> Outcome:
    def change(features: Any) -> Any:
        if isinstance(features, list):
            return [change(item) for item in features]
        length = int(features["attention_mask"].values.sum())
        kept = {
            name: replace(features[name], values=features[name].values[:length])
            for name in ("input_ids", "attention_mask", "token_embeddings")
        }
        if case.variant == "left out":
            pooled = np.arange(length) >= features.get("prompt_length", 0)
            kept["pooling_mask"] = replace(features["input_ids"], values=pooled.astype(np.int64))
        return {**kept, "sentence_embedding": features["sentence_embedding"]}

    return replace(outcome, result=change(outcome.result))


def _without_tokens(case: Case, _: Outcome) -> bool:
    static = case.variant == "static" or (case.variant == "router" and case.name == "encode_query")
    return _encodes(case) and static and _arguments(case).get("output_value", "") in ("token_embeddings", None)


def _wrong(case: Case) -> list[str]:
    """Which arguments of a call are wrong."""
    return [name for name, value in _arguments(case).items() if any(value is wrong for wrong in WRONG.get(name, ()))]


def _tokenized(_: Case, outcome: Outcome) -> Outcome:
    """What the graph takes: padded ids and their mask, also of a static table, whose texts come as one row here."""
    features = outcome.result
    if "offsets" in features:
        rows = np.split(features["input_ids"].values, features["offsets"].values[1:])
    else:
        rows = list(features["input_ids"].values) if features else []
    longest = max(map(len, rows), default=0)
    ids, mask = np.zeros((2, len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    if "attention_mask" in features:
        mask = features["attention_mask"].values
    return replace(outcome, result={"input_ids": Array("numpy", ids), "attention_mask": Array("numpy", mask)})


_FORMULAS: dict[str, Callable[[Any, Any], Any]] = {
    "cosine": lambda a, b: (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12),
    "dot": lambda a, b: (a * b).sum(-1),
    "euclidean": lambda a, b: -np.linalg.norm(a - b, axis=-1),
    "manhattan": lambda a, b: -np.abs(a - b).sum(-1),
}


def _mixed(case: Case, outcome: Outcome) -> bool:
    """Similarities that torch refuses though the shapes fit: of integers, of float32 with float64."""
    kinds = {str(value) for value in _arguments(case).values()}
    fits = not kinds & {"narrow"} and not (case.name == "similarity_pairwise" and kinds & {"other", "none of them"})
    return case.name.startswith("similarity") and isinstance(outcome.result, Failure) and bool(kinds) and fits


def _computed(case: Case, outcome: Outcome) -> Outcome:
    arrays = [np.asarray(ARRAYS[name]) for name in _arguments(case).values()]
    a, b = (np.atleast_2d(array).astype(np.float64) for array in arrays)
    dtype = np.float64 if "double" in _arguments(case).values() else np.float32
    formula = _FORMULAS[case.settings.get("similarity_fn_name", "cosine")]
    values = formula(a[:, np.newaxis], b) if case.name == "similarity" else formula(a, b)
    return replace(outcome, result=Array("numpy", values.astype(dtype)))


# What embedrt raises for wrong arguments.
_ERRORS = {
    "batch_size": "ValueError",
    "output_value": "ValueError",
    "prompt": "TypeError",
    "task": "ValueError",
    "device": "DeviceError",
}


def _without_batch_size(case: Case, _: Outcome) -> Outcome:
    """The outcome of the same call without its only other argument, or with another one that is None."""
    golden, inputs = load(), {"inputs": _inputs(case)}
    calls = [str(replace(case, arguments=inputs | more)) for more in ({}, {"precision": None})]
    outcome = next(golden[call] for call in calls if call in golden)
    return _with_shape(case, outcome) if _no_texts(case) else outcome


def _other_error(case: Case) -> str | None:
    if _arguments(case).get("device") == []:
        return "ValueError"
    return next((_ERRORS[name] for name in _wrong(case) if name in _ERRORS), None)


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "an empty list",
        "shape `(0,)`, float64",
        "shape `(0, dim)` of the type asked for",
        "what works for a batch works for an empty one: stacking, saving, similarities",
        _empty,
        _with_shape,
    ),
    Difference(
        "`output_value=None`",
        "dicts padded to the batch, with internals",
        "dicts without padding, of what the graph takes and gives",
        "the result depends on no other text",
        lambda case, outcome: (
            _encodes(case)
            and _arguments(case).get("output_value", "") is None
            and not _without_tokens(case, outcome)
            and not isinstance(outcome.result, Failure)
        ),
        _unpadded,
    ),
    Difference(
        '`output_value="token_embeddings"` or None of a model that has no tokens (static)',
        "`KeyError`, or dicts with internals",
        "`ValueError`",
        "there is nothing to give",
        _without_tokens,
        _raises("ValueError"),
    ),
    Difference(
        "`output_value=None` with a `precision`",
        "whatever numpy raises; nothing where there are no texts",
        "`ValueError`",
        "the dicts have nothing that a precision could be for",
        lambda case, _: (
            _encodes(case) and _arguments(case).get("output_value", "") is None and in_float32(case) is not None
        ),
        _raises("ValueError"),
    ),
    Difference(
        '`output_value="token_embeddings"` or None, `similarity`, `similarity_pairwise`, `tokenize`',
        "tensors of torch",
        "numpy arrays; of `encode` tensors with `convert_to_tensor=True` or `convert_to_numpy=False`",
        "torch is not needed",
        lambda case, outcome: not _tensors(case) and _in_numpy(case, outcome) != outcome,
        _in_numpy,
    ),
    Difference(
        "`model.device`",
        "a `torch.device`",
        "a str that is equal to it, with its `type`",
        "torch is not needed",
        lambda case, _: case.name == "device",
        lambda _, outcome: replace(outcome, result=DeviceName(outcome.result["torch.device"])),
    ),
    Difference(
        "`truncate_dim` that is not 1 to dim",
        "0 and negative numbers slice as in Python, more than dim is dim",
        "`ValueError`",
        "vectors of another length than asked for do harm late",
        lambda case, _: "truncate_dim" in _wrong(case) or case.within == 2000,
        _raises("ValueError"),
    ),
    Difference(
        "unknown keywords, `processing_kwargs`",
        "`ValueError`; tokenizer options of a call",
        "`TypeError`",
        "what Python gives; the tokenizer is the bundle's",
        lambda case, _: bool({"unknown", "processing_kwargs"}.intersection(_wrong(case))),
        _raises("TypeError"),
    ),
    Difference(
        "inputs that are not str, or a collection of it: pairs, dicts, numbers, bytes",
        "pairs and dicts are read, the rest is `ValueError`",
        "`TypeError` with the index of the item",
        "a bundle reads text",
        lambda case, _: _encodes(case) and _inputs(case) in NOT_TEXTS,
        _raises("TypeError"),
    ),
    Difference(
        "`batch_size=None`, the default",
        "an error; the default is 32",
        "as many texts as the token budget of the device allows; a number is an upper bound",
        "32 short texts leave a GPU idle",
        lambda case, _: _arguments(case).get("batch_size", 1) is None,
        _without_batch_size,
    ),
    Difference(
        "wrong values of `batch_size`, `output_value`, `prompt`, `task`, `device`",
        "the error that torch or Python raises when it gets there; none where there are no texts",
        "`ValueError`, `TypeError` or `DeviceError`, before any work, with what is allowed",
        "the message helps",
        lambda case, outcome: (
            _other_error(case) is not None
            and not (
                isinstance(outcome.result, Failure) and outcome.result.types[0] in ("ValueError", _other_error(case))
            )
            and not (case.name != "encode" and "task" in _wrong(case))
        ),
        lambda case, outcome: _raises(str(_other_error(case)))(case, outcome),
    ),
    Difference(
        "a device that is not there, for the constructor",
        "the error of torch",
        "`DeviceError`",
        "the message helps",
        lambda case, _: case.constructor.get("device") == "gpu",
        _raises("DeviceError"),
    ),
    Difference(
        "`modules=`, `backend=`, `model_kwargs=` and the like",
        "what torch runs",
        "`ValueError` with what to do instead",
        "a bundle is exported, nothing in it is built here",
        lambda case, _: "modules" in case.constructor,
        _raises("ValueError"),
    ),
    Difference(
        "`default_prompt_name` set to a name that is not among the prompts",
        "an error in the constructor, no prompt where it is set later",
        "`ValueError` in the next call",
        "a typo would leave out the prompt",
        lambda case, outcome: (
            not {"prompt_name", "prompt"} & set(_arguments(case))
            and _default_prompt_is_missing(case)
            and not isinstance(outcome.result, Failure)
        ),
        _raises("ValueError"),
    ),
    Difference(
        "`max_seq_length` set to what the model has no positions for, or to no number of tokens",
        "an error for a text that is long enough, or nonsense",
        "`ValueError` when it is set",
        "the limits are known",
        lambda case, _: case.variant == "plain" and case.settings.get("max_seq_length", 8) not in range(3, 513),
        _raises("ValueError"),
    ),
    Difference(
        "`max_seq_length` of a static model or one with routes",
        "`inf`, and cannot be set",
        "None or the longest of its routes, and can be set",
        "a limit is a number or none",
        lambda case, _: case.variant in ("static", "router") and "max_seq_length" in case.name,
        lambda case, outcome: replace(
            outcome,
            result=case.settings.get("max_seq_length", LIMIT if case.variant == "router" else None),
        ),
    ),
    Difference(
        "`tokenize`",
        "with the internals of its modules; the texts of a static model in one row",
        "what the graph takes: int64 `[texts, tokens]`, padded",
        "one form for every model",
        lambda case, _: case.name == "tokenize",
        _tokenized,
    ),
    Difference(
        "similarities of float32 with float64, and of integers",
        "an error",
        "computed, in float64 if one side is",
        "numpy can",
        _mixed,
        _computed,
    ),
    Difference(
        "similarities of vectors whose shapes do not fit",
        "`RuntimeError`",
        "`ValueError` with the shapes",
        "a wrong argument is a `ValueError`",
        lambda case, outcome: (
            case.name.startswith("similarity")
            and bool(case.arguments)
            and isinstance(outcome.result, Failure)
            and not _mixed(case, outcome)
        ),
        _raises("ValueError"),
    ),
    Difference(
        "old names: `sentences=`, `get_sentence_embedding_dimension`, `get_max_seq_length`",
        "a `FutureWarning`, or a line in the log, or nothing",
        "`DeprecationWarning`",
        "as Python has it",
        lambda case, _: (
            case.name in ("get_sentence_embedding_dimension", "get_max_seq_length")
            or ("sentences" in _arguments(case) and case.name != "encode_multi_process")
        ),
        lambda _, outcome: replace(outcome, warnings=("DeprecationWarning",)),
    ),
)

WITHOUT_TORCH = Difference(
    "`convert_to_tensor=True`, `convert_to_numpy=False` where torch is not installed",
    "torch is always there",
    "`MissingDependencyError`",
    "torch is not needed for anything else",
    lambda case, _: _encodes(case) and _tensors(case),
    _raises("MissingDependencyError"),
)


@dataclass(frozen=True)
class Unrecorded:
    """A row of the table for what is not among the recorded calls; tests/unit has the tests."""

    what: str
    theirs: str
    ours: str
    reason: str


STRICTER: tuple[Unrecorded, ...] = (
    Unrecorded(
        "truth values that are no bool: `normalize_embeddings=1`",
        "the truth value that Python gives them",
        "`ValueError`",
        'arrays have none, and that of `"no"` is True',
    ),
    Unrecorded(
        '`precision=""`, and other empty values',
        "float32",
        "`ValueError`; None is float32",
        "the message helps",
    ),
)

METHODS: tuple[Unrecorded, ...] = (
    Unrecorded(
        "`to(device)`, `cpu()`, `cuda()`",
        "move the weights",
        "the device of all later calls; memory on the old one is freed",
        "sessions are on a device",
    ),
    Unrecorded(
        "`to(dtype)`, `half()`, `bfloat16()`, `float()`",
        "convert the weights",
        "the model itself if it is loaded in that dtype, else `ValueError`",
        "a graph has one dtype: choose it with `dtype=` of the constructor",
    ),
    Unrecorded(
        "`eval()`, `train(False)`; `train()`",
        "switch dropout off or on",
        "the model itself; `ValueError`",
        "a bundle is never trained",
    ),
    Unrecorded(
        "`model[0]`, `_first_module()`; `model[1]`, `for module in model`",
        "the modules",
        "an object with `tokenizer` and `max_seq_length`; `IndexError`, `TypeError`",
        "a bundle is one graph",
    ),
    Unrecorded(
        "`set_pooling_include_prompt`",
        "changes the pooling",
        "`ValueError` unless the bundle pools so",
        "the export has fixed it",
    ),
    Unrecorded(
        "`parameters`, `modules`, `state_dict`, `forward`, hooks, `auto_model`, `fit`, `compile`, ...",
        "of torch, transformers, or the training",
        "`AttributeError` with what to do instead",
        "there are no torch weights",
    ),
    Unrecorded(
        "sparse tensors of torch in `cos_sim` and the like",
        "computed",
        "`TypeError`",
        "sparse vectors are `SparseVectors`, and `SparseEncoder.similarity` compares them",
    ),
)

_HEAD = (
    "# Differences to sentence-transformers",
    "",
    "These calls differ on purpose. All other calls of the encode API give the results of sentence-transformers 6.2:",
    "`tests/kit/api_cases.py` lists the calls that are compared, one by one. This table is generated from",
    "`tests/kit/api_differences.py`; a call that behaves in any other way fails a test.",
    "",
    "| call | sentence-transformers | embedrt | why |",
    "|---|---|---|---|",
)


def page() -> str:
    """The page docs/reference/differences.md."""
    listed: list[Difference | Unrecorded] = [*DIFFERENCES, WITHOUT_TORCH, *STRICTER, *METHODS]
    rows = [f"| {row.what} | {row.theirs} | {row.ours} | {row.reason} |" for row in listed]
    return "\n".join([*_HEAD, *rows, ""])


if __name__ == "__main__":
    print(page(), end="")
