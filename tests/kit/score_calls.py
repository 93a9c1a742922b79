"""Calls of CrossEncoder: the same arguments for embedrt and for sentence-transformers, and what they give."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.kit.score_models import CHAT

REFERENCE = Path(__file__).parents[1] / "reference" / "scoring"
TOLERANCE = 1e-5
QUERY = "two cats, a dog."
DOCUMENTS = [
    "the boat is on the river",
    "",
    "bank! money [SEP] two three; [PAD] un##able [CLS] texts",
    "the dog is not a cat, and one of them was at the boat ? for words in sentences are three tokens , " * 2,
    " one\ntwo  three ",
]
PAIRS: list[Any] = [
    *((QUERY, document) for document in DOCUMENTS),
    ["", "a cat"],
    ("", ""),
    (DOCUMENTS[3], "word"),
    (DOCUMENTS[3], DOCUMENTS[3] + "and two more"),
    ("ß я ж 千 里", "vector models"),
]


@dataclass(frozen=True)
class Call:
    """One call of a model.

    Attributes:
        method: The method.
        inputs: The arguments by position.
        arguments: Keyword arguments; "activation_fn" is the name of a class of torch.nn.
        settings: Attributes to set on the model for the call.
        fails: True if the call is an error.
    """

    method: str
    inputs: tuple[Any, ...] = (PAIRS,)
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    fails: bool = False

    def __str__(self) -> str:
        inputs = "" if self.inputs == (PAIRS,) else f" {self.inputs!r:.40}"
        return f"{self.method}{inputs} {json.dumps({**self.arguments, **self.settings})}"


CALLS = [
    Call("predict"),
    Call("predict", (PAIRS[0],)),
    Call("predict", (PAIRS[5],)),
    Call("predict", ([PAIRS[2]],)),
    Call("predict", ([],)),
    Call("predict", ([[QUERY, "a"], [QUERY, "b"]],), {"batch_size": 1, "apply_softmax": True}),
    Call("predict", arguments={"apply_softmax": True, "batch_size": 3}),
    Call("predict", arguments={"activation_fn": "Identity"}),
    Call("predict", arguments={"activation_fn": "Sigmoid", "apply_softmax": True, "prompt": "bank: "}),
    Call("predict", arguments={"activation_fn": "Softmax", "prompt": ""}),
    Call("predict", arguments={"activation_fn": "GELU", "batch_size": 2}),
    Call("predict", (PAIRS[0],), {"activation_fn": "Tanh", "apply_softmax": True}),
    Call("predict", arguments={"activation_fn": "LogSigmoid"}, settings={"max_seq_length": 17}),
    Call("predict", arguments={"activation_fn": "Identity", "prompt": "one "}, settings={"max_seq_length": 16}),
    Call("predict", arguments={"prompt_name": "query"}),
    Call("predict", (["a"],), fails=True),
    Call("predict", (["a", "b", "c"],), fails=True),
    Call("predict", ([("a", "b"), ("a", "b", "c")],), fails=True),
    Call("rank", (QUERY, DOCUMENTS)),
    Call("rank", (QUERY, DOCUMENTS), {"top_k": 2, "return_documents": True, "activation_fn": "Identity"}),
    Call("rank", (QUERY, DOCUMENTS), {"top_k": 0}),
    Call("rank", (QUERY, [])),
    Call("rank", ("the dog is not a cat", DOCUMENTS), {"prompt": "river ", "batch_size": 2}, {"max_seq_length": 40}),
]
LONE = Call("predict", ("a lone text",))
"""A call that models with a chat template refuse."""


def calls_of(model: str) -> list[Call]:
    """The calls of a model."""
    return CALLS if model in CHAT else [*CALLS, LONE]


@dataclass(frozen=True)
class Answer:
    """What a call gives.

    Attributes:
        kind: "array", "rank" or "error".
        shape: The shape of the array.
        dtype: Its dtype.
        order: The documents of a ranking, by index.
        texts: The documents of a ranking themselves, where asked for.
        values: The numbers.
    """

    kind: str
    shape: list[int] = field(default_factory=list)
    dtype: str = ""
    order: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    values: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


def answer(model: Any, call: Call, activation: Callable[[str], Any]) -> Answer:
    """What a call gives.

    Args:
        model: A CrossEncoder of either package.
        call: The call.
        activation: Makes the value of "activation_fn" from its name.
    """
    arguments = dict(call.arguments)
    if "activation_fn" in arguments:
        arguments["activation_fn"] = activation(arguments["activation_fn"])
    before = {name: getattr(model, name) for name in call.settings}
    try:
        for name, value in call.settings.items():
            setattr(model, name, value)
        given = getattr(model, call.method)(*call.inputs, show_progress_bar=False, **arguments)
    except Exception:  # noqa: BLE001 - that it fails is what is compared
        return Answer("error")
    finally:
        for name, value in before.items():
            setattr(model, name, value)
    if call.method == "rank":
        return Answer(
            "rank",
            order=[entry["corpus_id"] for entry in given],
            texts=[entry["text"] for entry in given if "text" in entry],
            values=np.array([entry["score"] for entry in given], np.float32),
        )
    array = np.asarray(given)
    return Answer("array", list(array.shape), str(array.dtype), values=array.reshape(-1).astype(np.float32))


def save(answers: dict[str, list[Answer]], made: dict[str, Any]) -> None:
    """Writes what sentence-transformers gives for every call of every model."""
    values = [one.values for of_model in answers.values() for one in of_model]
    np.savez_compressed(REFERENCE / "calls.npz", values=np.concatenate(values))
    described = {
        model: [
            {"call": str(call), **{key: value for key, value in vars(one).items() if key != "values" and value}}
            for call, one in zip(calls_of(model), of_model, strict=True)
        ]
        for model, of_model in answers.items()
    }
    lengths = {model: [len(one.values) for one in of_model] for model, of_model in answers.items()}
    content = {**made, "lengths": lengths, "answers": described}
    (REFERENCE / "calls.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def load() -> dict[str, list[tuple[str, Answer]]]:
    """Reads what `save` wrote: each call and its answer, by model."""
    content = json.loads((REFERENCE / "calls.json").read_bytes())
    with np.load(REFERENCE / "calls.npz") as file:
        values = file["values"]
    found: dict[str, list[tuple[str, Answer]]] = {}
    start = 0
    for model, of_model in content["answers"].items():
        found[model] = []
        for entry, length in zip(of_model, content["lengths"][model], strict=True):
            call = entry.pop("call")
            found[model].append((call, Answer(**entry, values=values[start : start + length])))
            start += length
    return found


def differences(found: Answer, wanted: Answer) -> str:
    """What differs, in a few words; empty if nothing does."""
    for name in ("kind", "shape", "dtype", "order", "texts"):
        if getattr(found, name) != getattr(wanted, name):
            return f"{name} {getattr(found, name)!r}, not {getattr(wanted, name)!r}"
    error = worst(found, wanted)
    return f"error {error:.1e}" if not error <= TOLERANCE else ""


def worst(found: Answer, wanted: Answer) -> float:
    """The largest error, in proportion to the largest number if that is above 1."""
    if not wanted.values.size or found.values.shape != wanted.values.shape:
        return 0.0
    return float(np.abs(found.values - wanted.values).max() / max(1.0, np.abs(wanted.values).max()))
