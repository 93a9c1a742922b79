"""Calls of SparseEncoder: the same arguments for embedrt and for sentence-transformers, and what they give."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCE = Path(__file__).parents[1] / "reference" / "sparse"
TOLERANCE = 1e-5
TEXTS = [
    "the dog, the cat.",
    "",
    "bank",
    "river bank! money [SEP] two three; the dog is not a cat, and one of them was at the boat ? dog",
]


@dataclass(frozen=True)
class Answer:
    """What a call gives: dense arrays, and words."""

    arrays: list[NDArray[np.float32]]
    words: list[Any]


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        method: The method. The ones that take vectors get those of `TEXTS` as queries and documents.
        inputs: The texts, or one text.
        arguments: Keyword arguments.
        settings: Attributes to set on the model for the call.
    """

    method: str
    inputs: list[str] | str = field(default_factory=lambda: list(TEXTS))
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        inputs = "" if self.inputs == TEXTS else f" {self.inputs!r:.20}"
        return f"{self.method}{inputs} {json.dumps({**self.arguments, **self.settings})}"


CALLS = [
    Call("encode"),
    Call("encode_query"),
    Call("encode_document"),
    Call("encode", TEXTS[0]),
    Call("encode_query", TEXTS[3]),
    Call("encode_document", TEXTS[1]),
    Call("encode_query", []),
    Call("encode", arguments={"task": "query", "prompt_name": "document"}),
    Call("encode", arguments={"task": "document", "prompt": "bank: ", "batch_size": 1}),
    Call("encode_query", arguments={"prompt": "", "batch_size": 3}),
    Call("encode_document", arguments={"max_active_dims": 4}),
    Call("encode_query", TEXTS[3], {"max_active_dims": 2}),
    Call("encode_query", arguments={"convert_to_tensor": False}),
    Call("encode", TEXTS[3], {"convert_to_tensor": False, "max_active_dims": 6}),
    Call("encode_document", arguments={"convert_to_sparse_tensor": False}),
    Call("encode", arguments={"convert_to_sparse_tensor": False, "convert_to_tensor": False, "save_to_cpu": True}),
    Call("encode_document", settings={"max_active_dims": 5}),
    Call("encode", arguments={"task": "query"}, settings={"default_prompt_name": "query"}),
    Call("similarity"),
    Call("similarity", TEXTS[3]),
    Call("similarity_pairwise"),
    *(Call("similarity", settings={"similarity_fn_name": name}) for name in ("cosine", "euclidean", "manhattan")),
    *(
        Call("similarity_pairwise", settings={"similarity_fn_name": name})
        for name in ("cosine", "dot", "euclidean", "manhattan")
    ),
    Call("sparsity"),
    Call("sparsity", TEXTS[0]),
    Call("intersection"),
    Call("intersection", TEXTS[3]),
    Call("decode"),
    Call("decode", arguments={"top_k": 3}),
    Call("decode", TEXTS[3], {"top_k": 5}),
]


def answer(model: Any, call: Call) -> Answer:
    """What a call gives, on a SparseEncoder of either package."""
    before = {name: getattr(model, name) for name in call.settings}
    for name, value in call.settings.items():
        setattr(model, name, value)
    try:
        given = _given(model, call)
        # sentence-transformers loses half of the digits of distances near zero, but not of their squares.
        are_distances = call.method.startswith("similarity") and model.similarity_fn_name == "euclidean"
        return described(given**2 if are_distances else given)
    finally:
        for name, value in before.items():
            setattr(model, name, value)


def _given(model: Any, call: Call) -> Any:
    if call.method.startswith("encode"):
        return getattr(model, call.method)(call.inputs, **call.arguments)
    queries, documents = model.encode_query(call.inputs), model.encode_document(TEXTS)
    if call.method == "intersection":
        queries = model.encode_query(TEXTS[3])
        documents = model.encode_document(call.inputs)
    if call.method in {"sparsity", "decode"}:
        return getattr(model, call.method)(model.encode_document(call.inputs), **call.arguments)
    return getattr(model, call.method)(queries, documents, **call.arguments)


def described(given: Any) -> Answer:
    """An answer from vectors of any kind, from numbers by name, and from pairs of tokens and weights."""
    if isinstance(given, dict):
        return Answer([np.array(list(given.values()), np.float32)], list(given))
    if isinstance(given, list) and given and isinstance(given[0], list | tuple):
        return _decoded(given if isinstance(given[0], list) else [given])
    if isinstance(given, list):
        return Answer([_dense(item) for item in given], [])
    return Answer([_dense(given)], [])


def _decoded(rows: list[Any]) -> Answer:
    return Answer(
        [np.array([weight for _, weight in row], np.float32) for row in rows],
        [[token for token, _ in row] for row in rows],
    )


def _dense(value: Any) -> NDArray[np.float32]:
    """A dense array of a tensor, of sparse vectors, or of an array."""
    if hasattr(value, "detach"):
        value = value.to_dense()
    return np.asarray(value.to_dense() if hasattr(value, "to_dicts") else value, np.float32)


def save(name: str, answers: list[Answer]) -> None:
    """Writes what sentence-transformers gives for every call to a model."""
    REFERENCE.mkdir(exist_ok=True)
    shapes = [[list(array.shape) for array in one.arrays] for one in answers]
    values = np.concatenate([array.reshape(-1) for one in answers for array in one.arrays])
    places = np.flatnonzero(values)
    words = json.dumps([one.words for one in answers])
    np.savez_compressed(
        REFERENCE / f"{name}.npz", places=places, values=values[places], shapes=json.dumps(shapes), words=words
    )


def load(name: str) -> list[Answer]:
    """Reads what `save` wrote."""
    with np.load(REFERENCE / f"{name}.npz") as file:
        places, entries = file["places"], file["values"]
        shapes, words = json.loads(str(file["shapes"])), json.loads(str(file["words"]))
    values = np.zeros(sum(int(np.prod(shape)) for one in shapes for shape in one), np.float32)
    values[places] = entries
    answers, start = [], 0
    for one, said in zip(shapes, words, strict=True):
        arrays = []
        for shape in one:
            end = start + int(np.prod(shape))
            arrays.append(values[start:end].reshape(shape))
            start = end
        answers.append(Answer(arrays, said))
    return answers


def differences(found: Answer, wanted: Answer) -> str:
    """What differs, in a few words; empty if nothing does. No vectors have any width."""
    if found.words != wanted.words:
        return f"words {found.words!r:.200}, not {wanted.words!r:.200}"
    shapes = [[array.shape if array.size else () for array in one.arrays] for one in (found, wanted)]
    if shapes[0] != shapes[1]:
        return f"shapes {shapes[0]}, not {shapes[1]}"
    error = worst(found, wanted)
    return f"error {error:.1e}" if error > TOLERANCE else ""


def worst(found: Answer, wanted: Answer) -> float:
    """The largest error, in proportion to the largest number if that is above 1."""
    pairs = [(a, b) for a, b in zip(found.arrays, wanted.arrays, strict=True) if a.size and b.size]
    return max((float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in pairs), default=0.0)
