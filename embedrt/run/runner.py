"""`Runner`: one route of a bundle in this process: tokenize, plan, pad, run, gather."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Manifest, Route, Variant
from embedrt.bundle.opened import BundleFiles
from embedrt.engine import PER_TOKEN, Batch, Engine
from embedrt.engine.make import make_engine
from embedrt.engine.native import is_ending
from embedrt.engine.opening import open_engine
from embedrt.engine.placement import Placement
from embedrt.engine.session import Interface
from embedrt.engine.task import Task
from embedrt.errors import BundleError, EmbedrtError, NonFiniteError, OutOfMemory, TruncationError
from embedrt.inputs.check import preview
from embedrt.inputs.fit import require_fit
from embedrt.inputs.packing import packed_input_names
from embedrt.inputs.padding import input_names, pad
from embedrt.inputs.text import ItemTokenizer, Side, TextTokenizer, Tokens
from embedrt.run.batches import batch_tokens, make_batch
from embedrt.run.budget import Budget
from embedrt.run.coalescing import Coalescer
from embedrt.run.planning import PlannedBatch, padded_length, plan, plan_packed
from embedrt.run.request import Request, Result
from embedrt.run.threads import Team, ahead

# A slice is tokenized and planned at a time, and computed while the next one is tokenized. So many texts are enough for
# batches of similar lengths, and few enough to bound memory.
_SLICE = 2048
# A call of many texts starts with a slice of so many, and each slice has twice as many as the one before: the engine
# waits for the first one.
_FIRST_SLICE = 256
_MANY = 1024
# With a token budget above this one, slices have as many more texts, unless fewer fill several batches.
_SMALL_BUDGET = 4096
_FULL_BATCHES = 4
# Characters that are tokenized at a time: at least so many for each worker, and for each token of the budget. The
# tokenizer keeps some hundred bytes for each. Many cores work on a portion for longer than its hand-over takes.
_CHARACTERS_PER_WORKER, _CHARACTERS_PER_TOKEN = 1 << 13, 32
# A text takes at least one block of 256 tokens of the scratch memory; counted as a quarter, it is four budgets at most.
_SCRATCH_TOKENS = 64
# Cached tokenizers for lengths other than the route's own.
_OTHER_TOKENIZERS = 2


@dataclass(frozen=True)
class Work:
    """State shared by all batches of one run.

    Attributes:
        request: The options.
        indexes: The index of every item in the call, for messages.
        values: The result, which the batches fill.
        unpooled: Tokens at the start of each text that are not pooled.
        truncated: Indexes of the truncated texts so far.
    """

    request: Request
    indexes: Sequence[int]
    values: Any
    unpooled: int
    truncated: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some items of one run, as a part of a batch.

    Attributes:
        work: The run.
        tokens: Tokens of items of the run.
        start: The position of the first of these items in the run.
        rows: Indexes of the items in `tokens`.
    """

    work: Work
    tokens: Tokens
    start: int
    rows: NDArray[np.int64]

    @property
    def positions(self) -> NDArray[np.int64]:
        """The positions of the items in the run."""
        return self.rows + self.start


@dataclass(frozen=True)
class _Slice:
    """Items that are tokenized and planned together.

    Attributes:
        tokens: The token ids.
        start: The position of the first item in the run.
        batches: The planned batches.
        is_small: True if the slice has all items of the run, and they fit one batch or the token budget.
    """

    tokens: Tokens
    start: int
    batches: list[PlannedBatch]
    is_small: bool


class Runner:
    """Tokenizer and engine of one route. Safe to use from many threads at once.

    Args:
        files: The files of the bundle.
        route: The route in the manifest.
        manifest: The manifest.
        placement: The placement of the route.
        prepack: False keeps large weights memory-mapped, for an export in progress.

    Attributes:
        files: The files of the bundle.
        name: The model's name.
        task: The kind of model.
        widths: The expected width of graph outputs by name.

    Raises:
        BundleError: The tokenizer is damaged, or does not fit the manifest.
        DeviceError: The device is not available.
    """

    def __init__(
        self, files: BundleFiles, route: Route, manifest: Manifest, placement: Placement, *, prepack: bool = True
    ) -> None:
        self.files = files
        self.name = manifest.name
        self.task = manifest.task
        self.route = route
        self.placement = placement
        self.widths = output_widths(route)
        self.tokenize = self._load_tokenizer(route.max_seq_length)
        require_fit(self.folder, route, self.tokenize.backend)
        self._other_tokenizers: dict[tuple[int | None, Side], TextTokenizer] = {}
        self._loading = RLock()  # a signal handler may encode meanwhile
        variant = placement.variant
        self._packing = variant.packing
        inputs = input_names(route.tokenization) if variant.packing is None else packed_input_names(variant.packing)
        digest = graph_digest(manifest, variant)
        self.engine: Engine = make_engine(
            [replace(device, graph=digest, largest_pair=variant.largest_pair) for device in placement.devices],
            placement.threads,
            lambda device: open_engine(
                files.folder / variant.file,
                device,
                placement,
                interface=Interface(inputs, {name: output.width for name, output in route.outputs.items()}),
                weights_bytes=manifest.size_of(variant),
                prepack=prepack,
                load=lambda make: files.load(variant.files, lambda root: make(root / variant.file)),
            ),
        )
        self._budget = Budget(placement.max_tokens)
        self._coalescer = Coalescer(
            self.engine,
            route.tokenization,
            variant.packing,
            slots=2 * self.engine.workers,
            run_cost=self.engine.device.run_cost,
        )

    @property
    def folder(self) -> Path:
        """The bundle, for messages."""
        return self.files.folder

    def with_max_tokens(self, max_tokens: int) -> "Runner":
        """A copy of the runner with the same engine and another token budget."""
        other = copy(self)
        other.placement = replace(self.placement, max_tokens=max_tokens)
        other._budget = Budget(max_tokens)
        return other

    def with_max_seq_length(self, max_seq_length: int | None) -> "Runner":
        """Another runner with the same engine that truncates to another length by default."""
        other = copy(self)
        other.tokenize = self.tokenizer(max_seq_length)
        other.route = replace(self.route, max_seq_length=max_seq_length)
        return other

    def tokenizer(self, max_seq_length: int | None, side: Side | None = None) -> TextTokenizer:
        """The tokenizer that truncates to a given length on a given side; the last few are cached.

        Args:
            max_seq_length: Maximum tokens of a text; None truncates nothing.
            side: The side that is removed; None takes the tokenizer's.
        """
        side = side or self.tokenize.direction
        if (max_seq_length, side) == (self.route.max_seq_length, self.tokenize.direction):
            return self.tokenize
        with self._loading:
            others, key = self._other_tokenizers, (max_seq_length, side)
            if key not in others:
                loaded = self._load_tokenizer(max_seq_length, side)
                while len(others) >= _OTHER_TOKENIZERS:
                    del others[next(iter(others))]
                others[key] = loaded
            return others[key]

    def tokens(self, items: Sequence[Any], request: Request) -> Tokens:
        """The tokens of items as a request reads them."""
        tokenize = self._item_tokenizer(request)
        portions = tokenize.portions(items, request.prompt)
        parts = [tokenize.tokens(tokenize.encode(portion)) for portion in portions]
        return Tokens.joined(parts) if parts else self.tokenize([])

    def _item_tokenizer(self, request: Request) -> ItemTokenizer:
        tokenizer = self.tokenizer(request.max_seq_length, request.truncation_side)
        return tokenizer if request.reading is None else request.reading.of(tokenizer)

    def inputs(self, tokens: Tokens) -> dict[str, NDArray[np.int64]]:
        """The inputs of a padded graph for texts as one batch, int64 `[texts, longest]`."""
        return pad(tokens, np.arange(len(tokens)), int(tokens.lengths.max(initial=0)), self.route.tokenization)

    def run(
        self,
        items: Sequence[Any] | Tokens,
        request: Request,
        *,
        indexes: Sequence[int] | None = None,
        advance: Callable[[int], Any] = lambda _: None,
    ) -> Result:
        """Compute outputs of the graph for texts, or for token ids, and gather them.

        While batches run, the next texts are tokenized. A call that fits one batch runs in this thread, and may share
        a batch with small calls of other threads.

        Args:
            items: The texts, without the prompt; or token ids, with prompt and special tokens.
            request: The options.
            indexes: The index of every item in the call, for messages and `Result.truncated`; None counts from 0.
            advance: Called with the number of items whenever a batch is done.

        Raises:
            TruncationError: A text is truncated, and the request forbids that.
            NonFiniteError: The model returned NaN or infinity.
        """
        work = self.begin(items, request, indexes)
        with closing(self._slices(items, work)) as slices:
            for part in slices:
                if part.is_small or is_ending():  # other threads may be kept from native code by then
                    for planned in part.batches:
                        advance(self._compute(work, part, planned, shared=part.is_small))
                else:
                    self._overlap(work, chain([part], slices), advance)
        return Result(work.values, work.truncated)

    def run_in_one_batch(self, items: Sequence[Any], request: Request) -> Result:
        """Compute the items in one batch, padded to the longest, regardless of the token budget.

        It serves to check that vectors do not depend on the batch; `run` is always faster.
        """
        work = self.begin(items, request)
        tokens = self.tokens(items, request)
        planned = PlannedBatch(np.arange(len(tokens)), int(tokens.lengths.max(initial=0)))
        self._compute(work, _Slice(tokens, 0, [planned], is_small=True), planned, shared=True)
        return Result(work.values, tokens.truncated)

    def read(self, items: Sequence[Any] | Tokens, request: Request, most: int) -> Iterator[Tokens]:
        """Tokenize items lazily, at most `most` at a time, in this thread."""
        if isinstance(items, Tokens):
            yield items
            return
        tokenize = self._item_tokenizer(request)
        for portion in tokenize.portions(items, request.prompt, most=most):
            yield tokenize.tokens(tokenize.encode(portion))

    def compute(self, parts: Sequence[Rows], *, alone: bool) -> list[EmbedrtError | None]:
        """Compute items of several runs in one batch.

        If it fails, the runs are computed one by one, so that only the failing ones get the error.

        Args:
            parts: The items; all runs have the same graph outputs.
            alone: See `Batch`.

        Returns:
            The failure of each part, None for those that were computed.
        """
        try:
            batch, results = self._computed(parts, alone=alone)
        except EmbedrtError as error:
            if len(parts) == 1:
                return [self._recovered(parts[0], error)]
            if isinstance(error, OutOfMemory):
                lengths = np.concatenate([part.tokens.lengths[part.rows] for part in parts])
                tokens = int(lengths.sum() if self.is_packed else len(lengths) * lengths.max())
                self._budget.lower(max(tokens // 2, int(lengths.max())), self.engine.device.name)
            return [self.compute([part], alone=alone)[0] for part in parts]
        if len(parts) == 1:
            return [self._kept(parts[0], batch, results)]
        ends = np.cumsum([len(part.rows) for part in parts]).tolist()
        return [
            self._kept(part, batch.part(end - len(part.rows), end), batch.part_of(results, end - len(part.rows), end))
            for part, end in zip(parts, ends, strict=True)
        ]

    def _computed(self, parts: Sequence[Rows], *, alone: bool) -> tuple[Batch, Mapping[str, NDArray[Any]]]:
        tokens, rows = parts[0].tokens, parts[0].rows
        unpooled: int | NDArray[np.int64] = parts[0].work.unpooled
        if len(parts) > 1:
            tokens = Tokens.joined([part.tokens.take(part.rows) for part in parts])
            rows = np.arange(len(tokens))
            unpooled = np.repeat([part.work.unpooled for part in parts], [len(part.rows) for part in parts])
        longest = int(tokens.lengths[rows].max(initial=0))
        length = padded_length(longest, self.engine.device.length_step, self.route.position_limit)
        batch = make_batch(tokens, rows, length, self.route.tokenization, self._packing, unpooled, alone=alone)
        return batch, self.engine.run(batch, parts[0].work.request.gather.outputs)

    def _kept(self, part: Rows, batch: Batch, results: Mapping[str, NDArray[Any]]) -> EmbedrtError | None:
        try:
            self._check(batch, results, part.positions, part.work.indexes)
        except EmbedrtError as error:
            return error
        part.work.request.gather.keep(part.work.values, part.positions, batch, results)
        return None

    def _recovered(self, part: Rows, error: EmbedrtError) -> EmbedrtError | None:
        """Compute a part in halves if it did not fit into memory; return the failure, if it stays one."""
        if not isinstance(error, OutOfMemory):
            return error
        lengths = part.tokens.lengths[part.rows]
        if len(part.rows) == 1:
            return self._too_long(part.work.indexes[int(part.positions[0])], int(lengths[0]))
        tokens = batch_tokens(part.tokens, part.rows, int(lengths.max()), self._packing)
        self._budget.lower(max(tokens // 2, int(lengths.max())), self.engine.device.name)
        middle = len(part.rows) // 2
        failures = [
            self.compute([replace(part, rows=rows)], alone=False)[0]
            for rows in (part.rows[:middle], part.rows[middle:])
        ]
        return next((failure for failure in failures if failure is not None), None)

    def warm_up(self, items: Sequence[Any], request: Request) -> None:
        """Make the sessions of a batch that runs alone, and of batches side by side, by a run on each.

        Raises:
            EmbedrtError: A run failed.
        """
        tokens = self.tokens(items, request)
        for alone in (True, False):
            rows = Rows(self.begin(items, request), tokens, 0, np.arange(len(tokens)))
            (failure,) = self.compute([rows], alone=alone)
            if failure is not None:
                raise failure

    @property
    def token_budget(self) -> int:
        """Tokens of a batch, padding included."""
        return self._budget.tokens

    @property
    def is_packed(self) -> bool:
        """True if batches have no padding."""
        return self._packing is not None

    def begin(self, items: Sequence[Any] | Tokens, request: Request, indexes: Sequence[int] | None = None) -> Work:
        """Start a run, whose result the batches fill.

        Args:
            items: The items.
            request: The options.
            indexes: The index of every item in the call, for messages; None counts from 0.
        """
        prompt = request.prompt if self.route.tokenization.pooling_mask else ""
        return Work(
            request,
            range(len(items)) if indexes is None else indexes,
            request.gather.start(len(items)),
            self.tokenizer(request.max_seq_length).prompt_length(prompt) if prompt else 0,
        )

    def _slices(self, items: Sequence[Any] | Tokens, work: Work) -> Generator[_Slice]:
        """Tokenize and plan the items lazily, a slice at a time."""
        request, start = work.request, 0
        for tokens in self._tokenized(items, request):
            work.truncated.extend(work.indexes[start + i] for i in tokens.truncated)
            if request.forbid_truncation:
                require_untruncated(work.truncated, request.max_seq_length)
            is_last = start + len(tokens) == len(items)
            batches, planned = self._plan(tokens, request.batch_size, is_last=is_last)
            few = len(batches) == 1 or planned <= self._budget.tokens
            yield _Slice(tokens, start, batches, few and len(tokens) == len(items))
            start += len(tokens)

    def _plan(self, tokens: Tokens, max_rows: int | None, *, is_last: bool) -> tuple[list[PlannedBatch], int]:
        """The batches of a slice, and all their tokens, padding included."""
        budget = self._budget.tokens
        if self._packing is not None:
            least = 0 if self._packing.scratch is None else _SCRATCH_TOKENS
            batches = plan_packed(tokens.lengths, token_budget=budget, max_rows=max_rows, least=least)
            return batches, int(tokens.offsets[-1])
        batches = plan(
            tokens.lengths,
            token_budget=budget,
            max_rows=max_rows,
            run_cost=self.engine.device.run_cost,
            step=self.engine.device.length_step,
            limit=self.route.position_limit,
            workers=self.engine.workers if is_last and self.engine.device.parallel else 1,
        )
        return batches, sum(len(batch.rows) * batch.length for batch in batches)

    def _tokenized(self, items: Sequence[Any] | Tokens, request: Request) -> Iterator[Tokens]:
        """The tokens of a slice at a time; while it is handled, a thread tokenizes the next texts."""
        if isinstance(items, Tokens):
            yield items
            return
        budget = self._budget.tokens
        tokenize, scale = self._item_tokenizer(request), max(1, budget // _SMALL_BUDGET)
        most = _SLICE * scale
        size = min(_FIRST_SLICE, most) if scale == 1 and len(items) >= _MANY else most
        characters = max(_CHARACTERS_PER_WORKER * max(2, self.engine.workers), _CHARACTERS_PER_TOKEN * budget)
        portions = tokenize.portions(items, request.prompt, size=characters, most=most)
        parts: list[Tokens] = []
        for encoded in ahead(tokenize.encode, portions):
            parts.append(tokenize.tokens(encoded))
            texts, tokens = sum(map(len, parts)), sum(len(part.ids) for part in parts)
            if texts >= size or (texts >= _SLICE and tokens >= _FULL_BATCHES * budget):
                yield Tokens.joined(parts)
                parts.clear()
                size = min(2 * size, most)
        if parts:
            yield Tokens.joined(parts)

    def _overlap(self, work: Work, slices: Iterator[_Slice], advance: Callable[[int], Any]) -> None:
        """Compute batches on the engine's number of threads, while this thread tokenizes the next slice."""
        with Team(self.engine.workers) as team:
            running: list[Task[int]] = []
            for part in slices:
                started = [
                    team.start(partial(self._compute, work, part, planned, shared=False)) for planned in part.batches
                ]
                for task in running:
                    advance(task.result())
                running = started
            for task in running:
                advance(task.result())

    def _compute(self, work: Work, part: _Slice, planned: PlannedBatch, *, shared: bool) -> int:
        """Compute one batch, gather its outputs, and return its number of items.

        Args:
            work: The run.
            part: The slice of the batch.
            planned: The batch.
            shared: True if it may be joined with batches of other calls.
        """
        gather, tokens, rows, length = work.request.gather, part.tokens, planned.rows, planned.length
        size, budget = batch_tokens(tokens, rows, length, self._packing), self._budget.tokens
        if self._budget.is_lowered and size > budget and len(rows) > 1:  # planned before
            return sum(self._compute(work, part, half, shared=shared) for half in self._halves(part, planned))
        try:
            if shared:
                batch, results = self._coalescer.run(
                    tokens, rows, length, gather.outputs, unpooled=work.unpooled, max_tokens=budget
                )
            else:
                batch = make_batch(tokens, rows, length, self.route.tokenization, self._packing, work.unpooled)
                results = self.engine.run(batch, gather.outputs)
        except OutOfMemory as error:
            if len(rows) == 1:
                raise self._too_long(work.indexes[rows[0] + part.start], length) from error
        else:
            self._check(batch, results, rows + part.start, work.indexes)
            gather.keep(work.values, rows + part.start, batch, results)
            return len(rows)
        self._budget.lower(max(max(size, budget) // 2, length), self.engine.device.name)
        return sum(self._compute(work, part, half, shared=shared) for half in self._halves(part, planned))

    def _halves(self, part: _Slice, planned: PlannedBatch) -> list[PlannedBatch]:
        """Two batches with the rows of one that did not fit into memory."""
        step, limit = self.engine.device.length_step, self.route.position_limit
        middle = len(planned.rows) // 2
        return [
            PlannedBatch(rows, padded_length(int(part.tokens.lengths[rows].max()), step, limit))
            for rows in (planned.rows[:middle], planned.rows[middle:])
        ]

    def _too_long(self, index: int, length: int) -> OutOfMemory:
        return OutOfMemory(
            f"texts[{index}]: expected a text that fits into the memory of {self.engine.device.name!r}, got {length} "
            "tokens; use a smaller max_seq_length, free memory, or raise gpu_mem_limit if it is set"
        )

    def _check(
        self, batch: Batch, results: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], indexes: Sequence[int]
    ) -> None:
        for name, result in results.items():
            width = self.widths.get(name)
            if width is not None and result.shape != (len(rows), width):
                raise BundleError(
                    f"{self.folder}: expected vectors of shape [{width}] from the graph, got {list(result.shape[1:])}; "
                    "export the model again"
                )
            finite = np.isfinite(result).all(axis=tuple(range(1, result.ndim)))
            if batch.spans is not None and name in PER_TOKEN:
                finite = np.array([batch.of_row(finite, i).all() for i in range(len(rows))], bool)
            if not finite.all():
                bad = [indexes[row] for row in rows[~finite]]
                raise NonFiniteError(
                    f"{preview(bad)}: the model returned NaN or infinity ({self.engine.description}); "
                    f"check the model with `embedrt verify {self.folder}`"
                )

    def _load_tokenizer(self, max_seq_length: int | None, side: Side | None = None) -> TextTokenizer:
        name = self.route.tokenizer
        return self.files.load(
            [name],
            lambda root: TextTokenizer(
                self.folder / name,
                max_seq_length=max_seq_length,
                with_type_ids=self.route.tokenization.token_type_ids,
                direction=side,
                opened=root / name,
            ),
        )


def graph_digest(manifest: Manifest, variant: Variant) -> str:
    """SHA-256 over the files of a variant: the same for the same graph and weights, wherever they are."""
    return hashlib.sha256(" ".join(manifest.files[file].sha256 for file in variant.files).encode()).hexdigest()


def output_widths(route: Route) -> dict[str, int]:
    """The width of the graph outputs with one vector per item, by name."""
    return {name: output.width for name, output in route.outputs.items() if name not in PER_TOKEN}


def require_untruncated(truncated: list[int], limit: int | None) -> None:
    """Raise a `TruncationError` that names the truncated texts, if there are any."""
    if truncated:
        raise TruncationError(f"{preview(truncated)}: longer than the {limit} tokens that the model reads")
