"""Encoders of a bulk job: texts to an Arrow array, with the tokens of each text. One class for each task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.bulk.arrow import pa
from embedrt.bulk.options import Meaning, ModelChoice
from embedrt.bundle.manifest import read_manifest
from embedrt.cross_encoder import CrossEncoder
from embedrt.embedder import Embedder
from embedrt.engine import Batch
from embedrt.errors import BulkError
from embedrt.hub.resolve import resolve
from embedrt.inputs.windows import Span, Windows, split
from embedrt.model import Model
from embedrt.multi_vector_encoder import MultiVectorEncoder
from embedrt.run.request import Gather, Request, Result
from embedrt.run.runner import Runner
from embedrt.sparse_encoder import SparseEncoder
from embedrt.tasks.call import Call, call_for, task_prompt
from embedrt.tasks.embed import request_of, truncate_and_normalize
from embedrt.tasks.long_texts import encode_windows
from embedrt.tasks.multi_vector import multi_vector_call
from embedrt.tasks.rerank import score_call, scores_of
from embedrt.tasks.sparse import encode_sparse
from embedrt.types import SENTENCE, TOKENS, Task
from embedrt.vectors.quantization import quantize_embeddings
from embedrt.vectors.sparse import bounds_of

Advance = Callable[[int, int], None]
"""Function that takes the numbers of texts and tokens of a batch that is done; threads call it at the same time."""

# Texts whose windows are held in memory at a time.
_SLICE = 1024


@dataclass(frozen=True, eq=False)
class Encoded:
    """The results of some texts.

    Attributes:
        column: An Arrow array with the result of each text, or of each window.
        tokens: The tokens that the model read of each text, or window, int32.
        truncated: True for each text that was truncated, or that no window has all of.
        counts: The windows of each text, int64; None if each text has one result.
        spans: The characters of each window, int32 `[windows, 2]`.
    """

    column: Any
    tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    counts: NDArray[np.int64] | None = None
    spans: NDArray[np.int32] | None = None


class Encoder(Protocol):
    """A model of some task, with the options of a job."""

    @property
    def model(self) -> Model:
        """The open model."""

    @property
    def type(self) -> Any:
        """The `pyarrow.DataType` of results."""

    @property
    def bytes_per_text(self) -> int:
        """About the bytes of a result, for the bound of memory."""

    def encode(self, texts: list[Any], advance: Advance) -> Encoded:
        """Encode texts, or pairs of texts.

        Args:
            texts: The texts.
            advance: Called as batches are done.

        Raises:
            NonFiniteError: The model returned NaN or infinity.
            InferenceError: The tokenizer failed on a text, or the engine.
        """

    def pack(self, column: Any) -> list[bytes]:
        """Results as bytes, for tables on disk."""

    def unpack(self, packed: Sequence[bytes]) -> Any:
        """Results from bytes, as an Arrow array."""


@dataclass(frozen=True)
class _Counting:
    """Collector of another collector's results, and of the tokens of each item.

    Attributes:
        gather: The other collector.
        advance: See `Encoder.encode`.
    """

    gather: Gather
    advance: Advance

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `Gather`."""
        return self.gather.outputs

    def start(self, count: int) -> tuple[Any, NDArray[np.int32]]:
        """See `Gather`."""
        return self.gather.start(count), np.zeros(count, np.int32)

    def keep(
        self,
        values: tuple[Any, NDArray[np.int32]],
        rows: NDArray[np.int64],
        batch: Batch,
        results: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """See `Gather`."""
        self.gather.keep(values[0], rows, batch, results)
        lengths = _lengths(batch)
        values[1][rows] = lengths
        self.advance(len(rows), int(lengths.sum()))


def _lengths(batch: Batch) -> NDArray[np.int64]:
    """The tokens of each row of a batch, without padding."""
    if batch.spans is not None:
        lengths: NDArray[np.int64] = batch.spans[:, 1] - batch.spans[:, 0]
        return lengths
    real = batch.feeds["attention_mask"] if batch.real is None else batch.real
    counted: NDArray[np.int64] = real.sum(axis=1, dtype=np.int64)
    return counted


def _run(
    runner: Runner, items: list[Any], request: Request, advance: Advance
) -> tuple[Result, NDArray[np.int32], NDArray[np.bool_]]:
    """Run a request: its result, the tokens of each item, and True for each that was truncated."""
    result = runner.run(items, replace(request, gather=_Counting(request.gather, advance)))
    values, tokens = result.values
    truncated = np.zeros(len(items), bool)
    truncated[result.truncated] = True
    return Result(values, result.truncated), tokens, truncated


def open_encoder(choice: ModelChoice, meaning: Meaning) -> Encoder:
    """Open the model of a job.

    Raises:
        BulkError: An option does not suit the model.
        ModelNotFoundError: The name leads to no bundle; the message has the command to run.
    """
    folder = resolve(choice.source, local_files_only=choice.local_files_only)
    task = read_manifest(folder).task
    _check(meaning, task)
    opened, encoder = _ENCODERS[task]
    model = opened(
        folder,
        device=choice.device,
        dtype=choice.dtype,
        threads=choice.threads,
        max_tokens=choice.max_tokens,
    )
    if choice.max_seq_length is not None:
        model.max_seq_length = choice.max_seq_length
    return encoder(model, meaning)


def _check(meaning: Meaning, task: Task) -> None:
    """Check that the options suit models of a task."""
    if task == "embed":
        return
    plain = Meaning()
    names = ["dim", "vector_type", "normalize"] if task != "multi-vector" else ["dim", "vector_type"]
    for name in names:
        if getattr(meaning, name) != getattr(plain, name):
            raise BulkError(f"{name}: only for models with one dense vector a text, got a model of the task {task!r}")
    if meaning.long_texts in {"mean", "chunks"}:
        raise BulkError(
            f"long_texts: expected 'truncate' or 'error' for a model of the task {task!r}, got {meaning.long_texts!r}"
        )
    if task == "score" and meaning.task is not None:
        raise BulkError("task: a reranker has no tasks; leave it out")


def _prompt_name(model: Model, meaning: Meaning) -> str | None:
    """The name of the prompt: the one that the user chose, or that of the task."""
    if meaning.task in {"query", "document"}:
        return task_prompt(model.prompts, meaning.task, meaning.prompt_name, meaning.prompt)
    return meaning.prompt_name


class DenseEncoder:
    """One vector a text.

    Args:
        model: The model.
        meaning: The options.

    Raises:
        BulkError: The vectors are to be stored in 8 bits, and the bundle has no ranges.
    """

    def __init__(self, model: Embedder, meaning: Meaning) -> None:
        self.model: Model = model
        self.long_texts = meaning.long_texts
        self.vector_type = meaning.vector_type
        self.call: Call = call_for(
            model,
            prompt_name=_prompt_name(model, meaning),
            prompt=meaning.prompt,
            precision="float32" if meaning.vector_type == "float16" else meaning.vector_type,
            normalize_embeddings=meaning.normalize,
            truncate_dim=meaning.dim,
            task=meaning.task,
        )
        if self.vector_type in {"int8", "uint8"} and self.call.ranges is None:
            raise BulkError(
                f"vector_type: {self.vector_type!r} needs the range of each coordinate; measure them with "
                f"`embedrt ranges {model.folder} --texts FILE`"
            )
        packed = self.vector_type in {"binary", "ubinary"}
        kind = {"binary": np.int8, "ubinary": np.uint8}.get(self.vector_type) or np.dtype(self.vector_type).type
        self.dtype = np.dtype(kind)
        self.width = -(-self.call.dim // 8) if packed else self.call.dim
        value = pa.from_numpy_dtype(self.dtype)
        self.fixed = pa.list_(value, self.width)
        self.type = self.fixed if meaning.fixed_size else pa.list_(value)

    @property
    def bytes_per_text(self) -> int:
        """See `Encoder`: the float32 vector, from which the others are made."""
        return 4 * self.call.dim

    @property
    def ranges(self) -> NDArray[Any] | None:
        """The ranges of int8 and uint8 vectors, `[2, dim]`."""
        return self.call.ranges

    def encode(self, texts: list[str], advance: Advance) -> Encoded:
        """See `Encoder`."""
        runner = self.model.runners[self.call.route]
        if self.long_texts == "chunks":
            return self._windows(runner, texts, advance)
        result, tokens, truncated = _run(runner, texts, request_of(self.call), advance)
        if self.long_texts == "mean" and result.truncated:
            long = sorted(result.truncated)
            items = [texts[i] for i in long]
            result.values[long] = encode_windows(runner, items, self.call, overlap=0, combine="mean")
            tokens[long] = runner.tokenizer(None)(items, self.call.prompt).lengths
            truncated[:] = False
        return Encoded(self._column(result.values), tokens, truncated)

    def _windows(self, runner: Runner, texts: list[str], advance: Advance) -> Encoded:
        """Encode every window of texts."""
        width = runner.widths[SENTENCE]
        request = request_of(replace(self.call, dim=width, normalize=False))
        whole, window = runner.tokenizer(None), runner.tokenizer(self.call.max_seq_length)
        columns, tokens, spans = [], [], []
        counts = np.zeros(len(texts), np.int64)
        for start in range(0, len(texts), _SLICE):
            found: Windows = split(
                texts[start : start + _SLICE], self.call.prompt, whole=whole, window=window, overlap=0
            )
            owners = [start + owner for owner in found.owners]
            values = runner.run(found.tokens, request, indexes=owners).values
            columns.append(self._column(truncate_and_normalize(values, self.call.dim, normalize=self.call.normalize)))
            tokens.append(found.tokens.lengths.astype(np.int32))
            spans += found.spans
            counts += np.bincount(owners, minlength=len(texts))
            advance(min(_SLICE, len(texts) - start), len(found.tokens.ids))
        return Encoded(
            pa.concat_arrays(columns) if columns else pa.array([], self.type),
            np.concatenate([np.zeros(0, np.int32), *tokens]),
            np.zeros(len(texts), bool),
            counts,
            _pairs(spans),
        )

    def _column(self, vectors: NDArray[np.float32]) -> Any:
        stored: NDArray[Any] = vectors
        if self.vector_type == "float16":
            with np.errstate(over="ignore"):
                stored = vectors.astype(np.float16)
            if not np.isfinite(stored).all():
                raise BulkError("vector_type: a coordinate is too large for 'float16'; use 'float32' or normalize")
        elif self.vector_type != "float32":
            stored = quantize_embeddings(vectors, self.vector_type, self.call.ranges)
        return self._array(stored)

    def _array(self, stored: NDArray[Any]) -> Any:
        flat = pa.array(np.ascontiguousarray(stored).reshape(-1))
        fixed = pa.FixedSizeListArray.from_arrays(flat, type=self.fixed)
        return fixed if self.type == self.fixed else fixed.cast(self.type)

    def pack(self, column: Any) -> list[bytes]:
        """See `Encoder`."""
        matrix = column.flatten().to_numpy().reshape(len(column), self.width)
        return [row.tobytes() for row in matrix]

    def unpack(self, packed: Sequence[bytes]) -> Any:
        """See `Encoder`."""
        return self._array(np.frombuffer(b"".join(packed), self.dtype).reshape(len(packed), self.width))


def _pairs(spans: Sequence[Span]) -> NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(spans), np.int32, 2 * len(spans)).reshape(len(spans), 2)


class ScoreEncoder:
    """The scores of a pair of texts: a number, or one for each label.

    Args:
        model: The model.
        meaning: The options.
    """

    def __init__(self, model: CrossEncoder, meaning: Meaning) -> None:
        self.model: Model = model
        self._activation = model.activation_fn
        self._prompts = {"prompt_name": meaning.prompt_name, "prompt": meaning.prompt}
        self.labels = model.num_labels
        self.type = pa.float32() if self.labels == 1 else pa.list_(pa.float32(), self.labels)
        if not meaning.fixed_size and self.labels > 1:
            self.type = pa.list_(pa.float32())

    @property
    def bytes_per_text(self) -> int:
        """See `Encoder`."""
        return 4 * self.labels

    def encode(self, texts: list[tuple[str, str]], advance: Advance) -> Encoded:
        """See `Encoder`."""
        call = score_call(
            self.model,
            texts,
            **self._prompts,
            batch_size=None,
            activation=self._activation,
            apply_softmax=False,
            on_truncation="ignore",
        )
        result, tokens, truncated = _run(self.model.runners[call.call.route], call.items, call.request, advance)
        return Encoded(self._array(scores_of(call, result)), tokens, truncated)

    def _array(self, scores: NDArray[np.float32]) -> Any:
        flat = pa.array(np.ascontiguousarray(scores, np.float32).reshape(-1))
        if self.labels == 1:
            return flat
        return pa.FixedSizeListArray.from_arrays(flat, self.labels).cast(self.type)

    def pack(self, column: Any) -> list[bytes]:
        """See `Encoder`."""
        flat = column if self.labels == 1 else column.flatten()
        return [row.tobytes() for row in flat.to_numpy().reshape(len(column), self.labels)]

    def unpack(self, packed: Sequence[bytes]) -> Any:
        """See `Encoder`."""
        return self._array(np.frombuffer(b"".join(packed), np.float32))


class SparseRowsEncoder:
    """A sparse vector a text: a struct of the coordinates and the values of its entries.

    Args:
        model: The model.
        meaning: The options.
    """

    def __init__(self, model: SparseEncoder, meaning: Meaning) -> None:
        self.model: Model = model
        self._limit = model.max_active_dims
        call = call_for(model, prompt_name=_prompt_name(model, meaning), prompt=meaning.prompt, task=meaning.task)
        self.call = replace(call, dim=model.get_embedding_dimension())
        self.type = pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))])

    @property
    def bytes_per_text(self) -> int:
        """See `Encoder`: a few hundred entries."""
        return 8 * 512

    def encode(self, texts: list[str], advance: Advance) -> Encoded:
        """See `Encoder`."""
        counted: list[Any] = []

        def run(items: list[str], request: Request) -> Result:
            result, *facts = _run(self.model.runners[self.call.route], items, request, advance)
            counted.extend(facts)
            return result

        vectors = encode_sparse(run, texts, self.call, self._limit).values
        return Encoded(self._array(vectors.indices, vectors.values, vectors.indptr), *counted)

    def _array(self, indices: NDArray[np.int32], values: NDArray[np.float32], bounds: NDArray[np.int64]) -> Any:
        offsets = pa.array(bounds.astype(np.int32))
        lists = [
            pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(entries))) for entries in (indices, values)
        ]
        return pa.StructArray.from_arrays(lists, fields=list(self.type))

    def pack(self, column: Any) -> list[bytes]:
        """See `Encoder`."""
        packed = []
        for row in range(len(column)):
            one = column[row]
            packed.append(b"".join(one[name].values.to_numpy().tobytes() for name in ("indices", "values")))
        return packed

    def unpack(self, packed: Sequence[bytes]) -> Any:
        """See `Encoder`."""
        entries = np.fromiter((len(one) // 8 for one in packed), np.int64, len(packed))
        half = [len(one) // 2 for one in packed]
        indices = b"".join(one[:middle] for one, middle in zip(packed, half, strict=True))
        values = b"".join(one[middle:] for one, middle in zip(packed, half, strict=True))
        return self._array(np.frombuffer(indices, np.int32), np.frombuffer(values, np.float32), bounds_of(entries))


class MultiVectorsEncoder:
    """A vector for each token of a text: a list of fixed-size lists.

    Args:
        model: The model.
        meaning: The options.
    """

    def __init__(self, model: MultiVectorEncoder, meaning: Meaning) -> None:
        self.model: Model = model
        self.call, self.request = multi_vector_call(
            model,
            prompt_name=_prompt_name(model, meaning),
            prompt=meaning.prompt,
            batch_size=None,
            output_value=TOKENS,
            normalize_embeddings=meaning.normalize,
            token_pooling=None,
            task=meaning.task,
            on_truncation="ignore",
        )
        self.fixed = pa.list_(pa.float32(), self.call.dim)
        self.type = pa.list_(self.fixed if meaning.fixed_size else pa.list_(pa.float32()))

    @property
    def bytes_per_text(self) -> int:
        """See `Encoder`: as many vectors as a text may have tokens, at most 256."""
        return 4 * self.call.dim * min(self.call.max_seq_length or 256, 256)

    def encode(self, texts: list[str], advance: Advance) -> Encoded:
        """See `Encoder`."""
        result, tokens, truncated = _run(self.model.runners[self.call.route], texts, self.request, advance)
        counts = np.fromiter(map(len, result.values), np.int64, len(texts))
        flat = np.concatenate([np.zeros((0, self.call.dim), np.float32), *result.values])
        return Encoded(self._array(flat, counts), tokens, truncated)

    def _array(self, vectors: NDArray[np.float32], counts: NDArray[np.int64]) -> Any:
        each = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=self.fixed)
        offsets = pa.array(bounds_of(counts).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, each.cast(self.type.value_type))

    def pack(self, column: Any) -> list[bytes]:
        """See `Encoder`."""
        return [column[row].values.flatten().to_numpy().tobytes() for row in range(len(column))]

    def unpack(self, packed: Sequence[bytes]) -> Any:
        """See `Encoder`."""
        counts = np.fromiter((len(one) // (4 * self.call.dim) for one in packed), np.int64, len(packed))
        return self._array(np.frombuffer(b"".join(packed), np.float32).reshape(-1, self.call.dim), counts)


_ENCODERS: dict[Task, tuple[Callable[..., Any], Callable[[Any, Meaning], Encoder]]] = {
    "embed": (Embedder, DenseEncoder),
    "score": (CrossEncoder, ScoreEncoder),
    "sparse": (SparseEncoder, SparseRowsEncoder),
    "multi-vector": (MultiVectorEncoder, MultiVectorsEncoder),
}
"""The public class and the encoder of each task."""
