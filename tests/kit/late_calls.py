"""Calls of MultiVectorEncoder: the same arguments for embedrt and for sentence-transformers, and what they give."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCE = Path(__file__).parents[1] / "reference" / "late"
TOLERANCE = 1e-5
TEXTS = [
    "the dog, the cat.",
    "",
    "bank",
    "river bank! money [SEP] two three; the dog is not a cat, and one of them was at the boat ? [Q] [unused0] dog",
]
Answer = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        method: The method; "similarity" and "similarity_pairwise" get the vectors of queries and documents.
        inputs: The texts, or one text.
        arguments: Keyword arguments; those of "token_pooling" make a HierarchicalTokenPooling.
        settings: Attributes to set on the model for the call.
    """

    method: str
    inputs: list[str] | str = field(default_factory=lambda: list(TEXTS))
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        inputs = "" if self.inputs == TEXTS else f" {self.inputs!r:.20}"
        return f"{self.method}{inputs} {json.dumps({**self.arguments, **self.settings})}"


_POOLED = {"pool_factor": 2.0, "num_protected_tokens": 0, "tasks": ["query", "document"]}
CALLS = [
    Call("encode"),
    Call("encode_query"),
    Call("encode_document"),
    Call("encode_query", TEXTS[0]),
    Call("encode_document", TEXTS[3]),
    Call("encode_query", []),
    Call("encode", arguments={"task": "query", "prompt_name": "document"}),
    Call("encode", arguments={"task": "document", "prompt": "bank: "}),
    Call("encode", arguments={"prompt_name": "query", "normalize_embeddings": True, "batch_size": 1}),
    Call("encode_query", arguments={"prompt": "", "batch_size": 2}),
    Call("encode_query", arguments={"token_pooling": _POOLED}),
    Call("encode_document", arguments={"token_pooling": {"pool_factor": 1.5, "normalize_embeddings": False}}),
    Call("encode_document", arguments={"token_pooling": _POOLED, "normalize_embeddings": True, "prompt": "the"}),
    Call("encode", TEXTS[0], {"token_pooling": {"pool_factor": 3, "num_protected_tokens": 2}}),
    Call("encode_query", arguments={"output_value": None}),
    Call("encode_document", TEXTS[3], {"output_value": None}),
    Call("encode_document", TEXTS[3], {"output_value": None, "token_pooling": {"pool_factor": 4}}),
    Call("encode_document", settings={"max_seq_length": 7}),
    Call("encode", settings={"max_seq_length": 7}),
    Call("similarity"),
    Call("similarity", arguments={"length_normalize": True, "chunk_elements": 100}),
    Call("similarity", settings={"similarity_fn_name": "meanmaxsim"}),
    Call("similarity_pairwise"),
    Call("similarity_pairwise", arguments={"length_normalize": False}, settings={"similarity_fn_name": "meanmaxsim"}),
]


def answer(model: Any, call: Call, pooling: Callable[..., Any]) -> Answer:
    """The arrays that a call gives.

    Args:
        model: A MultiVectorEncoder of either package.
        call: The call.
        pooling: The class HierarchicalTokenPooling of the same package.
    """
    before = {name: getattr(model, name) for name in call.settings}
    for name, value in call.settings.items():
        setattr(model, name, value)
    try:
        return arrays(_given(model, call, pooling))
    finally:
        for name, value in before.items():
            setattr(model, name, value)


def _given(model: Any, call: Call, pooling: Callable[..., Any]) -> Any:
    arguments = dict(call.arguments)
    if call.method.startswith("similarity"):
        queries = model.encode_query(call.inputs, convert_to_numpy=True)
        documents = model.encode_document(call.inputs[::-1], convert_to_numpy=True)
        return getattr(model, call.method)(queries, documents, **arguments)
    if "token_pooling" in arguments:
        arguments["token_pooling"] = pooling(**arguments["token_pooling"])
    return getattr(model, call.method)(call.inputs, convert_to_numpy=True, **arguments)


def arrays(given: Any) -> Answer:
    """What a call gives as a list of arrays; of a dict, the token ids, the mask and the vectors of real tokens."""
    if isinstance(given, dict):
        ids, mask, vectors = (np.asarray(given[name]) for name in ("input_ids", "attention_mask", "token_embeddings"))
        real = np.flatnonzero(mask)
        return [ids[: len(mask)][real].astype(np.float32), vectors[real].astype(np.float32)]
    if isinstance(given, list):
        return [array for item in given for array in arrays(item)]
    return [np.asarray(given, np.float32)]


def save(name: str, answers: list[Answer]) -> None:
    """Writes what sentence-transformers gives for every call to a model."""
    REFERENCE.mkdir(exist_ok=True)
    shapes = [[list(array.shape) for array in one] for one in answers]
    values = [array.reshape(-1) for one in answers for array in one]
    np.savez_compressed(REFERENCE / f"{name}.npz", values=np.concatenate(values), shapes=json.dumps(shapes))


def load(name: str) -> list[Answer]:
    """Reads what `save` wrote."""
    with np.load(REFERENCE / f"{name}.npz") as file:
        values, shapes = file["values"], json.loads(str(file["shapes"]))
    answers, start = [], 0
    for one in shapes:
        found = []
        for shape in one:
            end = start + int(np.prod(shape))
            found.append(values[start:end].reshape(shape))
            start = end
        answers.append(found)
    return answers


def differences(found: Answer, wanted: Answer) -> str:
    """What differs, in a few words; empty if nothing does."""
    if [array.shape for array in found] != [array.shape for array in wanted]:
        return f"shapes {[array.shape for array in found]}, not {[array.shape for array in wanted]}"
    error = worst(found, wanted)
    return f"error {error:.1e}" if error > TOLERANCE else ""


def worst(found: Answer, wanted: Answer) -> float:
    """The largest error, in proportion to the largest number if that is above 1."""
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if a.size]
    return max((float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in pairs), default=0.0)
