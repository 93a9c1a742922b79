"""Scores of pairs, and the order of documents by their scores for a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from embedrt.bundle.manifest import Manifest
from embedrt.inputs.check import check_texts
from embedrt.inputs.pairs import check_pairs
from embedrt.inputs.templates import reading_of
from embedrt.inputs.values import integer, one_of, positive, shown, truth
from embedrt.run.request import Reading, Request, Result
from embedrt.tasks.activations import Activation, Scores, activate, softmax
from embedrt.tasks.call import Call, prompt_for, route_for
from embedrt.tasks.graph_values import OutputRows
from embedrt.types import LOGITS, OnTruncation


class Settings(Protocol):
    """The settings of a model that a call reads."""

    prompts: dict[str, str]
    default_prompt_name: str | None
    lengths: dict[str, int | None]

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""


@dataclass(frozen=True)
class ScoreCall:
    """A validated `predict` call.

    Attributes:
        call: What all calls have.
        request: The request that computes the logits.
        items: The pairs; or one text, for a call with a lone text.
        single: True for one pair or text, not in a list.
        activation: The function that follows the logits.
        apply_softmax: True if the scores of several labels are scaled to add up to 1.
    """

    call: Call
    request: Request
    items: list[Any]
    single: bool
    activation: Activation
    apply_softmax: bool


def score_call(
    model: Settings,
    inputs: Any,
    *,
    prompt_name: str | None,
    prompt: str | None,
    batch_size: int | None,
    activation: Activation,
    apply_softmax: bool | None,
    on_truncation: OnTruncation,
) -> ScoreCall:
    """Validate the arguments of a `predict` call, which `CrossEncoder.predict` documents."""
    manifest = model.manifest
    name = route_for(manifest, None)
    route = manifest.routes[name]
    reading: Reading | None = reading_of(route)
    if isinstance(inputs, str):  # sentence-transformers scores a lone text as well
        if route.tokenization.template is not None:
            raise ValueError("inputs: expected a pair of texts, got one str; the model's template needs both")
        items, single, reading = check_texts(inputs, "inputs")[0], True, None
    else:
        items, single = check_pairs(inputs)  # type: ignore[assignment]
    labels = manifest.width("scores")
    call = Call(
        route=name,
        max_seq_length=model.lengths[name],
        prompt=prompt_for(model.prompts, model.default_prompt_name, prompt_name, prompt),
        batch_size=None if batch_size is None else positive(batch_size, "batch_size"),
        output_value=None,
        dim=labels,
        normalize=False,
        precision="float32",
        ranges=None,
        on_truncation=one_of(on_truncation, OnTruncation, "on_truncation"),
    )
    request = Request(
        OutputRows(LOGITS, labels),
        call.max_seq_length,
        prompt=call.prompt,
        batch_size=call.batch_size,
        forbid_truncation=call.on_truncation == "error",
        reading=reading,
    )
    with_softmax = False if apply_softmax is None else truth(apply_softmax, "apply_softmax")
    return ScoreCall(call, request, items, single, activation, with_softmax)


def scores_of(call: ScoreCall, result: Result) -> Scores:
    """The scores of a call, float32 `[pairs]`, or `[pairs, labels]` for several labels."""
    values: Scores = activate(result.values, call.activation)
    if call.call.dim == 1 and values.ndim > 1 and values.shape[-1] == 1:
        values = values[..., 0]
    return softmax(values) if call.apply_softmax and values.ndim > 1 else values


def check_rank(query: Any, documents: Any, top_k: Any) -> tuple[list[tuple[str, str]], int | None]:
    """Validate the arguments of a `rank` call: the pairs of query and document, and the number of results."""
    if not isinstance(query, str):
        raise TypeError(f"query: expected str, got {type(query).__name__}")
    if isinstance(documents, str):
        raise TypeError("documents: expected an ordered collection of str, got one str")
    count = None if top_k is None else integer(top_k)
    if top_k is not None and (count is None or count < 0):
        raise ValueError(f"top_k: expected 0 or more, or None, got {shown(top_k)}")
    checked = check_texts(query, "query")[0][0]
    return [(checked, document) for document in check_texts(documents, "documents")[0]], count


def ranked(scores: Scores, top_k: int | None, documents: Sequence[str] | None) -> list[dict[str, Any]]:
    """Order documents by their scores, the largest first; equal scores keep the order of the documents.

    Args:
        scores: One score for each document.
        top_k: The number of results; None gives all.
        documents: The documents, to be part of the result; None leaves them out.
    """
    order = np.argsort(-scores, kind="stable")[:top_k].tolist()
    values = scores.tolist()
    return [
        {"corpus_id": i, "score": values[i], **({} if documents is None else {"text": documents[i]})} for i in order
    ]
