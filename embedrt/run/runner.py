"""`Runner`: one route of a bundle, from texts to vectors. Tokens -> plan -> run -> gather."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import FLOAT32, Manifest, Route, Tokenization
from embedrt.engine import Batch as EngineBatch
from embedrt.engine.devices import find_device
from embedrt.engine.int8_saturation import exact_config
from embedrt.engine.placement import choose_variant
from embedrt.engine.session import SessionEngine
from embedrt.errors import BundleError, NonFiniteError, TruncationError
from embedrt.inputs.text import TextTokenizer, Tokens, preview
from embedrt.run.coalescing import Coalescer
from embedrt.run.planning import Batch, pad, plan
from embedrt.types import Features, OutputValue, Vectors, dtype_name
from embedrt.vectors.arrays import SMALLEST_NORM

SENTENCE: OutputValue = "sentence_embedding"
TOKENS: OutputValue = "token_embeddings"

# Texts that are tokenized and sorted at a time: enough for batches of near-equal length, few enough for bounded memory.
_SLICE = 2048

# What takes the outputs of one batch: which texts it has, its inputs, its outputs by name.
_Keep = Callable[[NDArray[np.int64], dict[str, NDArray[np.int64]], dict[str, Vectors]], None]


@dataclass(frozen=True)
class Request:
    """What a call wants of a route, apart from the texts. Plain data, which also goes to other processes.

    Attributes:
        max_seq_length: Where texts are cut off; None is nowhere.
        dim: Coordinates of a sentence embedding to keep.
        prompt: Goes before every text.
        batch_size: Upper bound of texts in a batch.
        output_value: A sentence embedding for each text, its token embeddings, or with None all that the graph has.
        normalize_embeddings: Scale sentence embeddings to length 1, after truncation.
        refuse_truncation: Raise before the model runs on a text that is cut off.
    """

    max_seq_length: int | None
    dim: int
    prompt: str = ""
    batch_size: int = 32
    output_value: OutputValue | None = SENTENCE
    normalize_embeddings: bool = False
    refuse_truncation: bool = False


@dataclass(frozen=True)
class Answer:
    """What a route makes of the texts of a request.

    Attributes:
        values: float32 `[len(texts), dim]` for sentence embeddings; else for each text its arrays by name, unpadded.
        truncated: Indexes of the texts that were cut off.
    """

    values: Vectors | list[Features]
    truncated: list[int]


@dataclass(frozen=True)
class _Work:
    """What the batches of one call have in common.

    Attributes:
        indexes: The index of every text, for messages.
        keep: Takes their outputs.
        outputs: Which outputs of the graph.
        left_out: Tokens at the start of each text that are not pooled.
    """

    indexes: Sequence[int]
    keep: _Keep
    outputs: Sequence[str] = (SENTENCE,)
    left_out: int = 0


class Runner:
    """Tokenizer and engine of one route. Safe to use from many threads at once.

    Args:
        folder: The bundle.
        route: What the manifest says of the route.
        manifest: The whole manifest.
        device: As `Embedder` takes it.
        dtype: Which of the route's dtypes to run, or one that the device computes from another.
        threads: Processors to use; None takes what affinity and cgroup quota allow.
        max_tokens: Upper bound of a batch's rows x longest; None takes what suits the device.
        proving: For exporters, before they publish: large weights stay mapped.

    Raises:
        BundleError: The bundle is damaged, or lacks the dtype.
        DeviceError: The device is unknown or not available, or does not compute the dtype.
        ValueError: No such dtype.
    """

    def __init__(
        self,
        folder: Path,
        route: Route,
        manifest: Manifest,
        device: str | None = None,
        dtype: str = FLOAT32,
        threads: int | None = None,
        *,
        max_tokens: int | None = None,
        proving: bool = False,
    ) -> None:
        found = find_device(device)
        self.dtype = dtype_name(dtype)
        self.variant = variant = choose_variant(folder, route, found, dtype)
        if variant.dtype == "int8":
            exact_config()  # an error where int8 kernels saturate
        self.folder = folder.absolute()  # sessions are made on first use, and the working folder may change until then
        self.name = manifest.name
        self.route = route
        self.dim = manifest.dim
        self.tokenize = self._load_tokenizer(route.max_seq_length)
        self._other_tokenizers: dict[int | None, TextTokenizer] = {}
        self.engine = engine = SessionEngine(
            self.folder / variant.file,
            found,
            threads,
            dtype=self.dtype,
            weights_bytes=sum(manifest.files[file].size for file in variant.files),
            prepack=not proving,
        )
        self.max_tokens = self.engine.device.token_budget if max_tokens is None else max_tokens
        self._coalesce = Coalescer(
            # Not self, which would keep itself and its sessions alive.
            lambda feeds, alone: engine.run(EngineBatch(feeds, alone), (SENTENCE,))[SENTENCE],
            slots=2 * self.engine.workers,
            max_tokens=self.max_tokens,
            run_cost=self.engine.device.run_cost,
            fill={"input_ids": route.tokenization.pad_id},
            left=route.tokenization.padding_side == "left",
        )

    def tokenizer(self, max_seq_length: int | None) -> TextTokenizer:
        """The tokenizer that cuts off at another length than the route's own; the last few are kept."""
        if max_seq_length == self.route.max_seq_length:
            return self.tokenize
        others = self._other_tokenizers
        if max_seq_length not in others:
            kept = dict(list(others.items())[-1:])
            self._other_tokenizers = others = {**kept, max_seq_length: self._load_tokenizer(max_seq_length)}
        return others[max_seq_length]

    def encode(self, texts: list[str]) -> Vectors:
        """The vectors of the graph as it is, in planned batches: float32 `[len(texts), dim]`."""
        values: Any = self.answer(texts, Request(self.route.max_seq_length, self.dim)).values
        vectors: Vectors = values
        return vectors

    def encode_together(self, texts: list[str]) -> Vectors:
        """Encodes the texts as one single batch, padded to the longest, whatever memory that takes.

        This is for checks that a vector does not depend on its batch; `encode` is faster in every case.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        tokens = self.tokenize(texts)
        batch = Batch(tuple(range(len(texts))), max(map(len, tokens.ids)))
        self._run(_Work(range(len(texts)), _keep_vectors(vectors)), tokens, batch, alone=True)
        return vectors

    def inputs(self, tokens: Tokens) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs for texts as one batch, int64 `[texts, tokens of the longest]`."""
        longest = max(map(len, tokens.ids), default=0)
        return batch_feeds(self.route.tokenization, tokens, Batch(tuple(range(len(tokens.ids))), longest))

    def answer(
        self, texts: list[str], request: Request, *, first: int = 0, advance: Callable[[int], Any] = lambda _: None
    ) -> Answer:
        """Computes what the request asks for.

        Args:
            texts: The texts, without the prompt.
            request: What to compute.
            first: The index of the first text in the whole call, for messages and `Answer.truncated`.
            advance: Called with the number of texts whenever a batch is done.

        Raises:
            TruncationError: A text is cut off, and the request refuses that.
            NonFiniteError: The model returned NaN or infinity.
        """
        tokenize, prompt = self.tokenizer(request.max_seq_length), request.prompt
        slices = (
            tokenize([prompt + text for text in texts[start : start + _SLICE]])
            for start in range(0, len(texts), _SLICE)
        )
        return self._answer(slices, range(first, first + len(texts)), request, advance)

    def answer_tokens(self, tokens: Tokens, indexes: Sequence[int], request: Request) -> Answer:
        """The same for token ids; `indexes` are those of the texts that they are of."""
        return self._answer([tokens], indexes, request)

    def _answer(
        self,
        slices: Iterable[Tokens],
        indexes: Sequence[int],
        request: Request,
        advance: Callable[[int], Any] = lambda _: None,
    ) -> Answer:
        prompt = request.prompt if self.route.tokenization.pooling_mask else ""
        left_out = self.tokenizer(request.max_seq_length).prompt_length(prompt) if prompt else 0
        if request.output_value == SENTENCE:
            vectors = np.empty((len(indexes), request.dim), np.float32)
            keep = _keep_vectors(vectors, normalize=request.normalize_embeddings)
            truncated = self._compute(slices, request, _Work(indexes, keep, (SENTENCE,), left_out), advance)
            return Answer(vectors, truncated)
        features: list[Features] = [{} for _ in indexes]
        outputs = (TOKENS,) if request.output_value == TOKENS else (TOKENS, SENTENCE)

        def keep_features(
            rows: NDArray[np.int64], feeds: dict[str, NDArray[np.int64]], results: dict[str, Vectors]
        ) -> None:
            arrays: Features = {**results} if request.output_value == TOKENS else {**feeds, **results}
            for i, row in enumerate(rows):
                real = feeds["attention_mask"][i] == 1
                for name, array in arrays.items():
                    features[row][name] = array[i, : request.dim].copy() if name == SENTENCE else array[i, real]

        truncated = self._compute(slices, request, _Work(indexes, keep_features, outputs, left_out), advance)
        return Answer(features, truncated)

    def _compute(
        self, slices: Iterable[Tokens], request: Request, work: _Work, advance: Callable[[int], Any]
    ) -> list[int]:
        """Runs the graph over all slices; while the batches of one run, the next is tokenized.

        Returns:
            The indexes of the texts that were cut off.
        """
        truncated: list[int] = []
        start = 0
        with ThreadPoolExecutor(self.engine.workers, thread_name_prefix="embedrt") as pool:
            running: list[Future[int]] = []
            try:
                for tokens in slices:
                    truncated += (work.indexes[start + i] for i in tokens.truncated)
                    if request.refuse_truncation:
                        _require_whole(truncated, request.max_seq_length)
                    lengths = [len(ids) for ids in tokens.ids]
                    batches = plan(
                        lengths,
                        token_budget=self.max_tokens,
                        max_rows=request.batch_size,
                        run_cost=self.engine.device.run_cost,
                        step=self.engine.device.length_step,
                        limit=self.route.position_limit,
                    )
                    planned = sum(len(batch.rows) * batch.length for batch in batches)
                    few = len(batches) == 1 or planned <= self.max_tokens
                    if few and len(lengths) == len(work.indexes):
                        for batch in batches:
                            advance(self._run(work, tokens, batch, alone=True))
                        break
                    started = [pool.submit(self._run, work, tokens, batch, start) for batch in batches]
                    start += len(lengths)
                    for future in running:
                        advance(future.result())
                    running = started
                for future in running:
                    advance(future.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return truncated

    def _run(self, work: _Work, tokens: Tokens, batch: Batch, start: int = 0, *, alone: bool = False) -> int:
        """Computes one batch and hands it to `keep`; returns how many texts it has."""
        feeds = batch_feeds(self.route.tokenization, tokens, batch, work.left_out)
        if alone and work.outputs == (SENTENCE,):
            results: dict[str, Vectors] = {SENTENCE: self._coalesce(feeds)}
        else:
            results = self.engine.run(EngineBatch(feeds, alone), work.outputs)
        rows = np.asarray(batch.rows) + start
        for name, result in results.items():
            if name == SENTENCE and result.shape != (len(rows), self.dim):
                raise BundleError(
                    f"{self.folder}: the graph returns vectors of shape {list(result.shape[1:])}, the manifest says "
                    f"[{self.dim}]"
                )
            if not (finite := np.isfinite(result).all(axis=tuple(range(1, result.ndim)))).all():
                bad = [work.indexes[row] for row in rows[~finite]]
                raise NonFiniteError(
                    f"{preview(bad)}: the model returned NaN or infinity ({self.engine.description}); "
                    f"check the model with `embedrt verify {self.folder}`"
                )
        work.keep(rows, feeds, results)
        return len(rows)

    def _load_tokenizer(self, max_seq_length: int | None) -> TextTokenizer:
        return TextTokenizer(
            self.folder / self.route.tokenizer,
            max_seq_length=max_seq_length,
            with_type_ids=self.route.tokenization.token_type_ids,
        )


def _require_whole(truncated: list[int], limit: int | None) -> None:
    if truncated:
        raise TruncationError(f"{preview(truncated)}: longer than the {limit} tokens that the model reads")


def finished(vectors: Vectors, dim: int, *, normalize: bool) -> Vectors:
    """The graph's vectors as a call wants them: the first `dim` coordinates, scaled to length 1 if it says so."""
    values: Vectors = vectors[..., :dim]
    if normalize:
        values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), SMALLEST_NORM)
    return values


def _keep_vectors(vectors: Vectors, *, normalize: bool = False) -> _Keep:
    """Puts sentence embeddings into the rows of `vectors`, as many coordinates as these have."""

    def keep(rows: NDArray[np.int64], _: dict[str, NDArray[np.int64]], results: dict[str, Vectors]) -> None:
        vectors[rows] = finished(results[SENTENCE], vectors.shape[1], normalize=normalize)

    return keep


def batch_feeds(
    tokenization: Tokenization, tokens: Tokens, batch: Batch, left_out: int = 0
) -> dict[str, NDArray[np.int64]]:
    """The graph's inputs for one batch: int64 `[rows, longest]`, padded on the model's side.

    Args:
        tokenization: What the graph wants.
        tokens: The token ids.
        batch: Which of them.
        left_out: How many tokens at the start of each row are not pooled.
    """
    left = tokenization.padding_side == "left"
    ids = [tokens.ids[row] for row in batch.rows]
    feeds = {
        "input_ids": pad(ids, batch.length, fill=tokenization.pad_id, left=left),
        "attention_mask": pad([[1] * len(row) for row in ids], batch.length, fill=0, left=left),
    }
    if tokens.type_ids is not None:
        feeds["token_type_ids"] = pad([tokens.type_ids[row] for row in batch.rows], batch.length, fill=0, left=left)
    if tokenization.pooling_mask:
        pooled = [[int(i >= left_out) for i in range(len(row))] for row in ids]
        feeds["pooling_mask"] = pad(pooled, batch.length, fill=0, left=left)
    return feeds
