"""Multi-vector embeddings: calls, and the vectors of a text's tokens that count."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Manifest, MultiVector
from embedrt.engine import Batch
from embedrt.inputs.expansion import ExpandedQueries
from embedrt.inputs.values import one_of, positive, shown, truth
from embedrt.run.request import Gather, Request
from embedrt.tasks.call import Call, prompt_for, route_for
from embedrt.types import MULTI_VECTOR, TOKENS, Features, OnTruncation, Vectors
from embedrt.vectors.arrays import SMALLEST_NORM
from embedrt.vectors.token_pooling import HierarchicalTokenPooling

_Results = Mapping[str, NDArray[np.float32]]
QUERY = "query"


class Model(Protocol):
    """The settings of a model that a call reads."""

    prompts: dict[str, str]
    default_prompt_name: str | None
    lengths: dict[str, int | None]

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""


@dataclass(frozen=True)
class Counted:
    """The tokens of a call whose vectors count.

    Attributes:
        start: Tokens at the start that do not count.
        skipped: Ids of tokens that do not count.
        kept: The only ids of tokens that count; None for all.
    """

    start: int = 0
    skipped: tuple[int, ...] = ()
    kept: tuple[int, ...] | None = None

    def of(self, batch: Batch) -> NDArray[np.bool_]:
        """True for every token of a batch that counts, in the layout of its token ids."""
        ids = batch.feeds["input_ids"]
        counted = np.ones(ids.shape, bool)
        if self.skipped:
            counted &= ~np.isin(ids, self.skipped)
        if self.kept is not None:
            counted &= np.isin(ids, self.kept)
        return counted


@dataclass(frozen=True)
class MultiVectors:
    """Collector of multi-vector embeddings: float32 `[vectors, dim]` per text.

    Attributes:
        counted: The tokens whose vectors count.
        poolings: Clusterings of the vectors, one after the other; None scales them to length 1.
    """

    counted: Counted
    poolings: tuple[HierarchicalTokenPooling | None, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return (MULTI_VECTOR,)

    def start(self, count: int) -> list[Vectors | None]:
        """See `Gather`."""
        return [None] * count

    def keep(self, values: list[Vectors], rows: NDArray[np.int64], batch: Batch, results: _Results) -> None:
        """See `Gather`."""
        counted = self.counted.of(batch)
        for i, row in enumerate(rows.tolist()):
            taken = batch.of_row(counted, i)[self.counted.start :]
            vectors = batch.of_row(results[MULTI_VECTOR], i)[self.counted.start :][taken]
            values[row] = _pooled(vectors, self.poolings)


@dataclass(frozen=True)
class MultiVectorFeatures:
    """Collector of all inputs of the graph and the vectors of all tokens: a dict of arrays per text.

    Attributes:
        counted: The tokens whose vectors count, which "attention_mask" has.
        poolings: Clusterings of the vectors, one after the other; then all that are left count.
    """

    counted: Counted
    poolings: tuple[HierarchicalTokenPooling, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return (MULTI_VECTOR,)

    def start(self, count: int) -> list[Features]:
        """See `Gather`."""
        return [{} for _ in range(count)]

    def keep(self, values: list[Features], rows: NDArray[np.int64], batch: Batch, results: _Results) -> None:
        """See `Gather`."""
        counted = self.counted.of(batch)
        for i, row in enumerate(rows.tolist()):
            mask = batch.of_row(counted, i)
            mask[: self.counted.start] = False
            vectors = batch.of_row(results[MULTI_VECTOR], i)
            if self.poolings:
                vectors = _pooled(vectors[mask], self.poolings)
                mask = np.ones(len(vectors), bool)
            ids = batch.of_row(batch.feeds["input_ids"], i).astype(np.int64)
            values[row] = {"input_ids": ids, "attention_mask": mask.astype(np.int64), TOKENS: vectors}


def _pooled(vectors: Vectors, poolings: Sequence[HierarchicalTokenPooling | None]) -> Vectors:
    for pooling in poolings:
        vectors = normalized(vectors) if pooling is None else pooling.pool_one(vectors)
    return vectors


def normalized(vectors: Vectors) -> Vectors:
    """Scale vectors to length 1."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), SMALLEST_NORM)
    return scaled


def multi_vector_call(
    model: Model,
    *,
    prompt_name: str | None,
    prompt: str | None,
    batch_size: int | None,
    output_value: str | None,
    normalize_embeddings: bool,
    token_pooling: HierarchicalTokenPooling | None,
    task: str | None,
    on_truncation: OnTruncation,
) -> tuple[Call, Request]:
    """Validate the arguments of an `encode` call, which `MultiVectorEncoder.encode` documents.

    Returns:
        The call, and the request that computes it.
    """
    if output_value not in (TOKENS, None):
        raise ValueError(f"output_value: expected {TOKENS!r} or None, got {shown(output_value)}")
    if not isinstance(token_pooling, HierarchicalTokenPooling | None):
        raise TypeError(f"token_pooling: expected a HierarchicalTokenPooling or None, got {shown(token_pooling)}")
    manifest = model.manifest
    route = route_for(manifest, task)
    settings = settings_of(manifest)
    expanded = task == QUERY and settings.expansion is not None
    call = Call(
        route=route,
        max_seq_length=_limit(settings, task, model.lengths[route]),
        prompt=prompt_for(model.prompts, model.default_prompt_name, prompt_name, prompt),
        batch_size=None if batch_size is None else positive(batch_size, "batch_size"),
        output_value=None if output_value is None else TOKENS,
        dim=manifest.width("multi-vector"),
        normalize=truth(normalize_embeddings, "normalize_embeddings"),
        precision="float32",
        ranges=None,
        on_truncation=one_of(on_truncation, OnTruncation, "on_truncation"),
    )
    request = Request(
        _gather(settings, call, token_pooling, task),
        call.max_seq_length,
        prompt=call.prompt,
        batch_size=call.batch_size,
        forbid_truncation=call.on_truncation == "error",
        reading=ExpandedQueries(settings.expansion) if expanded and settings.expansion is not None else None,
    )
    return call, request


def _gather(settings: MultiVector, call: Call, more: HierarchicalTokenPooling | None, task: str | None) -> Gather:
    counted, own = _counted(settings, task), settings.pooling
    given = (None if own is None else HierarchicalTokenPooling(**asdict(own)), more)
    before, after = ([step] if step is not None and step.applies_to(task) else [] for step in given)
    if call.output_value is None:
        return MultiVectorFeatures(counted, (*before, *after))
    return MultiVectors(counted, (*before, *([None] if call.normalize else []), *after))


def settings_of(manifest: Manifest) -> MultiVector:
    """The settings of a model's multi-vector embeddings."""
    return manifest.multi_vector or MultiVector()


def _limit(settings: MultiVector, task: str | None, general: int | None) -> int | None:
    """Maximum tokens of a text of a task."""
    expansion = settings.expansion
    if task == QUERY and expansion is not None:
        if expansion.strategy == "fixed":
            return expansion.length
        return general if settings.query_length is None else max(settings.query_length, expansion.length)
    own = {QUERY: settings.query_length, "document": settings.document_length}.get(task or "")
    return general if own is None else own


def _counted(settings: MultiVector, task: str | None) -> Counted:
    is_skipped = (task or "document") in settings.skipped_tasks
    return Counted(
        settings.skipped_start,
        settings.skipped_ids if is_skipped else (),
        None if task == QUERY else settings.kept_ids,
    )
